"""CorrNet: correlations of neighbouring frames between the stages of an R(2+1)D (Wang et al., arXiv 1906.03349).

The trunk is of bottlenecks whose temporal convolution comes before the spatial one and is as wide (Table 1); alone it
is pytorchvideo's R(2+1)D. A correlation block compares every position of a frame with a window around it in the frame
before, each pair of channels weighed by a filter that is learned for every frame, channel and offset (§3). The paper
does not say how the filters start: here as ones, which is plain correlation, and the block starts as nothing.

Another code base, tefantasy/CorrNet, builds a wider network under the same names: see `FORMS`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.fillers import fill_convolutional
from unidual_zoo.models.folding import FoldedConvs
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.nonlocal_net import STEM_CHANS, Stem
from unidual_zoo.models.pathways import Norms, PerPathway, TemporalConv, fold_frames, is_plain, unfold_frames
from unidual_zoo.models.residual import Block, ResidualNet, Stage, drop_paths
from unidual_zoo.models.rows.corrnet import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import VIDEO, InputSpec
from unidual_zoo.weights import CheckpointError, KeyMap, fit_to_model

BOTTLENECK_EXPANSION = 4
TEMPORAL_STRIDES = (1, 1, 2, 2)  # of the stages; in space each has stride 2
NORM_EPS = 1e-5
WINDOW, DILATION, GROUP_SIZE = 7, 2, 32  # the paper's K, D and g: 13×13 positions, of which 7×7 are looked at
PRODUCTS_ON_CPU, PRODUCTS_ELSEWHERE = 2**18, 2**22  # made at once: on a CPU they stay in its cache
_FILTERS = ".correlation.filters"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What code bases do differently: channels of the stem, and what a bottleneck and a correlation are made of.

    With `spatial_first` a bottleneck has the 3×3 convolution first and between it and the temporal one as many channels
    as give the two the weights of a 3×3×3, as R(2+1)D. Channels are correlated in `groups` groups, or in such of
    `GROUP_SIZE` channels, and `window_before` says whose neighbourhood is looked at: that in the frame before.
    """

    stem_chans: int = STEM_CHANS
    spatial_first: bool = False
    groups: int = 0
    window_before: bool = True

    def middle(self, planes: int) -> int:
        """Channels between the two convolutions over space and time, of the network's width where time comes first."""
        if not self.spatial_first:
            return planes
        space, time = 3 * 3, 3
        return space * time * planes * planes // (space * planes + time * planes)

    def groups_of(self, channels: int) -> int:
        """Groups of equally many channels: `groups`, or `GROUP_SIZE` or a few more channels each, or fewer groups."""
        return next(n for n in range(self.groups or max(1, channels // GROUP_SIZE), 0, -1) if channels % n == 0)


FORMS = {
    "paper": Form(),
    "tefantasy": Form(stem_chans=32, spatial_first=True, groups=32, window_before=False),
}


# ---- layers ---------------------------------------------------------------------------------------------------------


def correlate(here: Tensor, there: Tensor, filters: Tensor, *, dilation: int, groups: int) -> Tensor:
    """Every position of a frame with the window around it in another one: (N, C, H, W) twice -> (N, K*K*groups, H, W).

    Output `o * groups + g` is the mean over the channels c of group g of filters[c, o] * here[c, p] * there[c, p + o],
    o counting the K×K offsets row by row; beyond its border `there` is 0. `filters` is (N, C, K, K), K odd. Products
    are made for one offset of a few frames at a time and not kept: memory does not grow with K.
    """
    window = len(filters.unbind(-1))  # a number even where torch.jit.trace records sizes
    channels, reach = here.shape[1], dilation * (window // 2)
    padded = F.pad(there.contiguous(), (reach, reach, reach, reach))
    filters = (filters * (groups / channels)).to(here.dtype).unflatten(1, (groups, -1))
    inputs = (here.contiguous().unflatten(1, (groups, -1)), padded.unflatten(1, (groups, -1)), filters)
    if not is_plain(*inputs):
        return _sum_rows(*inputs, dilation, window)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        summed: Any = _SumOffsets.apply(*inputs, dilation)
        return summed
    return _in_parts(_sum_offsets, inputs, dilation)[0]


def _sum_rows(here: Tensor, padded: Tensor, filters: Tensor, dilation: int, window: int) -> Tensor:
    """As `_sum_offsets`, a row of the window at a time: a seventh of the operations to record, but more memory."""
    groups, size, height, width = here.shape[1:]
    here, padded, sums = here.flatten(3).unsqueeze(3), padded.flatten(1, 2), []  # (N, G, C, 1, H*W)
    for row in range(window):
        rows = padded[:, :, dilation * row : dilation * row + height]
        seen = F.unfold(rows, (1, window), dilation=dilation).unflatten(1, (groups, size, window))
        sums.append((seen * here * filters[..., row, :, None]).sum(2))  # (N, G, K, H*W)
    return torch.stack(sums, 1).transpose(2, 3).flatten(1, 3).unflatten(2, (height, width))


def _windows(padded: Tensor, like: Tensor, window: int, dilation: int) -> Iterator[tuple[int, int, Tensor]]:
    """Row and column of every offset, and what lies there seen from each position: views (N, G, C, H, W)."""
    height, width = like.shape[-2:]
    for row, column in itertools.product(range(window), repeat=2):
        top, left = dilation * row, dilation * column
        yield row, column, padded[..., top : top + height, left : left + width]


def _sum_offsets(here: Tensor, padded: Tensor, filters: Tensor, dilation: int) -> tuple[Tensor]:
    """Maps (N, G, C, H, W), wider ones, filters (N, G, C, K, K) -> (N, K*K*G, H, W), summed over C."""
    sums = [
        (seen * here * filters[..., row, column, None, None]).sum(2)
        for row, column, seen in _windows(padded, here, filters.shape[-1], dilation)
    ]
    return (torch.stack(sums, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last),)


def _sum_offsets_backward(
    here: Tensor, padded: Tensor, filters: Tensor, gradient: Tensor, dilation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient with respect to what `_sum_offsets` gave -> those with respect to what it was given.

    It takes batched gradients (`is_grads_batched` of `torch.autograd.grad`), which have no rule for `flatten`.
    """
    window, (frames, groups, size, height, width) = filters.shape[-1], here.shape
    gradient = gradient.reshape(frames, window * window, groups, height, width)
    to_here, to_padded, to_filters = gradient.new_zeros(here.shape), gradient.new_zeros(padded.shape), []
    views = _windows(to_padded, here, window, dilation)
    for (row, column, seen), (*_, to_seen) in zip(_windows(padded, here, window, dilation), views, strict=True):
        given = gradient[:, row * window + column, :, None]  # (N, G, 1, H, W)
        weighed = given * filters[..., row, column, None, None]
        to_here.addcmul_(weighed, seen)
        to_seen.addcmul_(weighed, here)
        products = (seen * here).reshape(frames, groups, size, height * width)
        to_filters.append(products @ given.reshape(frames, groups, height * width, 1))  # (N, G, C, 1)
    return to_here, to_padded, torch.cat(to_filters, -1).reshape(filters.shape)


def _in_parts(function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], dilation: int) -> list[Tensor]:
    """The function of a few frames at a time, as many as `PRODUCTS_ON_CPU` allows."""
    products = PRODUCTS_ON_CPU if inputs[0].device.type == "cpu" else PRODUCTS_ELSEWHERE
    frames = max(1, products // inputs[0][0].numel())
    parts = zip(*(tensor.split(frames) for tensor in inputs), strict=True)
    return [torch.cat(outputs) for outputs in zip(*(function(*part, dilation) for part in parts), strict=True)]


class _SumOffsets(torch.autograd.Function):
    """`_sum_offsets`, which keeps its inputs alone for the gradient; autograd would keep all products."""

    @staticmethod
    def forward(ctx: Any, here: Tensor, padded: Tensor, filters: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(here, padded, filters)
        ctx.dilation = dilation
        return _in_parts(_sum_offsets, (here, padded, filters), dilation)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradients[0].device.type, enabled=False):  # which rounds products: see `_ConvOverTime`
            return *_in_parts(_sum_offsets_backward, (*ctx.saved_tensors, *gradients), ctx.dilation), None


def frames_before(x: Tensor, batch: int) -> Tensor:
    """The frame before each frame of a clip, before the first the first itself: (B*T, C, H, W) in and out."""
    x = x.unflatten(0, (batch, -1))
    return torch.cat([x[:, :1], x[:, :-1]], 1).flatten(0, 1)


def resample_filters(filters: Tensor, frames: int) -> Tensor:
    """Filters (C, L, K, K) of L frames -> (C, frames, K, K).

    The first frame keeps its own, as it is compared with itself; those of the others are interpolated linearly.
    """
    last = filters.shape[1] - 1
    times = torch.arange(frames, device=filters.device)
    places = (times - 0.5) * last / (frames - 1) + 0.5  # where the frame is; of as many frames, its own number
    places = torch.where(times > 0, places.clamp(min=1).clamp(max=last), 0.0)
    early = places.long()
    share = (places - early).to(filters.dtype)[:, None, None]
    return filters[:, early] * (1 - share) + filters[:, (early + 1).clamp(max=last)] * share


class Correlation(nn.Module):
    """The correlation-sum block (paper §3.2): x + what the frame before tells of it, (B*T, C, H, W) in and out.

    1×1 to a quarter of the channels -> correlation -> 1×1 back, norms and ReLUs as in a residual block. A clip of
    another length than `frames` takes interpolated filters.
    """

    def __init__(self, channels: int, *, frames: int, norms: Norms, form: Form) -> None:
        super().__init__()
        inner = channels // BOTTLENECK_EXPANSION
        self.groups, self.window_before = form.groups_of(inner), form.window_before
        self.encode: nn.Module = nn.Conv2d(channels, inner, 1, bias=False)
        self.encode_norm: nn.ModuleDict = norms.behind_shared(inner)
        self.filters = nn.Parameter(torch.ones(inner, frames, WINDOW, WINDOW))
        self.decode: nn.Module = nn.Conv2d(WINDOW**2 * self.groups, channels, 1, bias=False)
        self.decode_norm: nn.ModuleDict = norms.behind_shared(channels)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        if isinstance(self.encode, FoldedConvs):
            correlated = self._correlate(self.encode(x, pathway, batch, relu=True), batch)
            return self.decode(correlated, pathway, batch, relu=True, shortcut=x)
        encoded = F.relu(self.encode_norm(self.encode(x), pathway), inplace=True)
        decoded = self.decode_norm(self.decode(self._correlate(encoded, batch)), pathway)
        return F.relu(x + decoded, inplace=True)

    def _correlate(self, x: Tensor, batch: int) -> Tensor:
        filters = resample_filters(self.filters, x.shape[0] // batch).transpose(0, 1).repeat(batch, 1, 1, 1)
        frames = (x, frames_before(x, batch)) if self.window_before else (frames_before(x, batch), x)
        return correlate(*frames, filters, dilation=DILATION, groups=self.groups)

    def fold(self, pathways: Sequence[str]) -> None:
        """Folds the norms into the convolutions."""
        self.encode = FoldedConvs(dict.fromkeys(pathways, self.encode), self.encode_norm)
        self.decode = FoldedConvs(dict.fromkeys(pathways, self.decode), self.decode_norm)
        self.encode_norm = self.decode_norm = PerPathway()


class Bottleneck(Block):
    """1×1 -> 3×1×1 -> 3×3 -> 1×1, a correlation block behind their sum perhaps. (B*T, C, H, W) -> (B*T', C', H', W').

    Args:
        frames: those behind the block, if a correlation block follows.
        form: which may have the 3×3 first.
    """

    expansion = BOTTLENECK_EXPANSION
    behind = "correlation"

    def __init__(
        self,
        in_chans: int,
        planes: int,
        *,
        norms: Norms,
        stride: int = 1,
        temporal_stride: int = 1,
        frames: int | None = None,
        form: Form = FORMS["paper"],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            in_chans, planes, norms=norms, stride=stride, temporal_stride=temporal_stride, drop_path=drop_path
        )
        self.reduce = nn.Conv2d(in_chans, planes, 1, bias=False)
        self.reduce_norm = norms.behind_shared(planes)
        self.spatial_first, middle = form.spatial_first, form.middle(planes)
        self.temporal = TemporalConv(middle, planes, stride=temporal_stride)
        self.temporal_norm = norms.behind_own(planes)
        self.spatial = nn.Conv2d(planes, middle, 3, stride, 1, bias=False)
        self.spatial_norm = norms.behind_shared(middle)
        self.expand = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.expand_norm = norms.behind_shared(planes * self.expansion)
        chans = planes * self.expansion
        self.correlation = None if frames is None else Correlation(chans, frames=frames, norms=norms, form=form)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        x = F.relu(self.reduce_norm(self.reduce(x), pathway), inplace=True)
        if self.spatial_first:
            x = F.relu(self.spatial_norm(self.spatial(x), pathway), inplace=True)
            x = F.relu(self.temporal_norm(self.temporal(x, batch), pathway), inplace=True)
        else:
            x = F.relu(self.temporal_norm(self.temporal(x, batch), pathway), inplace=True)
            x = F.relu(self.spatial_norm(self.spatial(x), pathway), inplace=True)
        return self.expand_norm(self.expand(x), pathway)

    def folded_layers(self, pathways: Sequence[str]) -> list[FoldedConvs]:
        middle = [(self.temporal, self.temporal_norm), (self.spatial, self.spatial_norm)]
        middle = middle[::-1] if self.spatial_first else middle
        layers: list[tuple[nn.Module, nn.ModuleDict]] = [
            (self.reduce, self.reduce_norm),
            *middle,
            (self.expand, self.expand_norm),
        ]
        return [FoldedConvs(dict.fromkeys(pathways, conv), norm) for conv, norm in layers]


# ---- the network ----------------------------------------------------------------------------------------------------


class CorrNet(ResidualNet):
    """Clips (B, C, T, H, W), and images (B, C, H, W) as clips of equal frames -> logits (B, classes) of a task.

    Any clip of a frame and a pixel or more will do: convolutions and windows are padded, nothing is pooled before the
    features are.

    Args:
        depths: blocks in each of the four stages.
        correlations: in each stage the numbers of the blocks that a correlation block stands behind; without any it is
            R(2+1)D. Their filters are those of clips of the spec's length.
        form: of the layers, a name in `FORMS`: the "paper"'s or that of "tefantasy".
        pathways: ("video",), the only one that there is.
        tasks, auxiliary, heads, in_chans, drop_rate, drop_path_rate: as in `UniDual`.
        width: multiplies all channels.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        global_pool: "avg", or "" for unpooled features (only without heads).
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        correlations: Sequence[Sequence[int]] = (),
        form: str = "paper",
        pathways: Sequence[str] = (VIDEO,),
        tasks: Arguments,
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        width: float = 1.0,
        spec: InputSpec | Arguments | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("form", form, FORMS)
        if round(FORMS[form].stem_chans * width) < 1:
            raise ValueError(f"width {width} leaves no channels, it must be at least {1 / FORMS[form].stem_chans:.3f}")
        super().__init__(
            pathways=pathways,
            spec=spec,
            num_frames=num_frames,
            in_chans=in_chans,
            arguments=dict(
                depths=list(depths), correlations=[list(blocks) for blocks in correlations], form=form,
                width=width, drop_path_rate=drop_path_rate,
            ),
        )  # fmt: skip
        if self.pathways != (VIDEO,):
            raise ValueError(f"CorrNet has a video pathway alone, got pathways {list(pathways)}")
        _check_places(depths, correlations)
        norms, frames = Norms(pathways=self.pathways, shared=False, eps=NORM_EPS), self.num_frames
        chans = round(FORMS[form].stem_chans * width)
        self.stem = Stem(in_chans, chans, frames=1, stride=1, norms=norms)
        self.feature_info = [dict(num_chs=chans, reduction=2, module="stem")]
        self.stages = nn.ModuleList()
        rates = drop_paths(drop_path_rate, depths)
        for stage, depth in enumerate(depths):
            planes, blocks = round(STEM_CHANS * width) * 2**stage, Stage()
            frames = -(-frames // TEMPORAL_STRIDES[stage])
            with_correlation = correlations[stage] if stage < len(correlations) else ()
            for index in range(depth):
                blocks.append(
                    Bottleneck(
                        chans, planes, norms=norms, stride=2 if index == 0 else 1,
                        temporal_stride=TEMPORAL_STRIDES[stage] if index == 0 else 1,
                        frames=frames if index in with_correlation else None, form=FORMS[form],
                        drop_path=next(rates),
                    )
                )  # fmt: skip
                chans = planes * BOTTLENECK_EXPANSION
            self.stages.append(blocks)
            self.feature_info.append(dict(num_chs=chans, reduction=4 * 2**stage, module=f"stages.{stage}"))
        self.add_heads(
            num_features=chans, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip
        self.init_weights()

    def init_weights(self) -> None:
        """Fills all weights afresh (`models.fillers`); residual and correlation branches start as nothing."""
        fill_convolutional(self)
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and (".expand_norm." in name or ".decode_norm." in name):
                nn.init.zeros_(module.weight)
            elif isinstance(module, Correlation):
                nn.init.ones_(module.filters)

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The stem (0) and the stages up to number `last`: the output of the last, and of those to take."""
        batch = x.shape[0]
        x = self.run_block(self.stem, fold_frames(x), pathway, batch)
        taken = {0: x} if 0 in take else {}
        for number, stage in enumerate(self.stages, start=1):
            if number > last:
                break
            x = stage(x, self.run_block, pathway, batch)
            if number in take:
                taken[number] = x
        return unfold_frames(x, batch), [unfold_frames(taken[number], batch) for number in take]

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Filters are resampled to this network's clips; correlation blocks that the weights lack stay fresh."""
        fresh = {key: value for key, value in self.state_dict().items() if ".correlation." in key}
        return fresh | self._with_own_frames(super().adopt(weights))

    def _with_own_frames(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with correlation filters of as many frames as this network's."""
        own = {key: value.shape[1] for key, value in self.state_dict().items() if key.endswith(_FILTERS)}
        return {
            key: resample_filters(value, own[key]) if key in own and value.ndim == 4 else value
            for key, value in weights.items()
        }

    def _prune(self, last: int) -> None:
        super()._prune(last)
        self._own_arguments["correlations"] = self._own_arguments["correlations"][:last]


def _check_places(depths: Sequence[int], correlations: Sequence[Sequence[int]]) -> None:
    if len(depths) > len(TEMPORAL_STRIDES):
        raise ValueError(f"depths {list(depths)} are of {len(depths)} stages, there are {len(TEMPORAL_STRIDES)}")
    if len(correlations) > len(depths) or any(
        set(blocks) - set(range(depth)) for blocks, depth in zip(correlations, depths, strict=False)
    ):
        given = [list(blocks) for blocks in correlations]
        raise ValueError(f"correlations {given} name blocks that stages of {list(depths)} blocks do not have")


# ---- checkpoints of other code bases --------------------------------------------------------------------------------

_THEIRS, _OURS = "blocks.{s+1}.res_blocks.{b}", "stages.{s}.{b}"
PYTORCHVIDEO = [  # (pytorchvideo's R(2+1)D, ours)
    ("blocks.0.conv", "stem.conv"),
    ("blocks.0.norm", "stem.conv_norm.video"),
    (f"{_THEIRS}.branch1_conv", f"{_OURS}.shortcut.conv"),
    (f"{_THEIRS}.branch1_norm", f"{_OURS}.shortcut.conv_norm.video"),
    (f"{_THEIRS}.branch2.conv_a", f"{_OURS}.reduce"),
    (f"{_THEIRS}.branch2.norm_a", f"{_OURS}.reduce_norm.video"),
    (f"{_THEIRS}.branch2.conv_b.conv_t", f"{_OURS}.temporal"),
    (f"{_THEIRS}.branch2.conv_b.norm", f"{_OURS}.temporal_norm.video"),
    (f"{_THEIRS}.branch2.conv_b.conv_xy", f"{_OURS}.spatial"),
    (f"{_THEIRS}.branch2.norm_b", f"{_OURS}.spatial_norm.video"),
    (f"{_THEIRS}.branch2.conv_c", f"{_OURS}.expand"),
    (f"{_THEIRS}.branch2.norm_c", f"{_OURS}.expand_norm.video"),
    ("blocks.5.proj", "heads.video.{task}"),
]
_TELLING = "blocks.1.res_blocks.0.branch2.conv_b.conv_t.weight"  # its other networks have no such convolution


def from_pytorchvideo(state_dict: Mapping[str, Tensor], *, task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights in pytorchvideo's layout -> ours, its classifier as the head of `task`.

    Filters (O, I, 1, k, k) and (O, I, t, 1, 1) become (O, I, k, k) and (O, I, t, 1).
    """
    ours = KeyMap(PYTORCHVIDEO, task=task).forward(state_dict)
    return {key: w.squeeze(_thin_axis(key)) if w.ndim == 5 else w for key, w in ours.items()}


def to_pytorchvideo(state_dict: Mapping[str, Tensor], *, task: str) -> dict[str, Tensor]:
    """Our R(2+1)D's weights -> pytorchvideo's layout, the head of `task` as classifier; undoes `from_pytorchvideo`."""
    ours = {key: w.unsqueeze(_thin_axis(key)) if w.ndim == 4 else w for key, w in state_dict.items()}
    return KeyMap(PYTORCHVIDEO, task=task).back(ours)


def _thin_axis(key: str) -> int:
    """The axis on which the 5-D filters of a convolution are one pixel or frame wide."""
    return -1 if key.endswith(".temporal.weight") else 2


TEFANTASY = [  # (tefantasy/CorrNet's, ours); its blocks are numbered as ours before: see `_without_correlations`
    ("conv1.0", "stem.conv"),
    ("conv1.1", "stem.conv_norm.video"),
    *[
        (f"res{{s+2}}.{{b}}.{theirs}", f"{_OURS}.{ours}")
        for theirs, ours in {
            "conv1.0": "reduce", "conv1.1": "reduce_norm.video",
            "conv2.0.spatial_conv": "spatial", "conv2.0.bn": "spatial_norm.video",
            "conv2.0.temporal_conv": "temporal", "conv2.1": "temporal_norm.video",
            "conv3.0": "expand", "conv3.1": "expand_norm.video",
            "downsample_conv.0": "shortcut.conv", "downsample_conv.1": "shortcut.conv_norm.video",
            "encode_conv.0": "correlation.encode", "encode_conv.1": "correlation.encode_norm.video",
            "correlation.filter_weight": "correlation.filters",
            "decode_conv.0": "correlation.decode", "decode_conv.1": "correlation.decode_norm.video",
        }.items()
    ],
    ("fc", "heads.video.{task}"),
]  # fmt: skip
_TEFANTASYS_BLOCK = re.compile(r"res(\d+)\.(\d+)\.(.*)", re.ASCII)
_TELLING_TEFANTASY = "res2.0.conv2.0.spatial_conv.weight"


def from_tefantasy(state_dict: Mapping[str, Tensor], *, task: str) -> dict[str, Tensor]:
    """A network of tefantasy/CorrNet -> the weights of form "tefantasy", its classifier as the head of `task`.

    Some of its convolutions have a bias, each before a BatchNorm, which takes it off its mean.
    """
    ours = KeyMap(TEFANTASY, task=task).forward(_without_correlations(state_dict))
    ours = {key: w.squeeze(_thin_axis(key)) if w.ndim == 5 else w for key, w in ours.items()}
    for key in [key for key in ours if key.endswith(".bias")]:
        mean = f"{key.removesuffix('.bias')}_norm.{VIDEO}.running_mean"
        if mean in ours and ours[mean].shape == ours[key].shape:
            ours[mean] = ours[mean] - ours.pop(key)
    return ours


def _without_correlations(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose correlation blocks, which count among the others in a stage, have the number of that before."""
    found = {key: match for key in state_dict if (match := _TEFANTASYS_BLOCK.fullmatch(key))}
    correlations = {match.group(1, 2) for match in found.values() if match[3].startswith("encode_conv.")}

    def number(stage: str, block: str) -> int:
        ahead = sum(int(other) <= int(block) for at, other in correlations if at == stage)
        return max(0, int(block) - ahead)

    numbered = {key: f"res{match[1]}.{number(*match.group(1, 2))}.{match[3]}" for key, match in found.items()}
    return {numbered.get(key, key): value for key, value in state_dict.items()}


def implied_arguments(state_dict: Mapping[str, Tensor], arguments: Arguments) -> dict[str, Any]:
    """The form of tefantasy's weights, and the frames of their filters."""
    if _TELLING_TEFANTASY not in state_dict:
        return {}
    ours = KeyMap(TEFANTASY, task="").forward(state_dict)
    filters = next((w for key, w in ours.items() if key.startswith("stages.0.") and key.endswith(_FILTERS)), None)
    frames = {} if filters is None or filters.ndim != 4 else {"num_frames": filters.shape[1]}
    return {"form": "tefantasy", **frames}


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: CorrNet, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint in any format we read -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys: our own, whose correlation filters are resampled to the model's clips, and
    pytorchvideo's R(2+1)D and tefantasy's CorrNet, whose classifier becomes the head of `task`. `fresh_heads`: see
    `fit_to_model`.

    Raises:
        CheckpointError: the format is unknown, or what is in it does not fit.
    """
    task = task or first_task(model.tasks, VIDEO) or "k400"
    if _TELLING in state_dict:
        state_dict = from_pytorchvideo(state_dict, task=task)
    elif _TELLING_TEFANTASY in state_dict:
        state_dict = from_tefantasy(state_dict, task=task)
    elif model.state_dict().keys().isdisjoint(state_dict):
        read = "this package's own, pytorchvideo's R(2+1)D, tefantasy/CorrNet"
        raise CheckpointError(f"the weights are in no format that is read here: {read}")
    return fit_to_model(
        model._with_own_frames(state_dict), model, adaptable=("stem.conv.weight",), fresh_heads=fresh_heads
    )


# ---- registered names -----------------------------------------------------------------------------------------------


FAMILY = Family(
    model_class=CorrNet,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    implied_arguments=implied_arguments,
    first_conv="stem.conv",
    reduction=32,
    about="[CorrNet](https://arxiv.org/abs/1906.03349), which correlates neighbouring frames, or its trunk, an R(2+1)D "
    "of bottlenecks",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def corrnet26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CorrNet-26, a video network: correlation blocks behind the first three stages."""
    return build(FAMILY, "corrnet26", pretrained, **kwargs)


@register_model
def corrnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CorrNet-50, a video network: correlation blocks behind the first three stages."""
    return build(FAMILY, "corrnet50", pretrained, **kwargs)


@register_model
def corrnet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CorrNet-101, a video network: correlation blocks behind the first three stages and within the third."""
    return build(FAMILY, "corrnet101", pretrained, **kwargs)


@register_model
def r2plus1d50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D-50 of bottlenecks whose temporal convolution comes first, a video network and CorrNet-50's trunk."""
    return build(FAMILY, "r2plus1d50", pretrained, **kwargs)
