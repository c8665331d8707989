"""UniDual on trunks of timm: images to the bit as timm has them, clips that start as the mean of their frames."""

import copy
from typing import ClassVar

import pytest
import timm
import torch
from models.base import FamilyTests
from models.on_trunks import IN1K, MAPS, SIDE, TOKENS, TRUNKS, started, stirred, theirs
from models.small import clips, close, images
from timm.models._hub import save_for_hf
from torch import nn

from unidual_zoo import for_inference
from unidual_zoo.explain import explain
from unidual_zoo.models import dual_trunk
from unidual_zoo.models.pathways import pathway_of

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
@pytest.mark.parametrize(
    ("operator", "norms"),
    [("adapter", "split"), ("adapter", "shared"), ("local_mhra", "shared"), ("pointwise", "split"), ("none", "split")],
)
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


# ---- what is refused ------------------------------------------------------------------------------------------------


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
