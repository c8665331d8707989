"""Networks of timm taken apart: their blocks, and whose norms and other weights are."""

import copy

import pytest
import timm
import torch
from models.on_trunks import IN1K, SIDE, SMALLER, TOKENS, TRUNKS, started, stirred, theirs
from models.small import clips, close, images
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from unidual_zoo.models import trunks
from unidual_zoo.models.pathways import pathway_of

NORMED = ["test_convnext", *TOKENS]  # behind the last block


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
@pytest.mark.parametrize("trunk", ["test_efficientnet", "test_resnet", "test_vit"])  # their norms are of three classes
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
def test_synchronised_norms_keep_their_activations():
    model, x = stirred("test_efficientnet"), clips(size=SIDE)
    close(convert_sync_batchnorm(copy.deepcopy(model))(x), model(x), 1e-6)
