"""What a pathway of its own adds to a trunk that both share: operators over a clip's frames, zero at the start.

Frames are folded into the batch. Operators see tokens (B*T, N, C), the positions of N patches or of a map, which in
channels_last memory is the same without a copy. Over time they convolve (B, C, T, N), a view of those tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers.activations import QuickGELU
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from unidual_zoo.models.attention import gather
from unidual_zoo.models.pathways import TEMPORAL_KERNEL, TemporalConv, for_depthwise
from unidual_zoo.models.trunks import Frames

ADAPTER_REDUCTION, MHRA_REDUCTION = 2.0, 1.5  # ST-Adapter's 768 -> 384, UniFormerV2's 768 -> 512
GLOBAL_MLP_RATIO = 4  # of UniFormerV2's global blocks
TEMPORAL_STRIDE = 2  # of UniFormerV2's temporal downsampling
QUERY_ALONE = -100.0  # a balance that lets the query through, exactly: its sigmoid is below what 1 can lose


def cosine_terms(x: Tensor, count: int) -> Tensor:
    """Features of frames (B, T, C) -> the first `count` terms (B, count·C) of their cosine transform over time.

    The first term is the mean; each of the others is the mean of the frames weighed by √2·cos(πk(t+½)/T), and zero from
    the T-th on, which T frames do not have. T terms tell all that the frames do, their order included.
    """
    num_frames = x.shape[1]
    time = (torch.arange(num_frames, device=x.device) + 0.5) / num_frames
    term = torch.arange(count, device=x.device)
    basis = torch.cos(torch.pi * term[:, None] * time)  # (count, T)
    scale = torch.where(term == 0, 1.0, 2.0**0.5) * (term < num_frames) / num_frames
    return ((basis * scale[:, None]).to(x.dtype) @ x).flatten(1)


class Adapter(nn.Module):
    """x + up(conv(down(x))): C -> C/reduction, a depthwise t×1×1 convolution, -> C, the last layer zero.

    (B*T, N, C) in and out. It is ST-Adapter's (Pan et al. 2022); with a BatchNorm in front, UniFormerV2's local MHRA
    (Li et al. 2022); kernel 1 makes a pixel-wise twin for images.
    """

    def __init__(
        self, channels: int, *, reduction: float = ADAPTER_REDUCTION, kernel: int = TEMPORAL_KERNEL, norm: bool = False
    ) -> None:
        super().__init__()
        inner = max(1, int(channels / reduction))
        self.norm = nn.BatchNorm2d(channels) if norm else None
        self.down = nn.Linear(channels, inner)
        self.conv = nn.Conv2d(inner, inner, (kernel, 1), padding=(kernel // 2, 0), groups=inner)
        self.up = nn.Linear(inner, channels)
        _zero(self.up)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        normed = x if self.norm is None else _tokens(self.norm(_over_time(x, batch)))
        return x + self.up(_tokens(self.conv(_over_time(self.down(normed), batch))))

    def fold(self) -> None:
        """Folds the BatchNorm into the layer behind it."""
        norm = self.norm
        if norm is None:
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            self.down.bias.add_(self.down.weight @ (norm.bias - norm.running_mean * scale))
            self.down.weight.mul_(scale)
        self.norm = None


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


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
    return centred_in_time(weight.flatten(1).unsqueeze(-1))


def centred_in_time(weight: Tensor) -> Tensor:
    """Filters (O, I, ...) -> filters (O, I, t, ...) that are zero but at their own time step."""
    filters = weight.new_zeros((*weight.shape[:2], TEMPORAL_KERNEL, *weight.shape[2:]))
    filters[:, :, TEMPORAL_KERNEL // 2] = weight
    return filters


class TemporalEmbedding(nn.Conv3d):
    """Clips (B, C, T, H, W) -> patches (B*ceil(T/2), H', W', D) that span three frames (UniFormerV2).

    A single frame counts twice. It starts as the embedding of patches, a convolution, at the frame in the middle.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        (height, width), bias = layer.kernel_size, layer.bias is not None
        kernel, stride = (TEMPORAL_KERNEL, height, width), (TEMPORAL_STRIDE, height, width)
        super().__init__(layer.in_channels, layer.out_channels, kernel, stride, (TEMPORAL_KERNEL // 2, 0, 0), bias=bias)
        with torch.no_grad():
            self.weight.copy_(centred_in_time(layer.weight))
            if self.bias is not None and layer.bias is not None:
                self.bias.copy_(layer.bias)

    def of_one_frame(self) -> nn.Conv2d:
        """The embedding of a single frame's patches, without weights."""
        kernel, stride = (self.kernel_size[1], self.kernel_size[2]), (self.stride[1], self.stride[2])
        bias = self.bias is not None
        return nn.Conv2d(self.in_channels, self.out_channels, kernel, stride, bias=bias, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 1:
            x = x.expand(-1, -1, TEMPORAL_STRIDE, -1, -1)
        return super().forward(x).permute(0, 2, 3, 4, 1).flatten(0, 1)


# ---- UniFormerV2's global blocks ------------------------------------------------------------------------------------


class GlobalBlock(nn.Module):
    """A query (B, 1, C) gathers from the tokens (B*T, L, C) of all frames of its clip (UniFormerV2's global UniBlock).

    The patches see their neighbours in space and time first, a depthwise 3×3×3 convolution as a residual. Then the
    query attends to all tokens and goes through an MLP; what the two add to it is zero at the start.
    """

    def __init__(self, channels: int, num_heads: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.dpe = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        nn.init.zeros_(self.dpe.bias)  # pyright: ignore[reportArgumentType]
        self.norm_tokens = nn.LayerNorm(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, GLOBAL_MLP_RATIO * channels, act_layer=QuickGELU, drop=(drop, 0.0))
        _zero(self.attn.out_proj)
        _zero(self.mlp.fc2)  # pyright: ignore[reportArgumentType]

    def forward(self, query: Tensor, x: Tensor, frames: Frames) -> Tensor:
        first, patches = x[:, : frames.prefix], x[:, frames.prefix :]
        maps = patches.unflatten(1, frames.grid).unflatten(0, (frames.batch, -1))  # (B, T, H', W', C)
        seen = self.dpe(for_depthwise(maps.permute(0, 4, 1, 2, 3))).permute(0, 2, 3, 4, 1)
        patches = patches + seen.flatten(2, 3).flatten(0, 1)
        tokens = torch.cat([first, patches], 1).unflatten(0, (frames.batch, -1)).flatten(1, 2)  # (B, T*L, C)
        query = query + self._attend(self.norm1(query), self.norm_tokens(tokens))
        return query + self.mlp(self.norm2(query))

    def _attend(self, query: Tensor, tokens: Tensor) -> Tensor:
        weights, biases = self.attn.in_proj_weight.chunk(3), self.attn.in_proj_bias.chunk(3)
        asked, (key, _), value = zip(weights, biases, strict=True)
        gathered = gather(F.linear(query, *asked), tokens, key=key, value=value, num_heads=self.attn.num_heads)
        return self.attn.out_proj(gathered)


class GlobalBlocks(nn.Module):
    """Global blocks at some of a trunk's blocks, by these numbers, the query they share, and the gate behind them."""

    def __init__(self, channels: int, num_heads: int, *, numbers: range, drop: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, channels))
        self.blocks = nn.ModuleDict({str(number): GlobalBlock(channels, num_heads, drop=drop) for number in numbers})
        self.balance = nn.Parameter(torch.zeros(channels))

    def gate(self, query: Tensor, mean: Tensor, *, total: float) -> Tensor:
        """The query (B, C) and the mean of the frames (B, C), mixed by channel with weights of the sum `total`.

        A balance of 0 mixes equal parts; `QUERY_ALONE` lets the query through alone.
        """
        share = self.balance.sigmoid()
        return total * ((1 - share) * query + share * mean)
