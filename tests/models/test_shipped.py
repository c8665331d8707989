"""The weights that ship in the package load with no network, also from the built wheel, and answer as they did."""

import json
import os
import subprocess
import sys
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
def test_shipped_weights(name):
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


def test_loads_from_the_built_wheel(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    code = (
        "import timm, unidual_zoo; m = timm.create_model('unidual_efficientnet_lite0', pretrained=True);"
        "print(unidual_zoo.__file__, len(m.spec.class_names('in1k')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [str(tmp_path / "installed/unidual_zoo/__init__.py"), "1000"]
    (licenses,) = (tmp_path / "installed").glob("*.dist-info/licenses")
    assert "EfficientNet-Lite0" in (licenses / "NOTICE").read_text()
