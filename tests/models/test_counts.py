"""Parameters and multiply-adds of the full-sized networks, against counts made outside this project."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import unidual_zoo  # noqa: F401
from unidual_zoo.models.pathways import pathway_of
from unidual_zoo.models.summary import count_multiply_adds, multiply_adds, summarise

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
    counted = count_multiply_adds(model, x, modality=pathway)
    assert counted / 1e9 == pytest.approx(MULTIPLY_ADDS[name, pathway, size], abs=0.006)


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


class Attention(nn.Module):
    """Norms, a convolution, a linear layer and attention over the positions: (B, 3, H, W) -> (B, N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
        self.norm, self.qkv = nn.LayerNorm(4), nn.Linear(4, 12)

    def forward(self, x):
        tokens = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        return F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, dim=-1))


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("inference", [False, True])
def test_multiply_adds_by_hand(device, inference):
    """With memory or without, and in inference mode, where calls that are made of others come as a whole."""
    with torch.inference_mode(inference), torch.device(device):
        network, x = Attention(), -torch.ones(1, 3, 7, 9)
        counted = count_multiply_adds(network, x)
    tokens = 3 * 4
    assert counted == tokens * (4 * 27 + 4 * 12 + 2 * tokens * 4)
    assert network.training
    assert device == "meta" or not x.any(), "what has memory is computed, also in place"


def test_norms_without_memory_lay_out_what_they_give_as_others_do() -> None:
    """A view that is possible with memory is so without; and what was in evaluation mode alone stays so."""
    for device in ("meta", "cpu"):
        with torch.device(device):
            network = nn.ModuleDict({"norm": nn.LayerNorm(8), "frozen": nn.BatchNorm2d(8), "fc": nn.Linear(32, 2)})
        network["frozen"].eval()
        network.forward = lambda x, net=network: net["fc"](net["norm"](net["frozen"](x).movedim(1, 3)).view(1, 32))
        assert count_multiply_adds(network, torch.empty(1, 8, 2, 2, device=device)) == 64
        assert [network.training, network["frozen"].training] == [True, False]
