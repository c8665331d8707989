"""The convolutions of the two pathways, and how one pathway's weights become the other's.

Frames are folded into the batch: every activation is (B*T, C, H, W) in channels_last memory, T = 1 for images. A
spatial convolution is then the same Conv2d for both modalities, and a temporal one is a Conv2d over the view
(B, C, T, H*W), which channels_last memory already is: nothing is copied and no Conv3d is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO

SHARED = "shared"
TEMPORAL_KERNEL = 3


class PerPathway(nn.ModuleDict):
    """Modules by pathway, of which `keep` leaves one pathway's; one named "shared" serves all."""

    def keep(self, pathway: str) -> None:
        """Removes the other pathways' modules; a shared one becomes this pathway's own."""
        if SHARED in self:
            self[pathway] = self.pop(SHARED)
        for name in set(self) - {pathway}:
            del self[name]


class PathwayNorm(PerPathway):
    """BatchNorm of (N, C, H, W): each pathway's own, or one that all pathways use."""

    def __init__(self, channels: int, *, pathways: Sequence[str], shared: bool, eps: float) -> None:
        names = (SHARED,) if shared else pathways
        super().__init__({name: nn.BatchNorm2d(channels, eps=eps) for name in names})

    def forward(self, x: Tensor, pathway: str) -> Tensor:
        return self[SHARED if SHARED in self else pathway](x)


@dataclass(frozen=True, kw_only=True)
class Norms:
    """The BatchNorms of a network's blocks: for which pathways, and whether those behind shared layers are shared."""

    pathways: Sequence[str]
    shared: bool
    eps: float

    def behind_shared(self, channels: int) -> PathwayNorm:
        """The norm behind a layer that all pathways use."""
        return PathwayNorm(channels, pathways=self.pathways, shared=self.shared, eps=self.eps)

    def behind_own(self, channels: int) -> PathwayNorm:
        """The norm behind a layer that each pathway has for itself."""
        return PathwayNorm(channels, pathways=self.pathways, shared=False, eps=self.eps)


class TemporalConv(nn.Conv2d):
    """t×1×1 convolution (B*T, C, H, W) -> (B*ceil(T/stride), C', H, W), zero-padded in time."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1, bias: bool = False) -> None:
        kernel, padding = (TEMPORAL_KERNEL, 1), (TEMPORAL_KERNEL // 2, 0)
        super().__init__(in_chans, out_chans, kernel, (stride, 1), padding, bias=bias)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        rows, weight, bias = time_to_rows(x, batch), self.weight, self.bias  # once: parametrizations compute them
        if self._learns_by_products(rows, weight, bias):
            y: Any = _ConvOverTime.apply(rows, weight, bias, self.stride, self.padding)
        else:
            y = self._conv_forward(rows, weight, bias)
        return time_to_batch(y, x.shape[2])

    def _learns_by_products(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        return (
            is_plain(rows, weight, *(() if bias is None else (bias,)))  # first: a compiler takes no more than that
            and torch.is_grad_enabled()
            and weight.requires_grad
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and self.dilation == (1, 1)
            and rows.device.type == "cpu"
            and rows.dtype == weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )


class _ConvOverTime(torch.autograd.Function):
    """Conv2d of rows (B, C, T, P) by t×1 filters; their gradient is a product of matrices for each of the t.

    oneDNN's takes up to ten times as long where there is AVX2 and no AVX-512 (`docs/results/speed.md`).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(rows, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (rows, weight) = gradients, ctx.saved_tensors
        to_rows, to_weight, to_bias = ctx.needs_input_grad[:3]
        geometry = ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1  # dilation, not transposed, groups
        of_rows, _, of_bias = torch.ops.aten.convolution_backward(
            gradient, rows, weight, (len(weight),), *geometry, (to_rows, False, to_bias)
        )
        of_weight = None
        if to_weight:
            with torch.autocast("cpu", enabled=False):  # in which a backward pass may run, and which rounds products
                of_weight = _filters_gradient(rows, gradient, weight.shape[2], ctx.stride[0], ctx.padding[0])
        return of_rows, of_weight, of_bias, None, None


def _filters_gradient(rows: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Rows (B, C, T, P), the gradient of the output (B, C', T', P) -> that of the filters (C', C, t, 1)."""
    rows, gradient = rows.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # (B, T, P, C)
    sums = []
    for tap in range(kernel):
        first = max(0, -(-(padding - tap) // stride))  # the first output whose input is not padding, and the end
        end = max(first, min(gradient.shape[1], (rows.shape[1] - 1 + padding - tap) // stride + 1))
        seen = rows[:, first * stride + tap - padding :: stride][:, : end - first]
        given = gradient.narrow(1, first, end - first)
        sums.append((_positions(given).mT @ _positions(seen)).sum(0))
    return torch.stack(sums, 1).unsqueeze(2).permute(0, 3, 1, 2)  # in the memory of the filters: see to_channels_last


def _positions(x: Tensor) -> Tensor:
    """(B, T, P, C) -> (B, T*P, C); `torch.autograd.grad` with `is_grads_batched` has no rule for `flatten`."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def is_plain(*tensors: Tensor) -> bool:
    """Whether autograd alone sees the tensors: no trace, no compiler, no transform of torch.func, no tangents.

    A `torch.autograd.Function` that has neither a rule for vmap nor one for tangents takes nothing else; within a
    transform not even tensors that the transform leaves alone.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return all(unpack_dual(x).tangent is None for x in tensors)


class PixelConv(nn.Conv2d):
    """1×1 convolution (B, C, H, W) -> (B, C', H, W): the image pathway's counterpart of the temporal one."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__(in_chans, out_chans, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        return super().forward(x)


class UniDualConv(nn.Module):
    """The UniDual unit (paper §2.2, Figure 1c): a shared d×d convolution, then each pathway's point-wise one.

    spatial -> BatchNorm -> ReLU -> temporal (video) or pixel-wise (image) -> BatchNorm, (B*T, C, H, W) in and out. With
    the video pathway alone it is R(2+1)D's factorised convolution, with the image pathway alone R2D's.
    """

    def __init__(
        self,
        in_chans: int,
        mid_chans: int,
        out_chans: int,
        *,
        norms: Norms,
        kernel: int = 3,
        stride: int = 1,
        temporal_stride: int = 1,
    ) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(in_chans, mid_chans, kernel, stride, kernel // 2, bias=False)
        self.spatial_norm = norms.behind_shared(mid_chans)
        self.act = nn.ReLU(inplace=True)
        self.pointwise = PerPathway()
        if IMAGE in norms.pathways:
            self.pointwise[IMAGE] = PixelConv(mid_chans, out_chans)
        if VIDEO in norms.pathways:
            self.pointwise[VIDEO] = TemporalConv(mid_chans, out_chans, stride=temporal_stride)
        self.norm = norms.behind_own(out_chans)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.spatial.weight.dtype

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        x = self.act(self.spatial_norm(self.spatial(x), pathway))
        return self.norm(self.pointwise[pathway](x, batch), pathway)


def pathway_of(key: str) -> str | None:
    """The pathway that a weight belongs to by its name, or None if the pathways share it."""
    return next((part for part in key.split(".") if part in MODALITIES), None)


def select_pathway(state_dict: Mapping[str, Tensor], pathway: str) -> dict[str, Tensor]:
    """The weights of one pathway out of a UniDual's: an R2D's ("image") or an R(2+1)D's ("video")."""
    kept = {key: value for key, value in state_dict.items() if pathway_of(key) in (None, pathway)}
    return {key.replace(f"_norm.{SHARED}.", f"_norm.{pathway}."): value for key, value in kept.items()}


def deflate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An R(2+1)D's weights -> an R2D's: each t×1×1 filter summed over t (paper §3.1, R2D-finetuned)."""
    return _transfer(state_dict, VIDEO, IMAGE, lambda weight: weight.sum(2, keepdim=True))


def inflate(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An R2D's weights -> an R(2+1)D's: each 1×1 filter repeated t times and divided by t (as I3D)."""
    return _transfer(state_dict, IMAGE, VIDEO, lambda weight: weight.repeat(1, 1, TEMPORAL_KERNEL, 1) / TEMPORAL_KERNEL)


def _transfer(state_dict, source: str, target: str, convert) -> dict[str, Tensor]:
    others = {pathway_of(key) for key in state_dict} - {None, source}
    if others or not any(pathway_of(key) == source for key in state_dict):
        raise ValueError(
            f"needs the weights of the {source} pathway alone (see select_pathway), got also {others or 'none'}"
        )
    moved = {}
    for key, value in state_dict.items():
        value = convert(value) if f".pointwise.{source}." in key else value
        moved[key.replace(f".{source}.", f".{target}.", 1)] = value
    return moved


def time_to_rows(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H*W), a view of channels_last memory, where time is a spatial dimension."""
    x = x.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (batch, -1))  # (B, T, H*W, C)
    return x.permute(0, 3, 1, 2)


def time_to_batch(x: Tensor, height: int) -> Tensor:
    """(B, C, T, H*W) -> (B*T, C, H, W), what `time_to_rows` undoes."""
    x = x.permute(0, 2, 3, 1).flatten(0, 1).unflatten(1, (height, -1))  # (B*T, H, W, C)
    return x.permute(0, 3, 1, 2)


def to_channels_last(model: nn.Module) -> None:
    """Lays the filters of 2-D convolutions out as folded frames are, in place; torch's own `to` refuses 3-D ones."""
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)  # 1×1 filters, too, as gradients come


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W) in channels_last memory, in one copy; images only change their memory."""
    frames = x.permute(0, 2, 3, 4, 1).flatten(0, 1) if x.ndim == 5 else x.permute(0, 2, 3, 1)  # (B*T, H, W, C)
    return frames.contiguous().permute(0, 3, 1, 2)


def unfold_frames(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), a view."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def for_depthwise(clips: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) in the memory in which a depthwise Conv3d is fastest: contiguous on CUDA, else as they are.

    CUDA's own kernel takes contiguous clips alone. What has channels last goes to cuDNN, which takes twice as long
    and in training four times (`docs/results/speed.md`).
    """
    return clips.contiguous() if clips.is_cuda else clips
