"""Attention of a few queries, and QuickGELU folded."""

import torch
import torch.nn.functional as F
from timm.layers.activations import QuickGELU
from timm.layers.mlp import Mlp
from torch import nn

from unidual_zoo.models.attention import fold_quick_gelu, gather
from unidual_zoo.models.timesformer import TemporalAttention


def test_few_queries_gather_what_attention_gathers() -> None:
    torch.manual_seed(0)
    queries, tokens = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    key, value = (torch.randn(8, 8), torch.randn(8)), (torch.randn(8, 8), torch.randn(8))
    projected = (queries, F.linear(tokens, *key), F.linear(tokens, *value))
    q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in projected)
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(gather(queries, tokens, key=key[0], value=value, num_heads=2), expected)


def test_float16_holds_large_scores() -> None:
    """Of the scores 40,000 and 0, which a product of 80,000 would have to be halved to."""
    tokens = torch.tensor([[[200.0, 0, 0, 0], [0, 1, 2, 3]]]).half()
    queries = torch.tensor([[[400.0, 0, 0, 0]]]).half()
    value = torch.eye(4).half(), torch.zeros(4).half()
    gathered = gather(queries, tokens, key=torch.eye(4).half(), value=value, num_heads=1)
    assert gathered.tolist() == [[[200, 0, 0, 0]]]


def test_every_weight_has_a_gradient() -> None:
    """One without would be an unused parameter, with which processes that train together stop."""
    attention = nn.MultiheadAttention(8, 2)
    (key, _), value = zip(attention.in_proj_weight.chunk(3)[1:], attention.in_proj_bias.chunk(3)[1:], strict=True)
    gather(torch.randn(2, 1, 8), torch.randn(2, 5, 8), key=key, value=value, num_heads=2).sum().backward()
    assert attention.in_proj_weight.grad is not None
    assert attention.in_proj_bias.grad is not None


def test_quick_gelu_becomes_silu_and_shared_weights_are_scaled_once() -> None:
    torch.manual_seed(0)
    first, second, gelu = Mlp(4, 8, act_layer=QuickGELU), Mlp(4, 8, act_layer=QuickGELU), Mlp(4, 8)
    second.fc1, second.fc2.weight = first.fc1, first.fc2.weight
    network, x = nn.ModuleList([first, second, gelu]), torch.randn(3, 4)
    expected = [mlp(x) for mlp in network]
    fold_quick_gelu(network)
    assert [type(mlp.act) for mlp in network] == [nn.SiLU, nn.SiLU, nn.GELU]
    for mlp, output in zip(network, expected, strict=True):
        torch.testing.assert_close(mlp(x), output)


def test_what_has_hooks_is_not_folded() -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(4, 8, act_layer=QuickGELU), torch.randn(3, 4)
    mlp.fc2.register_forward_hook(lambda layer, inputs, output: output + inputs[0].sum())
    expected = mlp(x)
    fold_quick_gelu(nn.ModuleList([mlp]))
    torch.testing.assert_close(mlp(x), expected)


def test_attention_over_time_is_folded_once() -> None:
    """A copy that serves may be copied again."""
    torch.manual_seed(0)
    attention, x = TemporalAttention(8, 2, drop_path=0.0).eval().requires_grad_(False), torch.randn(2, 3, 4, 8)
    nn.init.normal_(attention.fc.weight)
    expected = attention(x)
    for _ in range(2):
        attention.fold()
        torch.testing.assert_close(attention(x), expected)
    assert isinstance(attention.attn.proj, nn.Identity)
