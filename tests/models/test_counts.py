"""Parameters and multiply-adds of the full-sized networks, against counts made outside this project."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import unidual_zoo  # noqa: F401
from unidual_zoo.models.pathways import pathway_of
from unidual_zoo.models.summary import multiply_adds, summarise

PARAMETERS = {
    "unidual34": 69_766_575,
    "unidual34_aux": 70_484_775,
    "unidual152": 127_884_483,
    "unidual152_aux": 130_753_083,
    "r2plus1d34": 63_697_175,
    "r2plus1d152": 118_226_785,
    "r2d34": 52_992_751,
    "r2d152": 104_649_529,
    "r2plus1d18": 31_505_325,
}
MULTIPLY_ADDS = {  # in units of 1e9
    ("unidual34_aux", "video", (8, 112, 112)): 38.09,
    ("unidual34_aux", "image", (112, 112)): 8.81,
    ("unidual152_aux", "video", (16, 224, 224)): 128.30,
    ("unidual152_aux", "image", (224, 224)): 20.18,
    ("r2plus1d18", "video", (16, 112, 112)): 40.52,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "pathway", "size"), MULTIPLY_ADDS)
def test_multiply_adds(name, pathway, size):
    with torch.device("meta"):
        model, x = timm.create_model(name).eval(), torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, modality=pathway)
    assert counter.get_total_flops() / 2e9 == pytest.approx(MULTIPLY_ADDS[name, pathway, size], abs=0.006)


@pytest.mark.parametrize(("name", "share"), [("unidual34", 2 / 3), ("unidual152", 3 / 4)])
def test_the_share_of_weights_that_serves_both_pathways(name, share):
    """README says two thirds, with 152 layers three quarters."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    both = sum(weight.numel() for key, weight in model.named_parameters() if pathway_of(key) is None)
    assert both / sum(weight.numel() for weight in model.parameters()) == pytest.approx(share, abs=0.02)


def test_removing_the_auxiliary_heads_of_aux_gives_unidual():
    with torch.device("meta"):
        model, plain = timm.create_model("unidual34_aux"), timm.create_model("unidual34")
    model.drop_auxiliary_heads()
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_tags_of_one_name_are_counted_each_as_they_are():
    """What differs may be no module: how a network pools over time. Heads of other sizes are counted, too."""
    names = ["c2d50.ptv_k400", "c2d50.sf_nopool_k400", "i3d50_nl.sf_k400", "i3d50_nl.mm_k400", "r2plus1d34.ig65m_clip8"]
    for name, row in zip(names, summarise(names), strict=True):
        with torch.device("meta"):
            model = timm.create_model(name)
        assert row.multiply_adds == {pathway: multiply_adds(model, pathway) for pathway in model.pathways}
