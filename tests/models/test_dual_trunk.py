"""UniDual on trunks of timm: images to the bit as timm has them, clips that start as the mean of their frames."""

import copy
import dataclasses
import math
from typing import ClassVar

import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import TASKS, clips, close, images, randomise_norms
from timm.layers.norm_act import convert_sync_batchnorm
from timm.models import group_parameters
from timm.models._hub import save_for_hf
from torch import nn

from unidual_zoo import for_inference
from unidual_zoo.explain import explain
from unidual_zoo.models import create, dual_trunk, trunks
from unidual_zoo.models.dual_trunk import ARCHITECTURES, CHECKPOINTS, DualTrunk, timm_spec
from unidual_zoo.models.pathways import pathway_of
from unidual_zoo.models.temporal import Adapter, centred, cosine_terms, temporal_projection
from unidual_zoo.spec import ClipSpec
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.weights import CheckpointError

MAPS = ["test_efficientnet", "test_resnet", "test_convnext"]
TOKENS = ["test_vit", "test_vit2", "eva02_tiny_patch14_224"]  # the class token counts, the mean of the patches, both
TRUNKS = MAPS + TOKENS
NORMED = ["test_convnext", *TOKENS]  # behind the last block
SMALLER = {"eva02_tiny_patch14_224": dict(patch_size=16, embed_dim=48, depth=3, num_heads=3)}
IN1K = {"in1k": ("image", 7)}
EVERYWHERE = dict(tasks=IN1K, heads={"image": ["in1k"], "video": ["in1k"]})
SIDE = 64


def theirs(trunk: str, **kwargs) -> nn.Module:
    """timm's network with norms that are not those of a fresh one, and 7 classes."""
    any_size = dict(dynamic_img_size=True) if trunk in TOKENS else {}
    network = timm.create_model(trunk, **{"num_classes": 7} | any_size | SMALLER.get(trunk, {}) | kwargs)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
        nn.init.normal_(network.get_classifier().weight)
    return randomise_norms(network).eval()


def started(network: nn.Module, trunk: str, **kwargs) -> DualTrunk:
    """Our network on the trunk, started from the weights of timm's."""
    overlay = dict(state_dict=network.state_dict())
    arguments = dict(trunk=trunk, trunk_args=SMALLER.get(trunk, {}), num_frames=4) | EVERYWHERE | kwargs
    return timm.create_model("unidual_trunk", pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()


def stirred(trunk: str, **kwargs) -> DualTrunk:
    """Our network with weights in which nothing is zero or equal between the pathways."""
    arguments = dict(trunk=trunk, trunk_args=SMALLER.get(trunk, {}), num_frames=4, tasks=TASKS) | kwargs
    return stir(timm.create_model("unidual_trunk", **arguments)).eval()


def stir(model: nn.Module) -> nn.Module:
    randomise_norms(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            elif not weight.any() or name.startswith("heads."):
                nn.init.normal_(weight, std=0.1)
    return model


OPTIONS = dict(norms="shared", pixelwise=True, reduction=4.0)
ORDERED = OPTIONS | dict(time_terms=3)
SHALLOW = dict(stages=2, neck=False)


class TestEfficientNet(FamilyTests):
    family, names, options, shallow = dual_trunk.FAMILY, ("unidual_trunk",), ORDERED, SHALLOW
    small: ClassVar = dict(trunk="test_efficientnet", num_frames=4)


class TestVisionTransformer(FamilyTests):
    family, names, options, shallow = dual_trunk.FAMILY, ("unidual_trunk",), OPTIONS, SHALLOW
    small: ClassVar = dict(
        trunk="test_vit", trunk_args=dict(depth=3), num_frames=4, per_block=2, global_blocks=2, temporal_downsample=True
    )


# ---- time in the heads ----------------------------------------------------------------------------------------------


def test_cosine_terms_by_hand():
    """Of two frames their mean, and √2·cos(π/4) = 1 times half their difference; there is no third term."""
    x = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])
    close(cosine_terms(x, 3), torch.tensor([[2.0, 20.0, -1.0, -10.0, 0.0, 0.0]]), 1e-6)
    whole = cosine_terms(torch.eye(4)[None], 4).unflatten(1, (4, 4))[0]
    close(whole @ whole.T, torch.eye(4) / 4, 1e-6)  # nothing of four frames is lost in four terms


@torch.no_grad()
@pytest.mark.parametrize("trunk", ["test_efficientnet", "test_vit"])
def test_heads_that_see_terms_over_time_start_as_the_mean_and_tell_order(trunk, tmp_path):
    network, x = theirs(trunk), clips(frames=4, size=SIDE)
    model = started(network, trunk, time_terms=3, operator="none")
    each = network(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 4))
    close(model(x), each.mean(1), 1e-5)
    head = model.heads["video"]["in1k"]
    assert head.weight.shape == (7, 3 * model.head_hidden_size)
    assert model.heads["image"]["in1k"].weight.shape == (7, model.head_hidden_size)
    head.weight.normal_()
    features = model.forward_features(x)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    close(model.forward_head(features), model(x), 1e-6)
    assert (model(x) - model(x.flip(2))).abs().max() > 0.01
    close(model(x, modality="image"), each.mean(1), 1e-5)
    still = images(size=SIDE)
    constant = head.bias + model.forward_head(model.forward_features(still), pre_logits=True) @ (
        head.weight[:, : model.head_hidden_size].T
    )
    close(model(still, modality="video"), constant, 1e-4)

    save_for_hf(model, tmp_path, model_config=dict(model_args=model._model_args))
    for terms, expected in ((3, head.weight), (1, head.weight[:, : model.head_hidden_size])):
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, time_terms=terms)
        assert torch.equal(again.heads["video"]["in1k"].weight, expected)
    longer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, time_terms=4).eval()
    close(longer(x), model(x), 1e-5)


def test_time_terms_need_a_mean_behind_the_norm():
    for options in (dict(frame_mean="before_norm"), dict(global_blocks=1)):
        with pytest.raises(ValueError, match="time_terms beyond 1 need frame_mean='after_norm' and no global_blocks"):
            stirred("test_vit", time_terms=2, **options)
    for terms in (0, 2.5, "4"):
        with pytest.raises(ValueError, match=f"time_terms must be a whole number from 1, got {terms!r}"):
            stirred("test_vit", time_terms=terms)


# ---- the start ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_image_pathway_is_timms_network_to_the_bit(trunk):
    network = theirs(trunk, **(dict(dynamic_img_size=False) if trunk in TOKENS else {}))
    native = network.default_cfg["input_size"][-1]
    x = images(size=native)
    for model in (
        started(network, trunk),
        started(network, trunk, norms="shared"),
        started(network, trunk, pathways=("image",), heads=None),
    ):
        assert torch.equal(model(x), network(x))
        assert torch.equal(model.forward_features(x), network.forward_features(x))
        for ours, expected in zip(model.forward_intermediates(x)[1], network.forward_intermediates(x)[1], strict=True):
            assert torch.equal(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("operator", ["adapter", "local_mhra", "pointwise", "none"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_clip_starts_as_the_mean_of_its_frames(trunk, operator, norms):
    network, options = theirs(trunk), dict(operator=operator, norms=norms)
    if trunk in TOKENS:
        if operator == "pointwise":
            pytest.skip("of convolutional networks")
        options |= dict(per_block=2, global_blocks=2, pixelwise=True)
    model = started(network, trunk, **options)
    for frames in (1, 3, 4):
        x = clips(batch=3, frames=frames, size=SIDE)
        each = network(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (3, frames))
        close(model(x), each.mean(1), 1e-5)
        close(model(x, modality="image"), each.mean(1), 1e-5)
    still = images(size=SIDE)
    close(model(still, modality="video"), network(still), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pathways", [("image", "video"), ("video",)])
@pytest.mark.parametrize("trunk", TOKENS)
def test_temporal_downsampling_starts_as_every_other_frame(trunk, pathways):
    network, x = theirs(trunk), clips(frames=5, size=SIDE)
    heads = {pathway: ["in1k"] for pathway in pathways}
    model = started(network, trunk, temporal_downsample=True, pathways=pathways, heads=heads)
    assert (model.dtype, hasattr(model.trunk.patch_embed.proj, "weight")) == (torch.float32, "image" in pathways)
    each = network(x[:, :, ::2].transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3))
    close(model(x), each.mean(1), 1e-5)
    close(model(x[:, :, :1]), each[:, 0], 1e-5)
    model.embeddings["video"].weight[:, :, 2] = model.embeddings["video"].weight[:, :, 1]  # the frame behind it, too
    assert not torch.allclose(model(x), each.mean(1), rtol=1e-2)
    close(model(x[:, :, :1]), model(x[:, :, [0, 0]]), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_operators_see_the_order_of_frames_and_leave_images_alone(trunk):
    network = theirs(trunk)
    model, x, still = started(network, trunk), clips(size=SIDE), images(size=network.default_cfg["input_size"][-1])
    before = model(x)
    close(model(x.flip(2)), before, 1e-5)
    for name, weight in model.named_parameters():
        if pathway_of(name) == "video" and name.startswith("units."):
            weight.add_(0.05 * torch.randn_like(weight))
    changed = model(x)
    assert (changed - before).abs().max() > 1e-2 * before.abs().max()
    assert (model(x.flip(2)) - changed).abs().max() > 1e-3 * before.abs().max()
    close(model(x[1:]), changed[1:], 1e-5)  # clips do not see each other
    assert torch.equal(model(still), network(still))


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_pixelwise_adapters_are_of_images_alone(trunk):
    model = stirred(trunk, pixelwise=True, auxiliary=True)
    x, still = clips(size=SIDE), images(size=SIDE)
    video, image = model(x), model(still)
    for name, weight in model.named_parameters():
        if pathway_of(name) == "image" and name.startswith("units."):
            weight.zero_()
    assert torch.equal(model(x), video)
    assert not torch.allclose(model(still), image)
    each = model(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 4))
    close(model(x, modality="image", task="in1k"), each.mean(1), 1e-5)  # each frame for itself


# ---- operators by hand ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_an_adapter_by_hand():
    adapter = Adapter(2, reduction=2)
    adapter.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
    adapter.down.bias.fill_(1)
    adapter.conv.weight.copy_(torch.tensor([10.0, 100.0, 1000.0]).view(1, 1, 3, 1))
    adapter.conv.bias.fill_(0.5)
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]], [[2.0, 0.0]]])  # two clips of two frames, one position
    assert torch.equal(adapter(x, 2), x)
    adapter.up.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    adapter.up.bias.copy_(torch.tensor([0.0, 7.0]))
    inner = torch.tensor([100 * 2 + 1000 * 3, 10 * 2 + 100 * 3, 100 * 4 + 1000 * 3, 10 * 4 + 100 * 3]) + 0.5
    close(adapter(x, 2), x + torch.stack([inner, 7 - inner], 1)[:, None], 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(3, 5, 1), nn.Linear(3, 5)])
def test_a_temporal_projection_starts_as_the_projection(layer):
    conv, x = temporal_projection(layer), torch.randn(8, 3, 4, 4)
    expected = layer(x) if isinstance(layer, nn.Conv2d) else layer(x.movedim(1, -1)).movedim(-1, 1)
    close(conv(x, 2), expected, 1e-6)
    assert torch.equal(conv.weight[:, :, [0, 2]], torch.zeros(5, 3, 2, 1))
    conv.weight[:, :, 0] = conv.weight[:, :, 1]
    conv.weight[:, :, 1] = 0
    shifted = conv(x, 2).unflatten(0, (2, 4))
    bias = 0 if layer.bias is None else layer.bias.view(-1, 1, 1)
    close(shifted[:, 1:], expected.unflatten(0, (2, 4))[:, :-1], 1e-6)
    close(shifted[:, 0], torch.zeros(2, 5, 4, 4) + bias, 1e-6)


@torch.no_grad()
def test_local_mhra_is_uniformerv2s():
    ours = Adapter(6, reduction=1.5, norm=True).eval()
    depthwise = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), groups=4)
    theirs = nn.Sequential(nn.BatchNorm3d(6), nn.Conv3d(6, 4, 1), depthwise, nn.Conv3d(4, 6, 1)).eval()
    stir(theirs[0])
    theirs[0].running_mean.normal_()
    theirs[0].running_var.uniform_(0.5, 2)
    ours.norm.load_state_dict(theirs[0].state_dict())
    for a, b in zip((ours.down, ours.conv, ours.up), theirs[1:], strict=True):
        a.load_state_dict({key: value.reshape(a.state_dict()[key].shape) for key, value in b.state_dict().items()})
    x = torch.randn(2, 6, 4, 3, 5)  # (B, C, T, H, W)
    tokens = x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    expected = (x + theirs(x)).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    close(ours(tokens, 2), expected, 1e-5)
    ours.fold()
    assert ours.norm is None
    close(ours(tokens, 2), expected, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_parts_of_blocks_make_the_block(trunk):
    """They spell out what timm's forward does: this fails where timm changes it."""
    network = theirs(trunk)
    kind, parts = trunks.KINDS[type(network)], 0
    x, frames = kind.stem(network, images(size=SIDE), 2)
    for name in kind.block_names(network):
        x, block = kind.approach(network, name, x), network.get_submodule(name)
        expected = kind.run(block, x, kind.at(network, name, frames))
        if kind.has_halves(block):
            parts += torch.equal(kind.transform(block, kind.attend(block, x, kind.at(network, name, frames))), expected)
        if found := kind.projection(block):
            layer = block.get_submodule(found[0])
            linear = isinstance(layer, nn.Linear)
            project = (lambda y, layer=layer: layer(y.movedim(1, -1)).movedim(-1, 1)) if linear else layer
            parts += torch.equal(kind.with_projection(block, x, project), expected)
        x = expected
    without = {"test_resnet": 3, "test_efficientnet": 1}  # basic blocks, a plain convolution
    assert parts == len(kind.block_names(network)) - without.get(trunk, 0)


@torch.no_grad()
@pytest.mark.parametrize("trunk", ["test_vit", "eva02_tiny_patch14_224"])
def test_two_operators_of_a_block_lie_before_attention_and_mlp(trunk):
    model, x = stirred(trunk, per_block=2, norms="shared", operator="adapter"), clips(size=SIDE)
    network, kind = model.trunk, model.kind
    y, frames = kind.stem(network, x.transpose(1, 2).flatten(0, 1), 2)
    for name in model.block_names:
        block, own = network.get_submodule(name), model.units.get_submodule(name)["video"]
        for place, half in (
            ("attention", lambda y, b=block: kind.attend(b, y, frames)),
            ("mlp", lambda y, b=block: kind.transform(b, y)),
        ):
            y[:, frames.prefix :] = own[place](y[:, frames.prefix :].clone(), 2)
            y = half(y)
    close(model.forward_features(x).flatten(0, 1), network.norm(y), 1e-5)


# ---- where frames are averaged --------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("trunk", NORMED)
def test_frames_are_averaged_before_the_norm(trunk):
    network = theirs(trunk)
    model = started(network, trunk, frame_mean="before_norm", operator="none")
    x = clips(size=SIDE)
    frames = x.transpose(1, 2).flatten(0, 1)
    if trunk == "test_convnext":
        raw = network.forward_features(frames).mean((2, 3)).unflatten(0, (2, 4)).mean(1)
        normed = network.head.norm(raw[..., None, None]).flatten(1)
    else:
        options = dict(indices=1, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True)
        (raw,) = network.forward_intermediates(frames, **options)
        raw = raw[1][:, 0] if network.global_pool == "token" else raw[0].mean(1)
        normed = network.fc_norm(network.norm(raw.unflatten(0, (2, 4)).mean(1)))
    close(model(x), network.get_classifier()(normed), 1e-5)
    assert not torch.allclose(model(x), model(x, modality="image"), rtol=1e-3)
    still = images(size=SIDE)
    close(model(still, modality="video"), model(still), 1e-5)  # equal frames


@torch.no_grad()
@pytest.mark.parametrize("frame_mean", ["before_norm", "after_norm"])
def test_global_blocks_are_uniformerv2s(frame_mean):
    """Against upstream's formulas, written with plain matrices."""
    model = stirred("test_vit", global_blocks=2, frame_mean=frame_mean, norms="shared", operator="none", num_frames=3)
    x, network, own = clips(frames=3, size=SIDE), model.trunk, model.global_blocks["video"]
    assert list(own.blocks) == ["4", "5"]
    y, _ = model.kind.stem(network, x.transpose(1, 2).flatten(0, 1), 2)
    query = own.query.expand(2, -1, -1)
    for number, block in enumerate(network.blocks):
        y = block(y)
        if str(number) in own.blocks:
            query = upstream(own.blocks[str(number)], query, y, frames=3, heads=block.attn.num_heads)
    share = 1 / (1 + (-own.balance).exp())
    if frame_mean == "before_norm":
        pooled = network.norm((1 - share) * query[:, 0] + share * y[:, 0].unflatten(0, (2, 3)).mean(1))
    else:
        pooled = 2 * (1 - share) * query[:, 0] + 2 * share * network.norm(y)[:, 0].unflatten(0, (2, 3)).mean(1)
    close(model(x), model.heads["video"]["k400"](pooled), 1e-5)
    own.balance.fill_(-100)  # the query alone, as upstream's frozen networks have it
    if frame_mean == "before_norm":
        close(model(x), model.heads["video"]["k400"](network.norm(query[:, 0])), 1e-5)
    assert model.forward_features(x).shape == (2, 3, 1 + 16 + 1, 64)  # class token, patches, query


def upstream(block: nn.Module, query: torch.Tensor, y: torch.Tensor, *, frames: int, heads: int) -> torch.Tensor:
    """UniFormerV2's dpe and Extractor."""
    side = math.isqrt(y.shape[1] - 1)
    tokens = y.unflatten(0, (-1, frames)).clone()  # (B, T, 1 + N, C)
    maps = tokens[:, :, 1:].unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    tokens[:, :, 1:] += block.dpe(maps).permute(0, 2, 3, 4, 1).flatten(2, 3)
    tokens = block.norm_tokens(tokens.flatten(1, 2))
    weight, bias = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
    inputs = (block.norm1(query), tokens, tokens)
    q, k, v = (
        (of @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2) for of, w, b in zip(inputs, weight, bias, strict=True)
    )
    attended = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    query = query + block.attn.out_proj(attended.transpose(1, 2).flatten(2))
    inner = block.mlp.fc1(block.norm2(query))
    return query + block.mlp.fc2(inner * (1.702 * inner).sigmoid())


# ---- sizes of inputs ------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("trunk", TOKENS)
def test_position_embeddings_are_resampled_as_timm_does(trunk, tmp_path):
    network = theirs(trunk)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    overlay = dict(file=str(tmp_path / "timm.pth"), num_classes=7)
    arguments = dict(num_classes=7, img_size=96, **SMALLER.get(trunk, {}))
    small = timm.create_model(trunk, pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()
    ours, x = started(network, trunk, img_size=96), images(size=96)
    assert torch.equal(ours(x), small(x))
    assert ours.spec.crop == (96, 96)
    again = stirred(trunk, img_size=96, tasks=IN1K)
    again.load_state_dict(again.adopt(started(network, trunk, heads=None).state_dict()))
    assert torch.equal(again(x), small(x))
    wide = torch.randn(2, 3, 64, 96)
    close(started(network, trunk)(wide), network(wide), 1e-6)
    clip = torch.randn(2, 3, 3, 64, 96)
    each = network(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3))
    close(started(network, trunk, global_blocks=1)(clip), each.mean(1), 1e-5)
    with pytest.raises(ValueError, match=r"sides that are multiples of the patch's, 16×16, got \(2, 3, 33, 64\)"):
        ours(torch.randn(2, 3, 33, 64))


# ---- explaining -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
def test_networks_on_trunks_can_be_explained(trunk):
    spec = dict(resize=[80, 112], crop=[64, 96])
    options = dict(global_blocks=1, per_block=2) if trunk in TOKENS else {}
    model = stirred(trunk, spec=spec, auxiliary=True, **options)
    clip = torch.randint(256, (3, 4, 64, 96), dtype=torch.uint8)
    reduction = model.feature_info[-1]["reduction"]
    for layer, sides in ((-1, (64 // reduction, 96 // reduction)), (0, None)):
        explained = explain(model, clip, layer=layer)
        for response in explained.responses.values():
            assert response.maps.shape[1:] == (sides or response.maps.shape[1:])
            assert response.class_map.cam.isfinite().all()
            assert response.class_map.cam.max() > 0, "the gradient reaches the positions"
    x = clips(size=64)
    for pathway in model.pathways:
        early = model.forward_explained(x, modality=pathway)
        close(
            model.resume_features(early, pathway),
            model.forward_features(x, modality=pathway),
            0 if trunk in MAPS else 1e-6,
        )
    names, blocks = model.explained_layers()
    assert names == blocks == [f"units.{name}" for name in model.block_names]


# ---- what belongs to whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_names_of_weights(trunk, norms):
    model = stirred(trunk, norms=norms, auxiliary=True, pixelwise=True)
    network = timm.create_model(trunk, num_classes=0, **SMALLER.get(trunk, {}))
    keys = {of: {key for key in model.state_dict() if pathway_of(key) == of} for of in (None, "image", "video")}
    assert keys[None] == {f"trunk.{key}" for key in network.state_dict()}
    assert {key.split(".")[0] for key in keys["image"]} == {"units", "heads"}
    assert {key.split(".")[0] for key in keys["video"]} == {"units", "heads"} | (
        {"norms"} if norms == "split" else set()
    )
    own = [key for key in keys["video"] if key.startswith("norms.")]
    norm_keys = [
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, trunks.NORMS)
        for key in module.state_dict()
    ]
    assert sorted(own) == sorted(f"norms.video.trunk.{key}" for key in norm_keys if norms == "split")
    assert len({name for name, _ in model.named_parameters()}) == len(list(model.parameters()))
    assert {name for name, _ in model.named_parameters()} <= set(model.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_norms_of_their_own_change_one_pathway_alone(trunk):
    model, x, still = stirred(trunk), clips(size=SIDE), images(size=SIDE)
    video, image = model(x), model(still)
    for name, weight in model.named_parameters():
        if name.startswith("norms.video."):
            weight.mul_(1.5)
    assert torch.equal(model(still), image)
    assert not torch.allclose(model(x), video)
    video = model(x)
    model.trunk.get_submodule(model.trunk.default_cfg["first_conv"]).weight.mul_(1.5)  # both have it
    assert not torch.allclose(model(x), video)
    assert not torch.allclose(model(still), image)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        lambda model: model.to(torch.float64).to(torch.float32),
        lambda model: model.to("meta").to_empty(device="cpu"),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: (model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True), model)[1],
        convert_sync_batchnorm,
    ],
)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_trunk_stays_shared(trunk, change):
    model = stirred(trunk)
    state, names = model.state_dict(), [name for name, _ in model.named_parameters()]
    changed = change(model)
    changed.load_state_dict(state)
    assert [name for name, _ in changed.named_parameters()] == names
    own = dict(changed.norms["video"].trunk.named_parameters())
    for name, weight in changed.trunk.named_parameters():
        assert (own[name] is weight) == (f"norms.video.trunk.{name}" not in names), name


@torch.no_grad()
@pytest.mark.parametrize(
    ("trunk", "options"),
    [
        *[(trunk, {}) for trunk in TRUNKS],
        ("test_efficientnet", dict(norms="shared", pixelwise=True)),
        ("test_vit", dict(per_block=2, global_blocks=2, operator="local_mhra")),
        *[(trunk, dict(operator="pointwise")) for trunk in MAPS],
    ],
)
@pytest.mark.parametrize("pathway", ["image", "video"])
def test_one_pathway_of_a_network_is_a_network(trunk, pathway, options, tmp_path):
    model = stirred(trunk, auxiliary=True, **options)
    x, still = clips(size=SIDE), images(size=SIDE)
    expected = model(x, modality=pathway), model(still, modality=pathway)
    alone = stirred(trunk, pathways=(pathway,), auxiliary=True, **options)
    alone.load_state_dict(alone.adopt(model.state_dict()))
    kept = copy.deepcopy(model)
    kept.keep_pathway(pathway)
    save_for_hf(kept, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for one in (alone, kept, again):
        assert one.state_dict().keys() == kept.state_dict().keys()
        for a, b in zip((one(x, task="k400"), one(still, task="in1k")), expected, strict=True):
            close(a, b, 1e-6)
    assert again._model_args == kept._model_args
    assert again.pathways == (pathway,)
    used = {name for name, _ in kept.named_parameters()}
    with torch.enable_grad():
        sum(kept(x, task=task).square().sum() for task in kept.tasks).backward()
    assert {name for name, weight in kept.named_parameters() if weight.grad is not None} == used


@torch.no_grad()
@pytest.mark.parametrize(
    ("trunk", "options"),
    [("test_efficientnet", dict(operator="pointwise")), ("test_vit", dict(global_blocks=1)), ("test_convnext", {})],
)
def test_an_image_network_is_where_a_dual_one_can_start(trunk, options):
    image = stirred(trunk, pathways=("image",), tasks=IN1K)
    model = timm.create_model("unidual_trunk", trunk=trunk, tasks=IN1K, auxiliary=True, num_frames=4, **options).eval()
    weights = model.adopt(image.state_dict())
    for key in weights.keys() & {f"heads.image.in1k.{kind}" for kind in ("weight", "bias")}:
        weights[key.replace("image", "video")] = weights[key]
    model.load_state_dict(weights)
    close(model(x := clips(size=SIDE)), image(x), 1e-5)
    assert torch.equal(model(still := images(size=SIDE)), image(still))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_what_is_at_a_block_learns_at_its_rate(trunk, coarse):
    model = stirred(trunk, pixelwise=True, global_blocks=1 if trunk in TOKENS else 0)
    layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    network = timm.create_model(trunk, num_classes=7, **SMALLER.get(trunk, {}))
    expected = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    assert {name.removeprefix("trunk."): layer for name, layer in layers.items() if name.startswith("trunk.")} == {
        name: layer for name, layer in expected.items() if not name.startswith(network.default_cfg["classifier"])
    }
    assert layers.keys() == {name for name, _ in model.named_parameters()}
    for name, layer in layers.items():
        if name.startswith("norms."):
            assert layer == layers[name.removeprefix("norms.video.")], name
        if name.startswith("units."):
            block = next(of for of in model.block_names if name.startswith(f"units.{of}."))
            assert layer == layers[next(key for key in layers if key.startswith(f"trunk.{block}."))], name
        if name.startswith("heads."):
            assert layer == max(layers.values())
        if name.startswith("global_blocks."):
            assert layer == layers[f"trunk.{model.block_names[-1]}.norm1.weight"]


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_frozen_trunk_keeps_the_logits_of_images_to_the_bit(trunk, norms):
    model = stirred(trunk, freeze_trunk=True, norms=norms, drop_path_rate=0.5)
    still, x = images(size=SIDE), clips(batch=4, size=SIDE)
    with torch.no_grad():
        before, clip_before = model(still), model(x)
    objective = JointObjective(model, {"in1k.image": 0.0})
    learning = [weight for name, weight in model.named_parameters() if not name.startswith("heads.image.")]
    optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        objective.train()
        optimizer.zero_grad()
        objective({"in1k": (still, torch.tensor([0, 1])), "k400": (x, torch.tensor([0, 1, 2, 3]))})["total"].backward()
        optimizer.step()
        model.train()
        model(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.eval()(x), clip_before, rtol=1e-2)
        assert torch.equal(model(still), before)
    model.freeze_trunk(False)
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.train().trunk.training


def test_a_frozen_trunk_stays_frozen_in_a_saved_network_unless_it_is_asked_not_to(tmp_path):
    save_for_hf(stirred("test_efficientnet", freeze_trunk=True), str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert {name.split(".")[0] for name, weight in again.named_parameters() if not weight.requires_grad} == {"trunk"}
    assert again.training
    assert not again.trunk.training
    free = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, freeze_trunk=False)
    assert all(weight.requires_grad for weight in free.parameters())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_joint_training_reaches_every_weight(trunk):
    model = stirred(trunk, auxiliary=True, pixelwise=True)
    batch = {
        "in1k": (images(size=SIDE), torch.tensor([0, 1])),
        "k400": (clips(size=SIDE), torch.tensor([2, 3])),
    }
    losses = JointObjective(model).train()(batch)
    assert losses.keys() == {"in1k.image", "in1k.video", "k400.image", "k400.video", "total"}
    losses["total"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradient_checkpointing_changes_nothing(trunk, norms):
    plain = stirred(trunk, norms=norms, pixelwise=True, auxiliary=True).train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    for x in (images(size=SIDE), clips(size=SIDE)):
        for model in (plain, again):
            model(x).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)  # a batch is counted once


@torch.no_grad()
def test_synchronised_norms_keep_their_activations():
    model, x = stirred("test_efficientnet"), clips(size=SIDE)
    close(convert_sync_batchnorm(copy.deepcopy(model))(x), model(x), 1e-6)


# ---- timm's conventions ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_save_and_reload(trunk, tmp_path):
    changes = {
        "fresh": lambda m: None,
        "reset": lambda m: m.reset_classifier(4),
        "no heads": lambda m: m.reset_classifier(0),
        "auxiliary": lambda m: m.add_auxiliary_heads(),
    }
    trunk_args = SMALLER.get(trunk, {}) | {"drop_rate": 0.1}
    options = dict(trunk_args=trunk_args, pixelwise=True, norms="shared", reduction=4)
    for what, change in changes.items():
        model = stirred(trunk, **options)
        change(model)
        save_for_hf(model, str(tmp_path / what), safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path / what}", pretrained=True).eval()
        assert (again.tasks, again.spec, again._model_args) == (model.tasks, model.spec, model._model_args), what
        assert again._model_args["trunk"] == trunk
        for x in (images(size=SIDE), clips(size=SIDE)):
            assert torch.equal(again(x), model(x))
    five = timm.create_model(f"local-dir:{tmp_path / 'fresh'}", pretrained=False, num_classes=5)
    assert five.num_classes == 5


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_intermediates_of_clips(trunk):
    model, x = stirred(trunk), clips(size=SIDE)
    final, taken = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert len(taken) == len(model.feature_info)
    for info, maps in zip(model.feature_info, taken, strict=True):
        assert maps.shape == (2, info["num_chs"], 4, *[math.ceil(SIDE / info["reduction"])] * 2)
    early = model.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
    for a, b in zip(early, (taken[0], taken[2]), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_features_only(trunk, modality, tmp_path):
    model = stirred(trunk, auxiliary=True)
    x = images(size=SIDE) if modality == "image" else clips(size=SIDE)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    for indices in ((0, 1), (-1,)):
        extractor = timm.create_model(
            f"local-dir:{tmp_path}", pretrained=True, features_only=True, modality=modality, out_indices=indices
        ).eval()
        taken = model.forward_intermediates(x, modality=modality, indices=list(indices), intermediates_only=True)
        assert extractor.feature_info.channels() == [model.feature_info[number]["num_chs"] for number in indices]
        for a, b in zip(extractor(x), taken, strict=True):
            close(a, b, 1e-6)
        if indices == (0, 1):
            assert sum(p.numel() for p in extractor.parameters()) < sum(p.numel() for p in model.parameters()) / 1.3


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("prune_head", [True, False])
def test_pruned_networks_are_saved_as_they_are(trunk, prune_head, tmp_path):
    model, x = stirred(trunk), clips(size=SIDE)
    expected = model.forward_intermediates(x, indices=[1], stop_early=True)[0] if prune_head else model(x)
    model.prune_intermediate_layers([1] if prune_head else [len(model.feature_info) - 1], prune_head=prune_head)
    close(model(x), expected, 1e-6)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert (again.num_features, again.feature_info) == (model.num_features, model.feature_info)
    assert torch.equal(again(x), model(x))


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_grey_input_takes_timms_weights(trunk):
    network = theirs(trunk)
    grey = started(network, trunk, in_chans=1)
    x = images(chans=1, size=network.default_cfg["input_size"][-1])
    close(grey(x), network(x.expand(-1, 3, -1, -1)), 1e-4)
    assert grey(clips(chans=1, size=SIDE)).shape == (2, 7)


def test_a_clip_frame_average_needs_no_temporal_weights_at_all():
    assert not any(
        pathway_of(name)
        for name, _ in stirred(
            "test_efficientnet", operator="none", norms="shared", num_classes=0, num_video_classes=0
        ).named_parameters()
    )


# ---- serving --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize(
    ("trunk", "operator"),
    [*[(trunk, "pointwise") for trunk in MAPS], ("test_efficientnet", "local_mhra"), ("test_vit", "local_mhra")],
)
def test_folded_networks_give_the_same(trunk, operator, norms):
    options = dict(operator=operator, norms=norms)
    model = stirred(trunk, auxiliary=True, **options)
    folded = for_inference(model)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    again = for_inference(folded, modality="video")
    other = for_inference(stirred(trunk, auxiliary=True, **options))
    other.load_state_dict(folded.state_dict())
    for x in (images(size=SIDE), clips(size=SIDE)):
        for pathway in ("image", "video"):
            expected = model(x, modality=pathway)
            close(folded(x, modality=pathway), expected, 1e-5)
            close(other(x, modality=pathway), expected, 1e-5)
        close(again(x, task="k400"), model(x, modality="video", task="k400"), 1e-5)


# ---- names, rows and weights ----------------------------------------------------------------------------------------


def published(name: str):
    return timm.get_pretrained_cfg(f"{ARCHITECTURES[name.split('.')[0]]['trunk']}.{name.split('.', 1)[1]}")


@pytest.mark.parametrize("name", [name for name, row in CHECKPOINTS.items() if not row.url])
def test_rows_say_what_timm_says(name):
    row, cfg = CHECKPOINTS[name], published(name)
    assert row.spec == timm_spec(cfg)
    assert row.license == cfg.license
    assert row.license in ("apache-2.0", "mit", "bsd-3-clause")
    assert row.file or row.hf_hub_id == cfg.hf_hub_id == f"timm/{cfg.architecture}.{cfg.tag}"
    assert row.spec.clip == ClipSpec(length=8, sampling="segments")
    with torch.device("meta"):
        model, bare = timm.create_model(name), timm.create_model(name.split(".")[0])
    assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("in1k",)
    assert len(model.spec.class_names("in1k")) == 1000
    assert (bare.pathway_tasks("image"), bare.pathway_tasks("video")) == (("in1k",), ("k400",))
    ours = timm.data.resolve_model_data_config(model)
    expected = timm.data.resolve_data_config({}, pretrained_cfg=cfg.to_dict())
    for key in ("input_size", "interpolation", "mean", "std", "crop_mode"):
        assert ours[key] == expected[key]
    assert math.floor(ours["input_size"][-1] / ours["crop_pct"]) == math.floor(cfg.input_size[-1] / cfg.crop_pct)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["unidual_efficientnet_lite0.in1k", "unidual_vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k"]
)
def test_a_tag_takes_a_file_in_timms_format(name, tmp_path):
    network = theirs(ARCHITECTURES[name.split(".")[0]]["trunk"], num_classes=1000)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    overlay = dict(file=str(tmp_path / "timm.pth"))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = images(1, size=network.default_cfg["input_size"][-1])
    assert torch.equal(model(x), network(x))
    close(model(x[:, :, None].expand(-1, -1, 3, -1, -1)), network(x), 1e-5)
    wrong = dict(state_dict=theirs(ARCHITECTURES[name.split(".")[0]]["trunk"]).state_dict())
    with pytest.raises(CheckpointError, match=r"heads.image.in1k.weight \(7, \d+\) for \(1000, \d+\)"):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=wrong)
    tasks = {"mine": ("image", 1000), "k400": ("video", 5)}
    with pytest.warns(UserWarning, match="no weights for heads.image.mine, heads.video.k400 in the checkpoint"):
        mine = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, tasks=tasks)
    assert not torch.equal(mine.heads["image"]["mine"].weight, network.get_classifier().weight)


def test_heads_that_no_image_network_has_are_fresh():
    network = theirs("test_efficientnet")
    with pytest.warns(UserWarning, match="no weights for heads.video.k400 in the checkpoint: freshly initialised"):
        model = started(network, "test_efficientnet", tasks=TASKS, heads=None)
    assert torch.equal(model.heads["image"]["in1k"].weight, network.get_classifier().weight)


def test_the_weights_of_a_trunk_by_its_name_come_from_timms_repository(monkeypatch, tmp_path):
    network, asked = theirs("test_efficientnet", num_classes=1000), []

    def fetch(repository, filename, *, cache_dir):
        asked.append((repository, filename))
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    monkeypatch.setattr(create, "fetch_from_hub", fetch)
    tasks = {"in1k": ("image", 1000)}
    model = timm.create_model("unidual_trunk", pretrained=True, trunk="test_efficientnet.r160_in1k", tasks=tasks).eval()
    assert asked == [("timm/test_efficientnet.r160_in1k", "model.safetensors")]
    cfg = timm.get_pretrained_cfg("test_efficientnet.r160_in1k")
    assert model.spec == dataclasses.replace(timm_spec(cfg), classes={"in1k": "imagenet1k"})
    assert model.pretrained_cfg["license"] == cfg.license == "apache-2.0"
    x = images(size=160)
    assert torch.equal(model(x), network(x))
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert len(asked) == 1
    assert torch.equal(again(x), network(x))
    assert again.pretrained_cfg["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(trunk="swin_tiny_patch4_window7_224"), "is timm's SwinTransformer, allowed: EfficientNet, .*, Eva"),
        (
            dict(trunk="tf_efficientnet_light0"),
            "timm has no network 'tf_efficientnet_light0' to be a trunk, the nearest: ",
        ),
        (dict(operator="adaptor"), "no operator 'adaptor', allowed: adapter, .*; did you mean 'adapter'"),
        (dict(norms="own"), "no norms 'own', allowed: split, shared"),
        (dict(frame_mean="first"), "no frame_mean 'first', allowed: after_norm, before_norm"),
        (dict(per_block=3), "per_block must be 1 or 2, got 3"),
        (
            dict(per_block=2),
            r"needs transformer blocks of attention and MLP, timm's tf_efficientnet_lite0 \(EfficientNet\)",
        ),
        (dict(place="mlp"), "place='mlp' needs transformer blocks of attention and MLP, timm's tf_efficientnet_lite0"),
        (dict(place="block"), "no place 'block', allowed: attention, mlp"),
        (
            dict(temporal_downsample=True),
            "True needs a transformer's patches of any size, timm's tf_efficientnet_lite0",
        ),
        (
            dict(trunk="test_vit", temporal_downsample=True, trunk_args=dict(dynamic_img_size=False)),
            r"patches of any size, timm's test_vit \(VisionTransformer\) has none",
        ),
        (dict(global_blocks=1), "global_blocks must be 0 to 0, a transformer's blocks"),
        (dict(trunk="test_vit", global_blocks=7), "global_blocks must be 0 to 6"),
        (dict(trunk="test_vit", operator="pointwise"), r"blocks that end in a 1×1 projection, timm's test_vit"),
        (dict(trunk="resnet18", operator="pointwise"), r"end in a 1×1 projection, timm's resnet18 \(ResNet\) has none"),
        (
            dict(trunk="deit_tiny_distilled_patch16_224"),
            "is timm's VisionTransformerDistilled, allowed: EfficientNet, ResNet",
        ),
        (
            dict(trunk_args={"checkpoint_path": "a", "pretrained": True}),
            "arguments of the network alone, got checkpoint_path",
        ),
        (dict(frame_mean="before_norm"), "'before_norm' needs a norm behind the blocks, timm's tf_efficientnet_lite0"),
        (dict(operator="pointwise", pixelwise=True), "with operator='pointwise' images have the projection itself"),
    ],
)
def test_refused(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        timm.create_model("unidual_trunk", **arguments)


def test_another_side_is_told_in_the_spec():
    with torch.device("meta"):
        model = timm.create_model("unidual_efficientnet_lite0", img_size=320)
    assert (model.spec.crop, model.spec.resize) == ((320, 320), 365)  # 256 * 320 / 224 = 365.7
    again = DualTrunk(**model._model_args)
    assert again.spec == model.spec
    other = DualTrunk(**{**model._model_args, "spec": dataclasses.replace(model.spec, crop=(112, 112))})
    assert other.spec.crop == (112, 112)


def test_the_parameters_of_the_packaged_network():
    with torch.device("meta"):
        model = timm.create_model("unidual_efficientnet_lite0.in1k")
        trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    sizes = dict.fromkeys(("trunk", "units", "norms", "heads"), 0)
    for name, weight in model.named_parameters():
        sizes[name.split(".")[0]] += weight.numel()
    assert sizes["trunk"] == sum(weight.numel() for weight in trunk.parameters()) == 3_371_008
    widths = [16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    assert sizes["units"] == sum(2 * c * (c // 2) + c // 2 + 4 * (c // 2) + c for c in widths)
    assert sizes["heads"] == 2 * 1281 * 1000


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        (dict(), 7.11), (dict(per_block=2), 14.22), (dict(per_block=2, operator="local_mhra"), 18.99),
        (dict(operator="none", global_blocks=4), 28.36 + 0.086 + 0.002),
    ],
)  # fmt: skip
def test_what_operators_add_to_a_vit_base(options, millions):
    """The figures of ST-Adapter (7.11 M) and UniFormerV2."""
    with torch.device("meta"):
        model = timm.create_model("unidual_vit_base_patch16_clip_224", norms="shared", num_classes=0, **options)
    own = sum(
        weight.numel() for name, weight in model.named_parameters() if name.startswith(("units.", "global_blocks."))
    )
    assert own / 1e6 == pytest.approx(millions, abs=0.006)


def test_centred_filters():
    assert centred(torch.tensor([[[[3.0]]]])).flatten().tolist() == [0, 3, 0]


def test_hooks_are_refused_as_blocks_are_called_one_by_one():
    with pytest.raises(
        ValueError, match="feature_cls='hook' does not see the feature maps of unidual_trunk: use 'getter'"
    ):
        timm.create_model("unidual_trunk", trunk="test_efficientnet", features_only=True, feature_cls="hook")
