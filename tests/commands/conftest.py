"""A tiny network and tiny files, as the commands take them."""

import pytest
import timm
import torch
from fakes import SIDE, grey_image, grey_video
from said import CLASSES, TASKS

from unidual_zoo.spec import ClipSpec, InputSpec


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny dual network in a folder, as `--model` takes it."""
    torch.manual_seed(0)
    spec = InputSpec(resize=SIDE, crop=(SIDE, SIDE), clip=ClipSpec(length=2), classes=CLASSES)
    network = timm.create_model("unidual10", tasks=TASKS, spec=spec, width=1 / 16)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return f"local-dir:{folder}"


@pytest.fixture
def files(tmp_path):
    """A folder with two videos and two images."""
    grey_video(tmp_path / "files/b.mp4", [1, 2, 3])
    grey_video(tmp_path / "files/deep/d.mkv", [0, 5], size=(48, 32))
    grey_image(tmp_path / "files/a.jpg", 3, size=(40, 36))
    grey_image(tmp_path / "files/c.png", 2)
    return tmp_path / "files"


@pytest.fixture
def data(tmp_path):
    """Folders split/class/file of both modalities."""
    for number, name in enumerate(CLASSES["acts"]):
        for copy in range(2):
            grey_video(tmp_path / f"acts/val/{name}/{copy}.mp4", [number, 3, copy])
    for number, name in enumerate(CLASSES["things"]):
        grey_image(tmp_path / f"things/test/{name}/0.png", number)
    (tmp_path / "acts/val/falling/torn.mp4").write_text("torn")
    return tmp_path
