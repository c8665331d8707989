"""The weights that ship in the package load with no network, answer as they did, and are in the built wheel."""

import json
import socket
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from hatchling.builders.wheel import WheelBuilder

from unidual_zoo.models import dual_trunk, unidual
from unidual_zoo.weights import sha256_of

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((Path(__file__).parent / "shipped_logits.json").read_text())
SHIPPED = {name: row for name, row in (unidual.CHECKPOINTS | dual_trunk.CHECKPOINTS).items() if row.file}
LARGEST = 10 * 2**20


def answers(model: torch.nn.Module) -> dict[str, list[float]]:
    """First logits of a seeded image and a seeded clip."""
    random = torch.Generator().manual_seed(0)
    image, clip = torch.randn(1, 3, 64, 64, generator=random), torch.randn(1, 3, 8, 64, 64, generator=random)
    with torch.no_grad():
        return {"image": model(image)[0, :5].tolist(), "video": model(clip)[0, :5].tolist()}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights(name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", None)  # there is no network
    row = SHIPPED[name]
    assert row.path.stat().st_size <= LARGEST
    assert row.sha256 == sha256_of(row.path)
    model = timm.create_model(name, pretrained=True).eval()
    assert model.spec == row.spec.for_tasks(model.tasks)
    for modality, logits in answers(model).items():
        assert logits == pytest.approx(GOLDEN[name][modality], rel=1e-3, abs=1e-3)


def test_the_default_of_the_small_model_needs_no_tag():
    model = timm.create_model("unidual10_aux", pretrained=True)
    assert model.pretrained_cfg["tag"] == "cifar10_motion"
    assert model.pathway_tasks("image") == ("cifar10",)
    assert model.pathway_tasks("video") == ("cifar_motion",)


def test_the_built_wheel_holds_every_file_of_the_package(tmp_path):
    """With those whose names end in other than .py: weights, names of classes, pages."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for package in ("unidual_zoo", "unidual")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {row.path for row in SHIPPED.values()} <= {ROOT / name for name in files}
    with zipfile.ZipFile(wheel) as file:
        packed = {name: file.read(name) for name in file.namelist()}
    assert {name: content for name, content in packed.items() if ".dist-info/" not in name} == files
    (notice,) = (content for name, content in packed.items() if name.endswith(".dist-info/licenses/NOTICE"))
    assert b"EfficientNet-Lite0" in notice
