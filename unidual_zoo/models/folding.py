"""A network made ready to serve: every BatchNorm folded into its convolution, ReLU and shortcut in the same pass.

On CPUs each convolution is then one call of oneDNN with the weights already in oneDNN's own layout; elsewhere it is
torch's convolution with the rest in place, which `torch.compile` fuses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unidual_zoo.dtypes import as_dtype
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.pathways import SHARED, PerPathway, TemporalConv, time_to_batch, time_to_rows, to_channels_last
from unidual_zoo.weights import check_finite


def for_inference(
    model: TaskModel, dtype: str | torch.dtype | None = None, compile: bool = False, modality: str | None = None
) -> TaskModel:
    """A copy of the model to serve with: in evaluation mode, every BatchNorm folded into the convolution before it.

    The copy takes the same calls and gives the same outputs to rounding; it cannot be trained, and its weights have
    other names. Behind a convolution that two pathways share each pathway gets its own folded copy of the weight,
    unless they share the norm too. On a CPU a second copy in oneDNN's layout is made of each weight when it is first
    used. `modality` keeps that pathway and its heads alone; `dtype` casts the weights; `compile` compiles the call. A
    copy can be copied again.

    Raises:
        ValueError: the model has no pathway `modality`, `dtype` is no floating-point type of torch or the name of one,
            or the model's family does not say how its BatchNorms fold.
        CheckpointError: weights are not finite, as they are or when they are folded and cast; it names them.
    """
    dtype = as_dtype(dtype)
    served = copy.deepcopy(model).eval().requires_grad_(False)
    if modality is not None:
        served.keep_pathway(modality)
    check_finite(served.state_dict(), what="the network")
    served.fold()
    served.to(dtype=dtype)
    to_channels_last(served)
    cast = f" in {str(dtype).removeprefix('torch.')}" if dtype else ""
    check_finite(served.state_dict(), what=f"the folded network{cast}")
    if compile:
        served.compile()
    return served


class FoldedConv(nn.Module):
    """A convolution with its BatchNorm folded in: (B*T, C, H, W) -> (B*T', C', H', W').

    Adding a shortcut and ReLU belong to the same pass. A temporal convolution works on `time_to_rows`.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        folded: Any = fuse_conv_bn_eval(conv, norm)
        self.weight: nn.Parameter = folded.weight
        self.bias: nn.Parameter = folded.bias
        self.stride, self.padding, self.temporal = conv.stride, conv.padding, isinstance(conv, TemporalConv)
        self._packed: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, batch: int, *, relu: bool, shortcut: Tensor | None) -> Tensor:
        if not self.temporal:
            return self._convolve(x, relu=relu, shortcut=shortcut)
        rows = None if shortcut is None else time_to_rows(shortcut, batch)
        return time_to_batch(self._convolve(time_to_rows(x, batch), relu=relu, shortcut=rows), x.shape[2])

    def unfolded(self, *, frame_stride: int = 1) -> UnfoldedConv:
        """The same convolution of clips whose frames are not folded; a spatial one takes every `frame_stride`-th."""
        return UnfoldedConv(self, frame_stride=frame_stride)

    def _convolve(self, x: Tensor, *, relu: bool, shortcut: Tensor | None) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if _fuses(x, dtype):
            return self._convolve_fused(x.to(dtype), relu=relu, shortcut=shortcut)
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if shortcut is not None:
            x = x.add_(shortcut)
        return x.relu_() if relu else x

    def _convolve_fused(self, x: Tensor, *, relu: bool, shortcut: Tensor | None) -> Tensor:
        weight, bias = self._pack(x)
        geometry = (weight, bias, self.padding, self.stride, (1, 1), 1)
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *geometry, "relu" if relu else "none", [], "")
        if shortcut.shape[-2:].numel() == 1:  # torch 2.11 cannot add such maps in the same pass
            x = torch.ops.mkldnn._convolution_pointwise(x, *geometry, "none", [], "").add_(shortcut)
            return x.relu_() if relu else x
        unary = "relu" if relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, shortcut.to(x.dtype), *geometry, "add", 1.0, unary, [], None
        )

    def _pack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias in the input's type, the weight in oneDNN's layout, which serves any size of input."""
        if x.dtype not in self._packed:
            weight = self.weight.detach().to(x.dtype)
            pack = torch.ops.mkldnn._reorder_convolution_weight
            weight = pack(weight, self.padding, self.stride, (1, 1), 1, x.shape)
            self._packed[x.dtype] = weight, self.bias.detach().to(x.dtype)
        return self._packed[x.dtype]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedConv:
        self._packed = {}  # the weights move or change their type
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: object) -> None:
        self._packed = {}
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}}  # what oneDNN laid out cannot be copied or saved


def _fuses(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolution serves this input: not where operations are recorded, counted or derived."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.backends.mkldnn.is_available():
        return False
    recorded = torch.jit.is_tracing()
    wrapped = type(x) is not Tensor or is_functorch_wrapped_tensor(x)  # by torch.func.vmap, for one
    if recorded or wrapped or torch._C._len_torch_dispatch_stack() > 0:
        return False
    if (torch.is_grad_enabled() and x.requires_grad) or unpack_dual(x).tangent is not None:  # it has no derivative
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class FoldedConvs(PerPathway):
    """Each pathway's folded convolution; pathways that share convolution and norm share it."""

    def __init__(self, convs: Mapping[str, nn.Module], norm: nn.ModuleDict) -> None:
        made: dict[tuple[nn.Module, nn.Module], FoldedConv] = {}
        super().__init__()
        for pathway, conv in convs.items():
            own = norm[SHARED if SHARED in norm else pathway]
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(own, nn.BatchNorm2d)
            if (conv, own) not in made:
                made[conv, own] = FoldedConv(conv, own)
            self[pathway] = made[conv, own]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        first: Any = next(iter(self.values()))  # replicas of DataParallel have no parameters
        return first.weight.dtype

    def forward(
        self, x: Tensor, pathway: str, batch: int = 1, *, relu: bool = False, shortcut: Tensor | None = None
    ) -> Tensor:
        return self[pathway](x, batch, relu=relu, shortcut=shortcut)


class UnfoldedConv(nn.Conv3d):
    """A folded convolution as a Conv3d: (B, C, T, H, W) -> (B, C', T', H', W'). It is called as `FoldedConvs` are."""

    def __init__(self, conv: FoldedConv, *, frame_stride: int = 1) -> None:
        weight = conv.weight.detach()
        if conv.temporal:  # (C', C, t, 1) over (T, H*W)
            weight, stride, padding = weight.unsqueeze(-1), (conv.stride[0], 1, 1), (conv.padding[0], 0, 0)
        else:
            weight, stride, padding = weight.unsqueeze(2), (frame_stride, *conv.stride), (0, *conv.padding)
        out_chans, in_chans, *kernel = weight.shape
        super().__init__(in_chans, out_chans, tuple(kernel), stride, padding)  # pyright: ignore[reportArgumentType]
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.weight.dtype

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, pathway: str, batch: int = 1, *, relu: bool = False, shortcut: Tensor | None = None
    ) -> Tensor:
        x = super().forward(x)
        x = x if shortcut is None else x + shortcut
        return x.relu() if relu else x


class FoldedBlock(nn.Module):
    """The stem or a residual block: convolutions in a row, a ReLU behind each, the shortcut added before the last."""

    def __init__(
        self, layers: Sequence[FoldedConvs], *, residual: bool = True, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.residual, self.shortcut = residual, shortcut

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        first: Any = self.layers[0]
        return first.dtype

    def unfold(self, pathway: str) -> None:
        """Makes Conv3d's of a pathway's convolutions; a shortcut must be one already."""
        layers: Any = self.layers
        self.layers = nn.ModuleList(layer[pathway].unfolded() for layer in layers)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        shortcut = None
        if self.residual:
            shortcut = x if self.shortcut is None else self.shortcut(x, pathway, batch)
        *first, last = self.layers
        for layer in first:
            x = layer(x, pathway, batch, relu=True)
        return last(x, pathway, batch, relu=True, shortcut=shortcut)
