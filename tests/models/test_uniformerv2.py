"""UniFormerV2, and other video networks on CLIP: the outputs of their authors' code from the same weights."""

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import clips, close, images
from torch import Tensor

from unidual_zoo.models import dual_trunk, uniformerv2
from unidual_zoo.models.rows.kinetics import UNIFORMER_ORDER
from unidual_zoo.models.rows.uniformerv2 import CHECKPOINTS, DATA, TASKS
from unidual_zoo.scoring import PROTOCOLS
from unidual_zoo.spec import packaged_classes
from unidual_zoo.weights import CheckpointError, cached_from_hub

GOLDEN = json.loads((Path(__file__).parent / "uniformerv2_logits.json").read_text())
SIDE, PATCH, WIDTH, HEADS, DEPTH, CLASSES = 32, 8, 48, 3, 4, 6
TRUNK = dict(patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
BASE, LARGE = "uniformerv2_base_patch16_224", "uniformerv2_large_patch14_336"
K400, SSV2 = {"tasks": {"k400": ("video", CLASSES)}}, {"tasks": {"ssv2": ("video", CLASSES)}}


class TestUniFormerV2(FamilyTests):
    family, names = uniformerv2.FAMILY, (BASE,)
    rows = (f"{BASE}.mm_clip_k400_8f", f"{BASE}.ssv2_16f", f"{LARGE}.frozen_k400_8f")
    small: ClassVar = dict(
        trunk="test_vit", trunk_args=dict(depth=3), num_frames=4, operator="local_mhra", per_block=2, global_blocks=2,
        temporal_downsample=True,
    )  # fmt: skip


# ---- weights by the names of others ---------------------------------------------------------------------------------


def clip_shapes() -> dict[str, tuple[int, ...]]:
    """CLIP's vision transformer without its last norm."""
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (WIDTH,), "positional_embedding": ((SIDE // PATCH) ** 2 + 1, WIDTH),
        **norm("ln_pre"), "conv1.weight": (WIDTH, 3, PATCH, PATCH),
    }  # fmt: skip
    for i in range(DEPTH):
        block = f"transformer.resblocks.{i}."
        shapes |= attention(f"{block}attn") | norm(f"{block}ln_1") | norm(f"{block}ln_2") | mlp(f"{block}mlp")
    return shapes


def norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def attention(name: str) -> dict[str, tuple[int, ...]]:
    projected = {f"{name}.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.in_proj_bias": (3 * WIDTH,)}
    return projected | layer(f"{name}.out_proj", WIDTH, WIDTH)


def mlp(name: str) -> dict[str, tuple[int, ...]]:
    return layer(f"{name}.c_fc", 4 * WIDTH, WIDTH) | layer(f"{name}.c_proj", WIDTH, 4 * WIDTH)


def uniformer_shapes(*, local: int = 0, taps: int = 1, frozen: bool = False, classes: int = CLASSES, mm: bool = False):
    """UniFormerV2 with global blocks at the last two, `local` blocks in each, `taps` frames in a patch."""
    shapes = clip_shapes() | {"conv1.weight": (WIDTH, 3, taps, PATCH, PATCH)}
    for i in range(DEPTH):
        for number in range(1, local + 1):
            name, inner = f"transformer.resblocks.{i}.lmhra{number}.pos_embed", int(WIDTH / 1.5)
            shapes |= norm(f"{name}.0") | dict.fromkeys((f"{name}.0.running_mean", f"{name}.0.running_var"), (WIDTH,))
            shapes |= {f"{name}.0.num_batches_tracked": ()} | layer(f"{name}.1", inner, WIDTH, 1, 1, 1)
            shapes |= layer(f"{name}.2", inner, 1, 3, 1, 1) | layer(f"{name}.3", WIDTH, inner, 1, 1, 1)
    shapes |= {"transformer.temporal_cls_token": (1, 1, WIDTH)}
    shapes |= {} if frozen else {"transformer.balance": (WIDTH,)}
    for j in range(2):
        name = f"transformer.dec.{j}"
        shapes |= layer(f"transformer.dpe.{j}", WIDTH, 1, 3, 3, 3) | attention(f"{name}.attn") | mlp(f"{name}.mlp")
        shapes |= norm(f"{name}.ln_1") | norm(f"{name}.ln_2") | norm(f"{name}.ln_3")
    if mm:
        backbone = {f"backbone.{key}": shape for key, shape in (shapes | norm("transformer.norm")).items()}
        return backbone | layer("cls_head.fc_cls", classes, WIDTH)
    return shapes | norm("transformer.proj.0") | layer("transformer.proj.2", classes, WIDTH)


def st_adapter_shapes(*places: str) -> dict[str, tuple[int, ...]]:
    shapes = clip_shapes() | norm("ln_post") | layer("fc", CLASSES, WIDTH)
    for name in (f"transformer.resblocks.{i}.adapter_pre_{place}" for i in range(DEPTH) for place in places):
        inner = WIDTH // 2
        shapes |= layer(f"{name}.fc1", inner, WIDTH) | layer(f"{name}.conv", inner, 1, 3, 1, 1)
        shapes |= layer(f"{name}.fc2", WIDTH, inner)
    return shapes


def seeded(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights with which no part of a network is without effect."""
    rng, weights = np.random.default_rng(7), {}
    for name in sorted(shapes):
        values = rng.standard_normal(shapes[name])
        if name.endswith("running_var"):
            values = 0.5 + values**2
        elif len(shapes[name]) > 1 and "embedding" not in name and "token" not in name:
            values = values / math.sqrt(math.prod(shapes[name][1:]))
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        weights[name] = torch.tensor(values).float()
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(3)
    return weights


def seeded_clips(frames: int) -> Tensor:
    return torch.tensor(np.random.default_rng(11).standard_normal((2, 3, frames, SIDE, SIDE))).float()


SMALL: dict[str, Any] = dict(img_size=SIDE, trunk_args=TRUNK, global_blocks=2, num_frames=4) | K400
ST: dict[str, Any] = SMALL | dict(global_blocks=0)
ST_NAME, FROZEN_NAME = (
    "unidual_vit_base_patch16_clip_224.st_adapter_",
    "unidual_vit_large_patch14_clip_336.uniformerv2_",
)
CASES = {  # what the file has, the tag that reads it, what makes that small, frames
    "global": (uniformer_shapes(), f"{BASE}.mm_clip_k400_8f", SMALL, 4),
    "one_frame": (uniformer_shapes(), f"{BASE}.k400_8f", SMALL, 1),
    "local": (uniformer_shapes(local=2, taps=3), f"{BASE}.ssv2_16f", SMALL | SSV2, 4),
    "single_local": (
        uniformer_shapes(local=1), f"{BASE}.ssv2_16f", SMALL | SSV2 | dict(per_block=1, temporal_downsample=False), 4
    ),
    "frozen": (uniformer_shapes(frozen=True), f"{LARGE}.frozen_k400_8f", SMALL, 4),
    "frozen_dual": (uniformer_shapes(frozen=True), f"{FROZEN_NAME}frozen_k400_8f", SMALL, 4),
    "mmaction": (uniformer_shapes(mm=True), f"{BASE}.k400_8f", SMALL, 4),
    "st_adapter": (st_adapter_shapes("mlp"), f"{ST_NAME}k400_8f", ST, 4),
    "st_adapter_2": (st_adapter_shapes("attn", "mlp"), f"{ST_NAME}ssv2_8f", ST | SSV2, 4),
}  # fmt: skip


def load(weights: dict[str, Tensor], name: str, **kwargs: Any) -> Any:
    """Our network with the weights of others, which have to fit in every name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights), **kwargs
        ).eval()


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_the_authors_code_gives(case):
    shapes, name, arguments, frames = CASES[case]
    weights = seeded(shapes)
    close(load(weights, name, **arguments)(seeded_clips(frames)), torch.tensor(GOLDEN[case]), 1e-5)
    lacking = weights.copy()
    del lacking[max(key for key in weights if "resblocks.3" in key and "mlp.c_fc" in key)]
    with pytest.raises(CheckpointError, match=r"missing: trunk.blocks.3.mlp.fc1.weight"):
        load(lacking, name, **arguments)


@torch.no_grad()
def test_a_prefix_or_none():
    shapes, name, arguments, frames = CASES["global"]
    weights = {f"backbone.{key}": value for key, value in seeded(shapes).items()}
    close(load(weights, name, **arguments)(seeded_clips(frames)), torch.tensor(GOLDEN["global"]), 1e-5)


# ---- images ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_image_is_a_clip_of_one_frame():
    shapes, name, arguments, _ = CASES["one_frame"]
    x = seeded_clips(1)
    close(load(seeded(shapes), name, **arguments)(x[:, :, 0]), torch.tensor(GOLDEN["one_frame"]), 1e-5)
    shapes, name, arguments, _ = CASES["local"]  # where two frames are the least that upstream takes
    model = load(seeded(shapes), name, **arguments)
    for short in (x, x[:, :, 0]):
        close(model(short), model(x.expand(-1, -1, 2, -1, -1)), 1e-6)
    assert model.forward_features(clips(frames=5)).shape[1] == 3  # of the frames around 0, 2 and 4
    assert model(images(size=SIDE)).shape == (2, CLASSES)


@torch.no_grad()
def test_images_take_the_trunk_of_a_frozen_network_and_clips_all_of_it():
    shapes, name, arguments, frames = CASES["frozen_dual"]
    weights = seeded(shapes)
    model = load(weights, name, **arguments)
    other = load(weights, f"{LARGE}.frozen_k400_8f", **arguments, pathways=("image", "video"))
    trunk = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, img_size=SIDE, **TRUNK).eval()
    theirs = {"visual." + key: value for key, value in weights.items() if ".dpe" not in key and ".dec" not in key}
    theirs["visual.conv1.weight"] = theirs["visual.conv1.weight"][:, :, 0]
    kept = timm.models.vision_transformer._convert_openai_clip(theirs, trunk)
    trunk.load_state_dict({key: kept.get(key, value) for key, value in trunk.state_dict().items()})  # a plain last norm
    x = images(size=SIDE)
    assert torch.equal(model(x), trunk(x))
    assert torch.equal(other(x), trunk(x))
    close(other(seeded_clips(frames)), torch.tensor(GOLDEN["frozen"]), 1e-5)
    assert (model.pathway_tasks("image"), model.pathway_tasks("video")) == ((), ("k400",))


@torch.no_grad()
def test_a_trunk_that_is_said_to_be_clips_is_compared_with_it(monkeypatch, tmp_path):
    shapes, name, arguments, _ = CASES["frozen"]
    weights = seeded(shapes)
    trunk = {key.removeprefix("trunk."): value for key, value in load(weights, name, **arguments).state_dict().items()}
    asked = []

    def cached(repository):
        asked.append(repository)
        return tmp_path / "clip.pth"

    monkeypatch.setattr(dual_trunk, "cached_from_hub", cached)
    torch.save(
        {
            **trunk,
            **dict.fromkeys(("norm.weight", "norm.bias"), torch.zeros(WIDTH)),
            "head.weight": torch.zeros(768, WIDTH),
        },
        cached(""),
    )
    load(weights, name, **arguments)
    assert asked[-1] == "timm/vit_large_patch14_clip_336.openai"
    weights["transformer.resblocks.1.ln_2.bias"][3] += 1e-6
    with pytest.raises(UserWarning, match=r"the trunk is not CLIP's, it differs in trunk\.blocks\.1\.norm2\.bias$"):
        load(weights, name, **arguments)


def test_nothing_is_downloaded_for_a_comparison():
    assert cached_from_hub("timm/no-such-repository") is None


@torch.no_grad()
def test_adapters_without_a_trunk_are_put_on_clips(monkeypatch, tmp_path):
    shapes, name, arguments, frames = CASES["st_adapter"]
    weights = seeded(shapes)
    model = load(weights, name, **arguments)
    clip = {key.removeprefix("trunk."): value for key, value in model.state_dict().items()}
    torch.save({**clip, "head.weight": torch.zeros(512, WIDTH)}, tmp_path / "clip.pth")

    def fetch(repository):
        assert repository == "timm/vit_base_patch16_clip_224.openai"
        return tmp_path / "clip.pth"

    monkeypatch.setattr(dual_trunk, "fetch_from_hub", fetch)
    alone = {key: value for key, value in weights.items() if "adapter" in key or key.startswith("fc.")}
    close(load(alone, name, **arguments)(seeded_clips(frames)), torch.tensor(GOLDEN["st_adapter"]), 1e-5)


# ---- the classes of Kinetics ----------------------------------------------------------------------------------------


def test_the_order_of_uniformers_classes():
    names = packaged_classes("kinetics400")
    theirs = {number: name for name, number in zip(names, UNIFORMER_ORDER, strict=True)}
    assert sorted(theirs) == list(range(400))
    first = ["riding a bike", "marching", "dodgeball", "playing cymbals", "checking tires", "roller skating"]
    assert [theirs[number] for number in range(6)] == first
    assert theirs[399] == "playing badminton"


@pytest.mark.parametrize("mm", [False, True])
@pytest.mark.parametrize(
    ("classes", "tag", "task"), [(400, "k400_8f", "k400"), (710, "k710_8f", "k400"), (710, "k710_8f", "k710")]
)
def test_heads_of_kinetics_have_one_order(mm, classes, tag, task):
    weights = seeded(uniformer_shapes(mm=mm, classes=classes))
    head = next(key for key in weights if key.endswith(("proj.2.bias", "fc_cls.bias")))
    weights[head] = torch.arange(float(classes))
    arguments = SMALL | dict(tasks={task: ("video", int(task[1:]))})
    model = load(weights, f"{BASE}.{tag}", **arguments)
    numbers = model.heads["video"][task].bias.long().tolist()
    assert numbers == (list(range(int(task[1:]))) if mm or task == "k710" else list(UNIFORMER_ORDER))
    assert (model.spec.class_names(task) or ())[:1] == (("abseiling",) if task == "k400" else ())


def test_another_networks_file_is_refused():
    with pytest.raises(
        CheckpointError, match=r"own, timm's vit_base_patch16_clip_quickgelu_224, UniFormerV2 .*ST-Adapter"
    ):
        load({"s1.pathway0_stem.conv.weight": torch.zeros(3)}, f"{BASE}.k400_8f", **SMALL)


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_facts_of_the_rows(name):
    row, (variant, tag) = CHECKPOINTS[name], name.split(".")
    task, frames = re.fullmatch(r"(?:mm_|frozen_)?(?:clip_|k710_(?!8f))?(\w+)_(\d+)f", tag).groups()
    assert row.arguments["tasks"] == {task: ("video", TASKS[task])}
    assert row.spec.clip.length == int(frames)
    assert row.spec.clip.sampling == "segments"
    assert row.spec.crop == (int(variant[-3:]),) * 2 == (row.spec.resize,) * 2
    assert row.url.startswith("https://download.openmmlab" if tag.startswith("mm_") else "https://pjlab-gvm-data")
    assert {figure.protocol for figure in row.upstream} <= PROTOCOLS.keys()
    assert ("710" in row.about) == ("validation sets" in row.about)
    assert DATA[task] in row.about
    assert row.arguments.get("temporal_downsample", False) == task.startswith("ssv")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [(f"{BASE}.mm_clip_k400_8f", 114_552_208), ("uniformerv2_large_patch14_224.ssv2_16f", 573_949_966)],
)
def test_as_many_parameters_as_the_authors(name, parameters):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@torch.no_grad()
def test_grey_clips():
    shapes, name, arguments, _ = CASES["local"]
    weights = seeded(shapes)
    x = clips(chans=1)
    grey = load(dict(weights), name, **arguments, in_chans=1)
    close(grey(x), load(weights, name, **arguments)(x.expand(-1, 3, -1, -1, -1)), 1e-4)
