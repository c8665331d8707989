"""A family from outside the package passes what those in it pass, and its weights come from files of another format."""

import pytest
import timm
import torch
import torch.nn.functional as F
from models import tokennet
from models.base import FamilyTests
from models.small import TASKS, clips, close, images, make
from models.tokennet import THEIRS

from unidual_zoo.models.summary import summarise
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CheckpointError, KeyMap

SMALL = dict(width=16, depth=3, patch=8, num_frames=4, spec=InputSpec(resize=36, crop=(32, 32)))


class TestTokenNet(FamilyTests):
    family, small = tokennet.FAMILY, SMALL


# ---- the twin -------------------------------------------------------------------------------------------------------


def by_hand(weights: dict[str, torch.Tensor], x: torch.Tensor, pathway: str) -> torch.Tensor:
    """Mean token (B, D) of an image (B, C, H, W), or of a clip (B, C, T, H, W) on the video pathway."""

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def attend(x, name):  # two heads
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in linear(x, f"{name}.qkv").chunk(3, -1))
        shares = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return linear((shares @ v).transpose(1, 2).flatten(2), f"{name}.proj")

    frames = x[:, :, None] if x.ndim == 4 else x
    size = weights["embed.weight"].shape[-1]
    patches = frames.unfold(3, size, size).unfold(4, size, size)  # (B, C, T, h, w, size, size)
    tokens = torch.einsum("bcthwij,dcij->bthwd", patches, weights["embed.weight"]) + weights["embed.bias"]
    tokens = tokens + weights["position"][0].movedim(0, -1)
    if pathway == "video":
        tokens = tokens + weights["time.video.weight"][:, None, None]
    x = tokens.flatten(1, 3)
    for number in range(SMALL["depth"]):
        block = f"blocks.{number}"
        x = x + attend(norm(x, f"{block}.norm1"), f"{block}.attn")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return norm(x, f"norm.{pathway}").mean(1)


@pytest.mark.parametrize("pathway", ["image", "video"])
def test_it_computes_what_it_says(pathway):
    model = make("tokennet", SMALL)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x = images() if pathway == "image" else clips()
    features = model.forward_features(x)
    close(model.forward_head(features, pre_logits=True), by_hand(model.state_dict(), x, pathway))


def test_multiply_adds_by_hand():
    """16 patches of 3×16×16, width 64, 4 blocks; a clip has 8 times as many tokens, which all attend to each other."""
    counted = next(iter(summarise(["tokennet"]))).multiply_adds
    linear, attention = 64 * 3 * 16 * 16 + 4 * 12 * 64 * 64, 4 * 2 * 64  # of a token, and of a pair of tokens
    assert counted["image"] == 16 * linear + 16 * 16 * attention + 64 * 1000
    assert counted["video"] == 128 * linear + 128 * 128 * attention + 64 * 400


# ---- their weights --------------------------------------------------------------------------------------------------


def theirs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The image pathway of a network in the other code base's format."""
    return KeyMap(THEIRS, task="in1k").back({k: w for k, w in model.state_dict().items() if ".video." not in k})


def test_names_of_weights_there_and_back():
    model = make("tokennet", SMALL, pathways=["image"], tasks={"in1k": ("image", 7)})
    names = theirs(model)
    assert [*names][:4] == ["grid", "patches.weight", "patches.bias", "layers.1.ln1.weight"]
    assert names.keys().isdisjoint(model.state_dict())
    again = KeyMap(THEIRS, task="in1k").forward(names)
    assert again.keys() == model.state_dict().keys()
    assert all(again[key] is weight for key, weight in zip(again, names.values(), strict=True))


@pytest.fixture
def file(tmp_path):
    """Weights that another code base saved, and the network whose they are."""
    torch.manual_seed(1)
    model = make("tokennet", SMALL)
    torch.save(theirs(model), tmp_path / "theirs.pth")
    return model, tmp_path / "theirs.pth"


def load(name: str, path, **kwargs):
    return make(name, SMALL, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


def test_a_tag_takes_a_file_of_theirs(file):
    original, path = file
    model, x = load("tokennet.theirs_in1k", path), images()
    assert model.pathway_tasks("image") == ("in1k",)
    close(model(x), original(x), 0)
    features = model.forward_features(x, modality="video")  # equal frames, which nothing tells apart as yet
    assert features.shape == (2, 4, 16, 16)
    pooled = model.forward_head(features, pre_logits=True, modality="video")
    close(pooled, original.forward_head(original.forward_features(x), pre_logits=True))


def test_their_classifier_is_the_image_tasks_and_other_heads_are_fresh(file):
    original, path = file
    with pytest.warns(UserWarning, match=r"no weights for heads.video.k400 in the checkpoint: freshly"):
        model = load("tokennet.theirs_in1k", path, tasks={"k400": ("video", 6), "in1k": ("image", 1000)})
    close(model(x := images()), original(x), 0)
    with pytest.warns(UserWarning, match=r"no weights for heads.image.mine"):
        mine = load("tokennet.theirs_in1k", path, tasks={"mine": ("image", 1000)})
    assert not torch.equal(mine.heads["image"]["mine"].weight, original.heads["image"]["in1k"].weight)


def test_their_file_with_something_else_in_it_is_refused(file):
    _, path = file
    torch.save({**torch.load(path), "relative.bias": torch.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"theirs.pth: .* does not fit TokenNet: unknown: relative.bias"):
        load("tokennet.theirs_in1k", path)


def test_other_clips_have_the_embeddings_between():
    short = make("tokennet", SMALL, tasks=TASKS)
    long = make("tokennet", SMALL, tasks=TASKS, num_frames=7)
    weights = short.state_dict()
    weights["time.video.weight"] = torch.arange(4.0)[:, None].expand(4, 16)
    long.load_state_dict(long.adopt(weights))
    times = long.time["video"].weight[:, 0]
    assert times.tolist() == pytest.approx([0, 5 / 14, 13 / 14, 1.5, 29 / 14, 37 / 14, 3])


def test_a_recipe_stands_in_for_weights_that_are_not_there():
    with pytest.raises(CheckpointError, match="no published weights: `unidual train mini --set model=tokennet` makes"):
        timm.create_model("tokennet.in1k_k400", pretrained=True)
