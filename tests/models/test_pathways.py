"""Convolutions over time: their gradients as products of matrices, on the processors where oneDNN's own are slow."""

import copy

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from models.small import clips, small
from torch import Tensor, nn
from torch.nn.utils import parametrize

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


def test_within_transforms_of_something_else(monkeypatch):
    """Of a head alone behind it; torch.func takes no Function that has no rules, whatever the Function is given."""
    on_avx2(monkeypatch)
    conv, x, heads = TemporalConv(4, 3), torch.randn(8, 4, 5, 5), torch.randn(5, 3)
    scores = torch.func.vmap(lambda head: conv(x, 2).mean((0, 2, 3)) @ head)(heads)
    torch.testing.assert_close(scores, heads @ conv(x, 2).mean((0, 2, 3)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # the first dual tensor
def test_tangents_of_the_bias_alone(monkeypatch):
    on_avx2(monkeypatch)
    conv, x = TemporalConv(4, 3, bias=True), torch.randn(8, 4, 5, 5)
    assert conv.bias is not None
    with forward_ad.dual_level():
        weights = {"bias": forward_ad.make_dual(conv.bias, torch.ones(3))}
        output = torch.func.functional_call(conv, weights, (x, 2))
        torch.testing.assert_close(forward_ad.unpack_dual(output).tangent, torch.ones(8, 3, 5, 5))


def test_a_batch_of_gradients(monkeypatch):
    on_avx2(monkeypatch)
    conv, x = TemporalConv(4, 3, stride=2, bias=True), torch.randn(8, 4, 5, 5, requires_grad=True)
    output, inputs = conv(x, 2), [x, *conv.parameters()]
    given = torch.randn(2, *output.shape)
    batched = torch.autograd.grad(output, inputs, given, is_grads_batched=True, retain_graph=True)
    for index, one in enumerate(given):
        for found, expected in zip(batched, torch.autograd.grad(output, inputs, one, retain_graph=True), strict=True):
            torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=1e-4)


def test_autocast_around_the_backward_pass_rounds_nothing(monkeypatch):
    """As torch's own convolution, which keeps to what its forward pass had."""
    on_avx2(monkeypatch)
    conv, x = TemporalConv(4, 3), torch.randn(8, 4, 5, 5)
    (expected,) = torch.autograd.grad(conv(x, 2).square().sum(), conv.weight)
    loss = conv(x, 2).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(loss, conv.weight)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_parametrization_is_computed_once(monkeypatch):
    """Spectral norms take a step of power iteration, and random ones draw, each time that they are asked."""

    class Counted(nn.Module):
        times = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.times += 1
            return 2 * weight

    on_avx2(monkeypatch)
    conv, counted = TemporalConv(4, 3), Counted()
    parametrize.register_parametrization(conv, "weight", counted)
    counted.times = 0
    conv(torch.randn(8, 4, 5, 5), 2)
    assert counted.times == 1


@pytest.mark.parametrize("changed", [{"dilation": (2, 1), "padding": (2, 0)}, {"padding": "same"}])
def test_a_changed_geometry_is_kept_to(monkeypatch, changed):
    """Networks for dense prediction widen the filters of one that is built."""
    conv, x = TemporalConv(4, 3), torch.randn(8, 4, 5, 5)
    for name, value in changed.items():
        setattr(conv, name, value)
    on_avx2(monkeypatch, "AVX512")
    expected = gradients(conv, x, 2)
    on_avx2(monkeypatch)
    for found, own in zip(gradients(conv, x, 2), expected, strict=True):
        torch.testing.assert_close(found, own, atol=1e-5, rtol=1e-4)
