"""Attention of a few queries, and what transformers gain when they only serve."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.activations import QuickGELU
from timm.layers.mlp import Mlp
from torch import Tensor, nn

QUICK_GELU = 1.702  # x·σ(1.702x)


def gather(queries: Tensor, tokens: Tensor, *, key: Tensor, value: tuple[Tensor, Tensor], num_heads: int) -> Tensor:
    """Queries (B, Q, C), already projected, -> what they gather (B, Q, C) from tokens (B, N, C) by attention.

    Keys and values of the tokens are never computed, two of the C×C products a token and the memory of their results:
    of a head with the queries q, q·(Wx) is (qW)·x, and the values' sum by the weights a is W(ax). It is the faster form
    where the queries are fewer than a head's channels. `key` is a weight (C, C) alone: a bias of the keys adds the same
    to the scores of all tokens, which no softmax sees, and in half precision it would cost the scores their last bits.
    `value` is a weight and a bias (C,).
    """
    q = queries.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, heads, Q, d)
    q = q * q.shape[-1] ** -0.5  # before the products, which float16 can hold then as long as it holds the scores
    scores = (q @ key.unflatten(0, (num_heads, -1))).flatten(1, 2) @ tokens.transpose(1, 2)  # (B, heads*Q, N)
    gathered = scores.softmax(-1).to(tokens.dtype) @ tokens  # (B, heads*Q, C)
    weight, bias = (part.unflatten(0, (num_heads, -1)) for part in value)
    values = gathered.unflatten(1, (num_heads, -1)) @ weight.transpose(1, 2) + bias.unsqueeze(1)  # (B, heads, Q, d)
    return values.transpose(1, 2).flatten(2)


def is_plain(layer: nn.Module) -> bool:
    """Whether nothing but a layer's weights tells what it gives, so that they can be folded: no hook, no
    parametrisation, no adapter around it."""
    return type(layer) in (nn.Linear, nn.Conv2d) and not (layer._forward_hooks or layer._forward_pre_hooks)


def fold_quick_gelu(network: nn.Module) -> None:
    """Makes each QuickGELU of a network that is to serve a SiLU in place: the layers around it take the factor."""
    mlps: list[Any] = [
        module
        for module in network.modules()
        if isinstance(module, Mlp)
        and isinstance(module.act, QuickGELU)
        and isinstance(module.norm, nn.Identity)
        and is_plain(module.fc1)
        and is_plain(module.fc2)
    ]
    scaled: dict[Tensor, float] = {}  # each weight once, though two pathways may share it
    for mlp in mlps:
        mlp.act = nn.SiLU(inplace=True)
        scaled |= dict.fromkeys(mlp.fc1.parameters(), QUICK_GELU) | {mlp.fc2.weight: 1 / QUICK_GELU}
    with torch.no_grad():
        for weight, factor in scaled.items():
            weight.mul_(factor)
