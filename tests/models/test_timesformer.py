"""TimeSformer against the outputs of facebookresearch/TimeSformer (commit a5ef29a) on seeded weights by its own names.

Hugging Face's transformers 5.24 and mmaction2 (commit 4d6c934) gave the same, each on seeded weights of its own.
"""

import json
import warnings
from typing import Any

import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import close
from timm.models import save_for_hf

from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.models import timesformer
from unidual_zoo.models.summary import multiply_adds
from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.training.network import build_model
from unidual_zoo.training.recipes import ModelSettings
from unidual_zoo.weights import CheckpointError, KeyMap

DIVIDED, JOINT, SPACE = timesformer.ATTENTION_TYPES
SPEC = InputSpec(resize=36, crop=(32, 32), clip=ClipSpec(length=4))
TINY = dict(embed_dim=24, depth=3, num_heads=2, patch_size=8, num_frames=4, spec=SPEC)
SMALL = dict(embed_dim=48, depth=3, num_heads=4, patch_size=8, num_frames=4, num_classes=10, spec=SPEC)
SHAPES = {"clip": (2, 3, 4, 32, 32), "one": (2, 3, 1, 32, 32), "six": (2, 3, 6, 32, 32), "wide": (2, 3, 4, 48, 32)}
GOLDEN = {  # the first five logits of the first clip
    DIVIDED: {
        "clip": [-0.490311, -0.453653, 0.939635, 0.290321, -1.232682],
        "one": [-0.891396, -0.890775, 0.939868, -1.038979, -1.485777],
        "six": [-0.706336, -0.254793, 0.715201, -0.045692, -1.381421],
        "wide": [-0.725207, -0.740932, 0.54614, -0.253954, -1.61534],
    },
    JOINT: {
        "clip": [1.934386, 0.791624, -1.660255, 1.193789, -0.801647],
        "one": [2.189149, 0.663634, -0.904057, 0.826779, -0.454534],
        "six": [1.826679, 0.142879, -1.495812, 0.683544, -1.011578],
        "wide": [1.818779, 0.177602, -1.485222, 0.830162, -1.040489],
    },
    SPACE: {
        "clip": [1.714707, 1.329593, -1.394153, 1.287671, -1.066283],
        "one": [1.921921, 1.482462, -1.025304, 1.163652, -0.726684],
        "six": [1.69817, 0.869887, -1.119641, 0.780809, -1.035453],
        "wide": [1.33803, 0.234853, -1.046866, 0.808395, -1.296682],
    },
}


class TestTimeSformer(FamilyTests):
    family, small, shallow, options = timesformer.FAMILY, TINY, dict(depth=1), dict(attention_type=JOINT)
    names = ("timesformer_base", "timesformer_base_dual")


def upstream(attention_type: str, dim: int = 48, depth: int = 3, classes: int = 10) -> dict[str, torch.Tensor]:
    """Seeded weights under the names and in the shapes of upstream's VisionTransformer."""

    def layer(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}

    def attention(name: str) -> dict[str, tuple[int, ...]]:
        return layer(f"{name}.qkv", dim, 3 * dim) | layer(f"{name}.proj", dim, dim)

    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, 17, dim)}
    shapes |= {"patch_embed.proj.weight": (dim, 3, 8, 8), "patch_embed.proj.bias": (dim,)}
    if attention_type != SPACE:
        shapes["time_embed"] = (1, 4, dim)
    for at in (f"blocks.{number}" for number in range(depth)):
        shapes |= norm(f"{at}.norm1") | attention(f"{at}.attn") | norm(f"{at}.norm2")
        shapes |= layer(f"{at}.mlp.fc1", dim, 4 * dim) | layer(f"{at}.mlp.fc2", 4 * dim, dim)
        if attention_type == DIVIDED:
            shapes |= norm(f"{at}.temporal_norm1") | attention(f"{at}.temporal_attn")
            shapes |= layer(f"{at}.temporal_fc", dim, dim)
    return filled(shapes | norm("norm") | layer("head", dim, classes))


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator, weights = torch.Generator().manual_seed(7), {}
    for key in sorted(shapes):
        x = torch.randn(shapes[key], generator=generator)
        if key.endswith(("cls_token", "_embed")):
            weights[key] = 0.5 * x
        elif x.ndim > 1:
            weights[key] = x / x[0].numel() ** 0.5
        else:
            weights[key] = 1 + 0.2 * x if "norm" in key and key.endswith("weight") else 0.1 * x
    return weights


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def load(weights, name: str = "timesformer_base", **kwargs):
    place = dict(state_dict=weights) if isinstance(weights, dict) else dict(file=str(weights))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=place, **{**SMALL, **kwargs}).eval()


def foreign(weights: dict[str, torch.Tensor], table: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Upstream's weights by the names of another code base."""
    ours = KeyMap(timesformer.UPSTREAM, root="", task="k400").forward(weights)
    return KeyMap(table, task="k400").back(ours)


# ---- other code bases -----------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("attention_type", timesformer.ATTENTION_TYPES)
def test_upstreams_outputs_on_upstreams_file(attention_type, tmp_path):
    weights = {f"model.{key}": value for key, value in upstream(attention_type).items()}
    torch.save({"epoch": 15, "model_state": weights, "optimizer_state": {}, "cfg": "TRAIN:"}, tmp_path / "k400.pyth")
    model = load(tmp_path / "k400.pyth", attention_type=attention_type)
    for name, x in inputs().items():
        close(model(x)[0, :5], torch.tensor(GOLDEN[attention_type][name]))
    one = load(upstream(attention_type), attention_type=attention_type, num_frames=1)
    image = inputs()["one"]
    close(one(image[:, :, 0]), model(image))
    names = KeyMap(timesformer.UPSTREAM, root="model.", task="k400")
    assert names.back(names.forward(weights)).keys() == weights.keys()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("table", "attention_type"),
    [
        *((timesformer.HUGGING_FACE, attention_type) for attention_type in timesformer.ATTENTION_TYPES),
        (timesformer.OPENMMLAB_DIVIDED, DIVIDED),
        (timesformer.OPENMMLAB, JOINT),
        (timesformer.OPENMMLAB, SPACE),
    ],
)
def test_other_formats_give_the_same(table, attention_type):
    theirs = foreign(upstream(attention_type), table)
    assert not theirs.keys() & upstream(attention_type).keys()
    model = load(theirs, attention_type=attention_type)
    close(model(inputs()["clip"])[0, :5], torch.tensor(GOLDEN[attention_type]["clip"]))
    names = KeyMap(table, task="k400")
    assert names.back(names.forward(theirs)).keys() == theirs.keys()


def modules(table: list[tuple[str, str]], attention_type: str, prefix: str) -> set[str]:
    theirs = foreign(upstream(attention_type), table)
    return {key.removeprefix(prefix).removesuffix(".weight") for key in theirs if "bias" not in key and prefix in key}


def test_names_of_other_formats():
    """The names that their own classes have."""
    assert modules(timesformer.HUGGING_FACE, DIVIDED, "timesformer.encoder.layer.2.") == {
        "attention.attention.qkv", "attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before",
        "layernorm_after", "temporal_layernorm", "temporal_attention.attention.qkv", "temporal_attention.output.dense",
        "temporal_dense",
    }  # fmt: skip
    assert modules(timesformer.OPENMMLAB_DIVIDED, DIVIDED, "backbone.transformer_layers.layers.2.") == {
        "attentions.0.norm", "attentions.0.attn.in_proj_weight", "attentions.0.attn.out_proj",
        "attentions.0.temporal_fc", "attentions.1.norm", "attentions.1.attn.in_proj_weight",
        "attentions.1.attn.out_proj", "ffns.0.norm", "ffns.0.layers.0.0", "ffns.0.layers.1",
    }  # fmt: skip
    assert modules(timesformer.OPENMMLAB, JOINT, "backbone.transformer_layers.layers.2.") == {
        "attentions.0.attn.in_proj_weight", "attentions.0.attn.out_proj", "norms.0", "norms.1", "ffns.0.layers.0.0",
        "ffns.0.layers.1",
    }  # fmt: skip
    around = {"cls_token", "pos_embed", "time_embed", "patch_embed.projection", "norm"}
    assert modules(timesformer.OPENMMLAB, JOINT, "backbone.") >= around
    around = {"cls_token", "position_embeddings", "time_embeddings", "patch_embeddings.projection"}
    assert modules(timesformer.HUGGING_FACE, DIVIDED, "timesformer.embeddings.") == around


def test_weights_of_another_attention_or_other_classes_are_refused():
    with pytest.raises(CheckpointError, match=r"missing: .*temporal.video"):
        load(upstream(JOINT))
    with pytest.raises(CheckpointError, match=r"unknown: .*temporal.video"):
        load(upstream(DIVIDED), attention_type=JOINT)
    settings = {key: value for key, value in SMALL.items() if key != "num_classes"}
    overlay = dict(state_dict=upstream(DIVIDED))
    with pytest.raises(
        CheckpointError, match=r"heads.video.k400.weight \(10, 48\) for \(400, 48\).*10 classes there, 400"
    ):
        timm.create_model("timesformer_base", pretrained=True, pretrained_cfg_overlay=overlay, **settings)
    for weights in ({"s1.weight": torch.zeros(3)}, {"backbone.conv1.conv.weight": torch.zeros(3)}):
        with pytest.raises(
            CheckpointError, match=r"no format of a TimeSformer .*own, facebook.*Hugging Face, mmaction2"
        ):
            load(weights)


@pytest.mark.parametrize("frames", [8, 32, 64, 96])
def test_rows_for_videos_of_minutes(frames):
    tag = {8: "base.fb_howto100m", 96: "large.fb_howto100m"}.get(frames, f"base.fb_howto100m_{frames}f")
    with torch.device("meta"):
        model: Any = timm.create_model(f"timesformer_{tag}", depth=1)
    assert (model.tasks["howto100m"].num_classes, model.spec.clip.length, model.spec.clip.stride) == (1059, frames, 32)
    assert f"_{frames}x32_224_HowTo100M.pyth" in model.pretrained_cfg["url"]


@torch.inference_mode()
def test_weights_of_other_sizes_are_resampled_as_inputs_of_other_sizes_are():
    wide = dict(num_frames=6, spec=InputSpec(resize=(48, 32), crop=(48, 32)))
    x = torch.randn(2, 3, 6, 48, 32)
    close(load(upstream(DIVIDED), **wide)(x), load(upstream(DIVIDED))(x), 1e-6)
    with pytest.raises(ValueError, match="multiples of 8"):
        load(upstream(DIVIDED))(torch.randn(1, 3, 4, 36, 32))
    with pytest.raises(ValueError, match="a multiple of 16 pixels, the spec crops to 40"):
        timm.create_model("timesformer_base", spec=InputSpec(resize=40, crop=(40, 40)))


# ---- images ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("vit", ["vit_base_patch16_224", "deit3_base_patch16_224"])  # plain; with LayerScale
def test_training_starts_from_a_vit_of_timm(vit):
    small = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=7)
    image_network = timm.create_model(vit, **small).eval()
    image_network.load_state_dict(filled({key: value.shape for key, value in image_network.state_dict().items()}))
    tasks = {"in1k": ("image", 7), "k400": ("video", 6)}
    image, weights = torch.randn(2, 3, 32, 32), image_network.state_dict()
    for name in ("timesformer_base", "timesformer_base_dual"):
        with pytest.warns(UserWarning, match="no weights for heads.video.k400 in the checkpoint"):
            model = load(weights, name, tasks=tasks, num_classes=7)
        close(model(image), image_network(image), 1e-6)
        close(
            model(image[:, :, None], modality="video", task="k400"), model(image, modality="video", task="k400"), 1e-6
        )
    own = model.state_dict()
    copied = own["blocks.1.temporal.video.attn.qkv.weight"]
    assert torch.equal(copied, own["blocks.1.attn.qkv.weight"])
    assert not own["blocks.1.temporal.video.fc.weight"].any()
    assert own["blocks.1.temporal.image.norm.weight"].any(), "or it would never learn"
    with pytest.warns(UserWarning, match="no weights for heads.video.k400"):
        space = load(weights, attention_type=SPACE)
    close(space.forward_features(image[:, :, None])[:, 0], image_network.forward_features(image), 1e-6)
    with pytest.raises(CheckpointError, match=r"unknown: reg_token"):
        load(weights | {"reg_token": torch.zeros(1, 4, 48)})


@torch.inference_mode()
def test_attention_over_time_starts_from_a_network_without_it():
    space = load(upstream(SPACE), attention_type=SPACE)
    divided = timm.create_model("timesformer_base", **SMALL).eval()
    divided.load_state_dict(divided.adopt(space.state_dict()))
    image = inputs()["one"]
    close(divided(image), space(image), 1e-6)
    assert torch.equal(divided.blocks[1].temporal["video"].attn.qkv.weight, space.blocks[1].attn.qkv.weight)
    assert not divided.time["video"].weight.any()


@torch.inference_mode()
def test_an_image_pathway_does_to_an_image_what_one_frame_gets():
    one_head_each = {"image": ["k400"], "video": ["k400"]}
    dual = load(upstream(DIVIDED), "timesformer_base_dual", tasks={"k400": ("video", 10)}, heads=one_head_each)
    for name, x in inputs().items():
        close(dual(x)[0, :5], torch.tensor(GOLDEN[DIVIDED][name]))
    image = inputs()["one"][:, :, 0]
    close(dual(image)[0, :5], torch.tensor(GOLDEN[DIVIDED]["one"]))
    of_images = dict(pathways=["image"], tasks={"k400": ("video", 10)}, heads={"image": ["k400"]})
    alone = load(upstream(DIVIDED), "timesformer_base_dual", **of_images)
    close(alone(image), dual(image), 0)
    own = timm.create_model("timesformer_base", **SMALL)
    own.load_state_dict(load(upstream(DIVIDED)).state_dict())
    twin = timm.create_model("timesformer_base_dual", **{**SMALL, "num_classes": 0})
    adopted = {key: value for key, value in twin.adopt(own.state_dict()).items() if not key.startswith("heads.")}
    twin.load_state_dict(adopted)
    close(twin.eval()(image), dual.forward_head(dual.forward_features(image), pre_logits=True), 1e-6)


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_counts_are_the_published_ones():
    """TimeSformer has 122 M; CoVeR 431 M and 17.6 T multiply-adds for three views, each block the same number."""
    with torch.device("meta"):
        base, cover = timm.create_model("timesformer_base"), timm.create_model("cover_large")
        two, four = (timm.create_model("cover_large", depth=depth) for depth in (2, 4))
    assert sum(weight.numel() for weight in base.parameters()) == 121_566_352
    assert sum(weight.numel() for weight in cover.parameters()) == 431_882_105
    assert (cover.num_frames, cover.image_frames) == (16, 1)
    shallow, deeper = multiply_adds(two, "video"), multiply_adds(four, "video")
    assert round((shallow + 11 * (deeper - shallow)) / 1e9) == 5873


def test_weights_for_noncommercial_use_warn_and_stay_under_their_licence(tmp_path):
    weights, name = upstream(DIVIDED), "timesformer_base.fb_k400"
    with pytest.warns(UserWarning, match=r"timesformer_base.fb_k400 are under cc-by-nc-4.0: .* commercially"):
        model = load(weights, name)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    with pytest.warns(UserWarning, match="cc-by-nc-4.0"):
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.pretrained_cfg["license"] == "cc-by-nc-4.0"
    small = {key: value for key, value in SMALL.items() if key != "num_classes"}
    files = {"k400": MediaSet(modality="video", classes=("a", "b"), files=(), labels=())}
    arguments = small | dict(pretrained_cfg_overlay=dict(state_dict=weights))
    with pytest.warns(UserWarning, match="cc-by-nc-4.0"):
        trained = build_model(ModelSettings(model=name, pretrained=True, model_args=arguments), files)
    assert trained.pretrained_cfg["license"] == "cc-by-nc-4.0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(weights).pretrained_cfg["license"] == "apache-2.0"
        build_model(ModelSettings(model=name, model_args=small), files)
