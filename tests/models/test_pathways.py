"""Convolutions over time: their gradients as products of matrices, on the processors where oneDNN's own are slow."""

import copy

import pytest
import torch
from models.small import clips, small
from torch import Tensor, nn

from unidual_zoo.models.pathways import TemporalConv, _ConvOverTime

SHAPES = [(1, 1, 1), (2, 1, 2), (1, 2, 1), (3, 8, 1), (3, 8, 2), (2, 7, 2)]  # clips, frames, stride


def on_avx2(monkeypatch, capability: str = "AVX2") -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def gradients(module: nn.Module, *inputs, **kwargs) -> list[Tensor]:
    """Those of the mean square of the output, with respect to the first input and all weights."""
    x = inputs[0].detach().requires_grad_()
    output = module(x, *inputs[1:], **kwargs)
    return [output, *torch.autograd.grad(output.square().mean(), [x, *module.parameters()])]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("batch", "frames", "stride"), SHAPES)
def test_they_are_those_of_the_convolution(monkeypatch, batch, frames, stride, bias):
    conv = TemporalConv(6, 5, stride=stride, bias=bias).to(memory_format=torch.channels_last)
    x = torch.randn(batch * frames, 6, 4, 3).contiguous(memory_format=torch.channels_last)
    on_avx2(monkeypatch, "AVX512")
    output, *expected = gradients(conv, x, batch)
    on_avx2(monkeypatch)
    same, *found = gradients(conv, x, batch)
    assert torch.equal(output, same)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert found[1].stride() == conv.weight.stride()  # or DistributedDataParallel copies them


@pytest.mark.parametrize("stride", [1, 2])
def test_they_have_gradients_of_their_own(stride):
    rows, weight, bias = (torch.randn(*shape, dtype=torch.double, requires_grad=True)
                          for shape in ((2, 3, 5, 4), (2, 3, 3, 1), (2,)))  # fmt: skip

    def convolve(*inputs):
        return _ConvOverTime.apply(*inputs, (stride, 1), (1, 0))

    assert torch.autograd.gradcheck(convolve, (rows, weight, bias))
    assert torch.autograd.gradgradcheck(convolve, (rows, weight, bias))


def test_a_network_learns_the_same(monkeypatch):
    model, x = small("r2plus1d10").train(), clips(2, 8)
    on_avx2(monkeypatch, "AVX512")
    expected = gradients(copy.deepcopy(model), x)
    on_avx2(monkeypatch)
    for mine, theirs in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch.func.jvp's first call
def test_where_they_are_used(monkeypatch):
    """Where a Function can be and helps: in float32, with filters that learn, by autograd alone."""
    conv, x = TemporalConv(4, 3), torch.randn(8, 4, 5, 5)

    def used(layer: TemporalConv = conv, x: Tensor = x) -> bool:
        return "_ConvOverTime" in names(layer(x, 2).grad_fn)

    def names(node) -> str:
        return "" if node is None else node.name() + "".join(names(before) for before, _ in node.next_functions)

    on_avx2(monkeypatch, "AVX512")
    assert not used()
    on_avx2(monkeypatch)
    assert used()
    with torch.no_grad():
        assert not used()
    with torch.autocast("cpu", torch.bfloat16):
        assert not used()
    assert not used(copy.deepcopy(conv).double(), x.double())
    assert not used(copy.deepcopy(conv).requires_grad_(False), x.clone().requires_grad_())
    weights = dict(conv.named_parameters())
    tangents = {name: torch.ones_like(weight) for name, weight in weights.items()}

    def called(weights):
        return torch.func.functional_call(conv, weights, (x, 2))

    change = torch.func.jvp(called, (weights,), (tangents,))[1]  # it is linear in its filters
    torch.testing.assert_close(change, called(tangents), atol=1e-5, rtol=1e-4)
    stacked = {name: torch.stack([weight, 2 * weight]) for name, weight in weights.items()}
    torch.testing.assert_close(torch.func.vmap(called)(stacked)[1], 2 * conv(x, 2), atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()
    compiled = torch.compile(conv, backend=lambda graph, inputs: graph.forward, fullgraph=True)
    torch.testing.assert_close(compiled(x, 2), conv(x, 2))
