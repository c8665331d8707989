"""torchvision's R(2+1)D and ours: the same weights by other names, there and back."""

import pytest
import timm
import torch
from models.reference import filled
from torchvision.models.video import r2plus1d_18

import unidual_zoo  # noqa: F401  (registers the models)
from unidual_zoo.models.unidual import from_video_resnet, to_video_resnet
from unidual_zoo.weights import fit_to_model

SOURCES = {
    "torchvision": lambda: r2plus1d_18(weights=None, num_classes=400),
    "basic": lambda: filled("34", width=1 / 16, depths=(2, 1, 1, 1)),
    "bottleneck": lambda: filled("152", width=1 / 16, depths=(2, 1, 1, 1)),
}
OURS = {
    "torchvision": lambda: timm.create_model("r2plus1d18"),
    "basic": lambda: timm.create_model("r2plus1d34", width=1 / 16, depths=(2, 1, 1, 1)),
    "bottleneck": lambda: timm.create_model("r2plus1d152", width=1 / 16, depths=(2, 1, 1, 1), pool=False),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_there_and_back_is_equal(kind):
    theirs = SOURCES[kind]().state_dict()
    ours = from_video_resnet(theirs, "k400")
    assert not ours.keys() & theirs.keys()
    again = to_video_resnet(ours, "k400")
    assert list(again) == list(theirs)
    assert all(torch.equal(again[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("kind", SOURCES)
def test_back_and_there_is_equal_and_gives_torchvisions_network(kind):
    ours = OURS[kind]()
    theirs = to_video_resnet(ours.state_dict(), "k400")
    network = SOURCES[kind]()
    network.load_state_dict(theirs)  # strictly: names and shapes
    again = from_video_resnet(theirs, "k400")
    assert again.keys() == ours.state_dict().keys()
    assert all(torch.equal(again[key], value) for key, value in ours.state_dict().items())
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), ours.eval()(x), rtol=1e-4, atol=1e-5)


def test_names_and_shapes_by_hand():
    theirs = {
        "stem.0.weight": torch.zeros(45, 3, 1, 7, 7),
        "stem.3.weight": torch.zeros(64, 45, 3, 1, 1),
        "layer2.0.conv1.0.0.weight": torch.zeros(5, 4, 1, 3, 3),
        "layer2.0.conv1.0.3.weight": torch.zeros(6, 5, 3, 1, 1),
        "layer4.2.conv2.1.running_var": torch.zeros(6),
        "layer3.0.downsample.0.weight": torch.zeros(6, 4, 1, 1, 1),
        "fc.weight": torch.zeros(12, 6),
    }
    assert {key: tuple(value.shape) for key, value in from_video_resnet(theirs, "mine").items()} == {
        "stem.spatial.weight": (45, 3, 7, 7),
        "stem.pointwise.video.weight": (64, 45, 3, 1),
        "stages.1.0.conv1.spatial.weight": (5, 4, 3, 3),
        "stages.1.0.conv1.pointwise.video.weight": (6, 5, 3, 1),
        "stages.3.2.conv2.norm.video.running_var": (6,),
        "stages.2.0.shortcut.conv.weight": (6, 4, 1, 1),
        "heads.video.mine.weight": (12, 6),
    }


def test_what_is_unknown_keeps_name_and_shape_and_the_fit_names_it():
    strange = {"layer1.0.se.fc1.weight": torch.ones(2, 3, 1, 1, 1), "layer5.0.conv1.0.0.weight": torch.ones(1)}
    theirs = {**SOURCES["basic"]().state_dict(), **strange}
    ours = from_video_resnet(theirs, "k400")
    assert ours["layer1.0.se.fc1.weight"] is strange["layer1.0.se.fc1.weight"]
    with pytest.raises(RuntimeError, match=r"unknown: layer1.0.se.fc1.weight, stages.4.0.conv1.spatial.weight$"):
        fit_to_model(ours, OURS["basic"]())
    assert to_video_resnet(ours, "k400").keys() == theirs.keys()
    other = to_video_resnet({"heads.video.other.weight": torch.ones(1)}, "k400")
    assert list(other) == ["heads.video.other.weight"]
