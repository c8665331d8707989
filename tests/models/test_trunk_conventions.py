"""Networks on trunks as timm's: saved, taken apart, pruned, with grey input."""

import math

import pytest
import timm
import torch
from models.on_trunks import SIDE, SMALLER, TRUNKS, started, stirred, theirs
from models.small import clips, close, images
from timm.models._hub import save_for_hf


@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
def test_save_and_reload(trunk, tmp_path):
    options = dict(trunk_args=SMALLER.get(trunk, {}) | {"drop_rate": 0.1}, pixelwise=True, norms="shared", reduction=4)
    model = stirred(trunk, **options)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert (again.tasks, again.spec, again._model_args) == (model.tasks, model.spec, model._model_args)
    assert again._model_args["trunk"] == trunk
    for x in (images(size=SIDE), clips(size=SIDE)):
        assert torch.equal(again(x), model(x))
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=False, num_classes=5).num_classes == 5


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


def test_hooks_are_refused_as_blocks_are_called_one_by_one():
    with pytest.raises(
        ValueError, match="feature_cls='hook' does not see the feature maps of unidual_trunk: use 'getter'"
    ):
        timm.create_model("unidual_trunk", trunk="test_efficientnet", features_only=True, feature_cls="hook")
