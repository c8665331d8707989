"""What a pathway of its own adds to a trunk that both share: operators over a clip's frames, zero at the start.

Frames are folded into the batch. Operators see tokens (B*T, N, C), the positions of N patches or of a map, which in
channels_last memory is the same without a copy. Over time they convolve (B, C, T, N), a view of those tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unidual_zoo.models.pathways import TEMPORAL_KERNEL, TemporalConv

ADAPTER_REDUCTION = 2.0  # ST-Adapter's 768 -> 384


class Adapter(nn.Module):
    """x + up(conv(down(x))): C -> C/reduction, a depthwise t×1×1 convolution, -> C, the last layer zero.

    (B*T, N, C) in and out. It is ST-Adapter's (Pan et al. 2022); kernel 1 makes its pixel-wise twin for images.
    """

    def __init__(self, channels: int, *, reduction: float = ADAPTER_REDUCTION, kernel: int = TEMPORAL_KERNEL) -> None:
        super().__init__()
        inner = max(1, int(channels / reduction))
        self.down = nn.Linear(channels, inner)
        self.conv = nn.Conv2d(inner, inner, (kernel, 1), padding=(kernel // 2, 0), groups=inner)
        self.up = nn.Linear(inner, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        return x + self.up(_tokens(self.conv(_over_time(self.down(x), batch))))


def _over_time(x: Tensor, batch: int) -> Tensor:
    return x.unflatten(0, (batch, -1)).permute(0, 3, 1, 2)  # (B*T, N, C) -> (B, C, T, N)


def _tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 1)  # (B, C, T, N) -> (B*T, N, C)


def temporal_projection(layer: nn.Conv2d | nn.Linear) -> TemporalConv:
    """The t×1×1 convolution that starts as a 1×1 convolution or linear layer: the UniDual unit's for videos."""
    out_chans, in_chans = layer.weight.shape[:2]
    conv = TemporalConv(in_chans, out_chans, bias=layer.bias is not None).to(layer.weight)
    with torch.no_grad():
        conv.weight.copy_(centred(layer.weight))
        if conv.bias is not None and layer.bias is not None:
            conv.bias.copy_(layer.bias)
    return conv


def centred(weight: Tensor) -> Tensor:
    """1×1 filters (O, I, ...) -> t×1×1 filters (O, I, t, 1) that are zero but at their own time step."""
    filters = weight.new_zeros((*weight.shape[:2], TEMPORAL_KERNEL, 1))
    filters[:, :, TEMPORAL_KERNEL // 2, 0] = weight.flatten(1)
    return filters
