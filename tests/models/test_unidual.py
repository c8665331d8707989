"""UniDual and its baselines: what every family must pass, and what is theirs alone."""

import copy

import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import SMALL, TASKS, clips, close, images, small
from timm.models import save_for_hf

from unidual_zoo.models import unidual

EXPECTED = [
    "r2d34", "r2d152", "r2plus1d18", "r2plus1d34",
    "r2plus1d152", "r2d34_multitask", "r2d34_lstm_multitask", "r2plus1d34_multitask",
    "unidual34", "unidual34_aux", "unidual152", "unidual152_aux",
    "unidual10", "unidual10_aux", "r2d10", "r2plus1d10",
    "r2d10_multitask", "r2d10_lstm_multitask", "r2plus1d10_multitask",
]  # fmt: skip


SHALLOW, OPTIONS = dict(depths=(1, 1)), dict(pool=True, norms="shared")


class TestUniDual(FamilyTests):
    family, small, shallow, options = unidual.FAMILY, SMALL, SHALLOW, OPTIONS
    names = (  # made small, those of other sizes, or of another number of tasks, are the same networks
        "r2d10", "r2plus1d18", "r2d10_lstm_multitask", "r2plus1d10_multitask", "unidual10", "unidual152_aux",
    )  # fmt: skip


def test_the_systems_of_the_paper_are_there():
    assert sorted(unidual.ARCHITECTURES) == sorted(EXPECTED)


def test_the_aux_networks_have_every_head_on_both_pathways():
    for name in EXPECTED:
        model = small(name, tasks=TASKS)
        everywhere = all(model.pathway_tasks(pathway) == ("in1k", "k400") for pathway in model.pathways)
        assert everywhere == (name.endswith("_aux") or len(model.pathways) == 1)


@pytest.mark.parametrize(("name", "last"), [("unidual10", 2), ("r2d10_lstm_multitask", 1), ("r2plus1d10", 0)])
def test_a_pruned_network_is_its_first_stages(name, last, tmp_path):
    model, x = small(name), images()
    (expected,) = model.forward_intermediates(x, [last], intermediates_only=True)
    model.prune_intermediate_layers([last])
    close(model.forward_features(x), expected)
    assert len(model.stages) == last
    model.reset_classifier(3)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(width=0.01), "width 0.01 leaves no channels"),
        (dict(norms="both"), "no norms 'both', allowed: split, shared"),
        (dict(frame_pool="lstm"), r"needs pathways \('image',\) alone"),
    ],
)
def test_refused_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("unidual10", **kwargs)


def test_shared_norms_have_fewer_parameters_and_the_dual_convolutions_keep_their_own():
    split, shared = small("unidual10", norms="split"), small("unidual10", norms="shared")
    unit = shared.stages[1][0].conv1
    assert list(unit.spatial_norm) == ["shared"]
    assert list(unit.norm) == ["image", "video"]
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in split.parameters())


def test_hooks_extract_what_the_getter_does():
    arguments = dict(features_only=True, out_indices=(0, 2, 4))
    torch.manual_seed(0)
    getter = small("unidual10", **arguments)
    torch.manual_seed(0)
    hooks = small("unidual10", **arguments, feature_cls="hook")
    assert [info["num_chs"] for info in hooks.feature_info.info] == [
        info["num_chs"] for info in getter.feature_info.info
    ]
    for ours, theirs in zip(hooks(x := images()), getter(x), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("how", ["synchronised", "compiled"])
def test_recomputing_counts_a_batch_once(how):
    plain = small("unidual10", depths=(1,)).train()
    model = copy.deepcopy(plain)
    if how == "synchronised":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.set_grad_checkpointing()
    call = torch.compile(model, backend="aot_eager", fullgraph=True) if how == "compiled" else model
    call(x := clips()).sum().backward()
    plain(x).sum().backward()
    close(model.stem.spatial.weight.grad, plain.stem.spatial.weight.grad)
    for (key, a), b in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
