"""V-JEPA 2.1 against the outputs of facebookresearch/vjepa2 (commit 204698b) on seeded weights under its own names."""

from typing import Any, ClassVar

import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import close
from torch import nn

from unidual_zoo.models import vjepa2_1
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CheckpointError

TINY = dict(embed_dim=24, depth=6, num_heads=2, num_frames=4, spec=InputSpec(resize=36, crop=(32, 32)))
SMALL = dict(embed_dim=96, depth=12, num_heads=4, spec=dict(resize=64, crop=[64, 64], clip=dict(length=4)))
GOLDEN = {  # the first eight channels of the mean token; of the probe, its seven logits
    "clip": [-0.217501, 0.898738, 1.227804, -1.394883, 0.471392, 0.540011, 0.901413, -0.347988],
    "wide": [-0.666028, 1.79962, 0.661439, -0.628118, 0.474336, -0.526427, 0.893904, -0.321828],
    "image": [-0.224547, 1.441979, 0.673756, -0.469184, 0.798624, -0.674259, 0.403095, -0.168437],
    "large": [-0.178543, 1.589097, -0.144206, -0.46684, 0.12993, -0.61644, -0.747775, 0.219564],
}
PROBE = [-2.235307, 0.673582, 0.334139, -0.662482, 2.3895, -1.065295, -1.649679]
SHAPES = {"clip": (1, 3, 8, 64, 64), "wide": (1, 3, 6, 64, 96), "image": (1, 3, 64, 64), "large": (1, 3, 96, 64)}


class TestVJepa21(FamilyTests):
    family, small, shallow = vjepa2_1.FAMILY, TINY, dict(depth=1)
    options: ClassVar = dict(norms="split", token_pool="attentive", probe_depth=2)


def layer(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def block(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {
        **norm(f"{name}.norm1", dim), **layer(f"{name}.attn.qkv", dim, 3 * dim), **layer(f"{name}.attn.proj", dim, dim),
        **norm(f"{name}.norm2", dim), **layer(f"{name}.mlp.fc1", dim, 4 * dim),
        **layer(f"{name}.mlp.fc2", 4 * dim, dim),
    }  # fmt: skip


def encoder(dim: int = 96, depth: int = 12) -> dict[str, tuple[int, ...]]:
    """Names and shapes of upstream's VisionTransformer."""
    shapes: dict[str, tuple[int, ...]] = {"img_mod_embed": (1, 1, dim), "video_mod_embed": (1, 1, dim)}
    for name, frames in (("patch_embed", 2), ("patch_embed_img", 1)):
        shapes |= {f"{name}.proj.weight": (dim, 3, frames, 16, 16), f"{name}.proj.bias": (dim,)}
    for number in range(depth):
        shapes |= block(f"blocks.{number}", dim)
    for number in range(4):
        shapes |= norm(f"norms_block.{number}", dim)
    return shapes


def classifier(dim: int = 96, classes: int = 7) -> dict[str, tuple[int, ...]]:
    """Names and shapes of upstream's AttentiveClassifier of depth 4."""
    shapes: dict[str, tuple[int, ...]] = {"pooler.query_tokens": (1, 1, dim), **layer("linear", dim, classes)}
    for number in range(3):
        shapes |= block(f"pooler.blocks.{number}", dim)
    cross = "pooler.cross_attention_block"
    shapes |= {**norm(f"{cross}.norm1", dim), **norm(f"{cross}.norm2", dim)}
    shapes |= {**layer(f"{cross}.xattn.q", dim, dim), **layer(f"{cross}.xattn.kv", dim, 2 * dim)}
    return shapes | {**layer(f"{cross}.mlp.fc1", dim, 4 * dim), **layer(f"{cross}.mlp.fc2", 4 * dim, dim)}


def filled(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator, weights = torch.Generator().manual_seed(seed), {}
    for key in sorted(shapes):
        x = torch.randn(shapes[key], generator=generator)
        if x.ndim > 1:
            weights[key] = x / x[0].numel() ** 0.5
        else:
            weights[key] = 1 + 0.2 * x if key.endswith("weight") else 0.1 * x
    return weights


def build(weights: dict[str, torch.Tensor], **kwargs):
    overlay = dict(state_dict=weights)
    return timm.create_model("vjepa2_1_vit_base", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL, **kwargs)


@torch.inference_mode()
def test_upstreams_outputs_on_upstreams_weights():
    weights = filled(encoder(), 7)
    model = build({f"module.backbone.{key}": value for key, value in weights.items()}, num_classes=0).eval()
    generator = torch.Generator().manual_seed(11)
    for name, shape in SHAPES.items():
        features = model.forward_features(torch.randn(shape, generator=generator))
        close(features.flatten(2).mean(-1)[0, :8], torch.tensor(GOLDEN[name]))
    whole, tasks = weights | filled(classifier(), 9), {"k400": ("video", 7)}
    with pytest.warns(UserWarning, match=r"is of a network of token_pool='attentive', and so this one becomes"):
        probed = build(whole, tasks=tasks).eval()
    x = torch.randn((2, 3, 8, 64, 64), generator=generator)
    close(probed(x)[0], torch.tensor(PROBE))
    close(build(whole, tasks=tasks, token_pool="attentive").eval()(x), probed(x), 0)


def trained(**encoders: int) -> dict[str, Any]:
    """What upstream's training saves (app/vjepa_2_1/train.py), its encoders filled by these seeds."""
    prefixed = {
        name: {f"module.backbone.{key}": value for key, value in filled(encoder(), seed).items()}
        for name, seed in encoders.items()
    }
    predictor = {"module.backbone.predictor_blocks.0.norm1.weight": torch.ones(48)}
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([dict(params=[weight], WD_exclude=True)])
    weight.grad = torch.ones(3)
    optimizer.step()
    others = dict(epoch=3, loss=0.25, batch_size=2, world_size=1, lr=1e-4, scaler=None, opt=optimizer.state_dict())
    return {**prefixed, "predictor": predictor, **others}


@torch.inference_mode()
@pytest.mark.parametrize(
    "encoders",
    [
        dict(encoder=1, target_encoder=2, ema_encoder=7),  # B and L, which upstream's hub takes the average of
        dict(encoder=1, target_encoder=7),  # g and G
    ],
)
def test_of_a_training_the_encoder_to_evaluate_is_read(encoders, tmp_path):
    with torch.inference_mode(mode=False):
        torch.save(trained(**encoders), tmp_path / "trained.pt")
    overlay = dict(file=str(tmp_path / "trained.pt"))
    name = "vjepa2_1_vit_base"
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **SMALL).eval()
    clip = torch.randn(SHAPES["clip"], generator=torch.Generator().manual_seed(11))
    close(model.forward_features(clip).flatten(2).mean(-1)[0, :8], torch.tensor(GOLDEN["clip"]))


def test_another_networks_file_is_refused():
    with pytest.raises(CheckpointError, match=r"no format that is read here: this package's own, .*V-JEPA 2.1"):
        build({"module.backbone.patch_embed.proj.weight": torch.zeros(3)})  # V-JEPA 2 has no `norms_block`


@torch.inference_mode()
def test_an_encoder_without_classifier_starts_both_pathways():
    weights = filled(encoder(), 7)
    with pytest.warns(UserWarning, match=r"no weights for heads.image.in1k, heads.video.k400"):
        model = build(weights, norms="split").eval()
    assert torch.equal(model.norm["image"].weight, weights["norms_block.3.weight"])
    assert torch.equal(model.norm["video"].weight, weights["norms_block.3.weight"])
    with pytest.raises(RuntimeError, match=r"missing: blocks.11.attn.qkv.bias"):
        build({key: value for key, value in weights.items() if key != "blocks.11.attn.qkv.bias"})


@torch.inference_mode()
def test_frames_on_the_image_pathway_are_averaged_and_odd_clips_are_taken():
    torch.manual_seed(0)
    model = timm.create_model("vjepa2_1_vit_base", token_pool="attentive", probe_depth=2, **SMALL).eval()
    clip = torch.randn(2, 3, 3, 32, 48)
    frames = torch.stack([model(clip[:, :, t]) for t in range(3)]).mean(0)
    close(model(clip, modality="image"), frames)
    close(model(clip), model(clip[:, :, :2]), 0)
    close(model(clip[:, :, :1]), model(clip[:, :, :1].expand(-1, -1, 2, -1, -1)), 0)
    with pytest.raises(ValueError, match="multiples of 16"):
        model(torch.randn(1, 3, 40, 32))


def test_parameters_are_upstreams():
    """86,833,152 with upstream's three unused norms of 2 * 768 (its own count)."""
    with torch.device("meta"):
        model = timm.create_model("vjepa2_1_vit_base", num_classes=0)
    assert sum(weight.numel() for weight in model.parameters()) == 86_833_152 - 3 * 2 * 768
