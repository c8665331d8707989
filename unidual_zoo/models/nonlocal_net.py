"""Non-local networks, and I3D and C2D without non-local blocks (Wang et al., arXiv 1711.07971, Tables 1 and 2).

A bottleneck ResNet whose stem and whose blocks' first convolutions look at several frames (I3D) or at one (C2D), with
or without attention over space and time behind some of its blocks. C2D has no temporal weight: images and clips use the
same ones. With both pathways an I3D shares its 1×1, 1×3×3 and non-local convolutions and splits stem, t×1×1 and norms.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
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
from unidual_zoo.models.pathways import (
    SHARED,
    Norms,
    PerPathway,
    PixelConv,
    TemporalConv,
    fold_frames,
    pathway_of,
    select_pathway,
    time_to_batch,
    time_to_rows,
    unfold_frames,
)
from unidual_zoo.models.residual import Block, ResidualNet, Stage, drop_paths
from unidual_zoo.models.rows.nonlocal_net import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import HEADS, CheckpointError, KeyMap, fit_to_model

STEM_CHANS, STEM_KERNEL, STEM_FRAMES = 64, 7, 5
BOTTLENECK_EXPANSION = 4
NORM_EPS = 1e-5
_COUNT = ".num_batches_tracked"


# ---- what the code bases do differently -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a code base shortens a clip: the stem's stride in time, the pool behind it, and whether there is a second.

    The first pool is `pool_frames`×3×3; with one frame and stride 2 it leaves out every other frame. The second, 2×1×1,
    stands behind the first stage. On images only what they do in space is done. With `group`, non-local blocks of the
    second stage (`GROUPED_STAGE`) look at so many frames at a time instead of the whole clip.
    """

    stem_stride: int = 1
    pool_frames: int = 1
    pool_stride: int = 1
    pool_padding: int = 1
    second_pool: bool = True
    group: int = 0

    def frames_left(self, frames: int) -> int:
        """Frames behind the second pool of a clip of so many."""
        frames = -(-frames // self.stem_stride)
        frames = max(0, (frames - self.pool_frames) // self.pool_stride + 1)
        return frames // 2 if self.second_pool else frames

    def pixels_left(self, side: int) -> int:
        """Height or width behind the first pool of a picture of so many pixels."""
        return (-(-side // 2) + 2 * self.pool_padding - 3) // 2 + 1


FORMS = {
    "slowfast": Form(),
    "slowfast_nopool": Form(second_pool=False),
    "caffe2_8f": Form(pool_padding=0),
    "caffe2_32f": Form(stem_stride=2, pool_frames=2, pool_stride=2, pool_padding=0),
    "caffe2_8f_groups": Form(pool_padding=0, group=4),  # of networks for long clips
    "caffe2_32f_groups": Form(stem_stride=2, pool_frames=2, pool_stride=2, pool_padding=0, group=4),
    "mmaction2": Form(stem_stride=2, pool_stride=2),
}
GROUPED_STAGE = 1


@dataclass(frozen=True, kw_only=True)
class Affinity:
    """How a non-local block weighs positions, and where it shrinks the maps that are looked at.

    With `embedded` queries and keys are 1×1 convolutions theta and phi, else the maps themselves. `softmax` makes the
    weights sum to one, after division by the root of the channels if `scaled`; without it the products are divided by
    the number of positions. `pools_first` pools the input of phi and g, else their output.
    """

    embedded: bool = True
    softmax: bool = True
    scaled: bool = True
    pools_first: bool = True
    out_bias: bool = True


AFFINITIES = {  # PySlowFast's and Caffe2's, then mmaction2's
    "softmax": Affinity(),
    "dot_product": Affinity(softmax=False),
    "mm_embedded_gaussian": Affinity(scaled=False, pools_first=False, out_bias=False),
    "mm_dot_product": Affinity(softmax=False, pools_first=False, out_bias=False),
    "mm_gaussian": Affinity(embedded=False, scaled=False, pools_first=False, out_bias=False),
}

# Whether a block's first convolution looks at three frames, by its stage and its place there.
TEMPORAL: Mapping[str, Callable[[int, int], bool]] = {
    "none": lambda stage, block: False,  # C2D
    "alternate": lambda stage, block: stage == 0 or block % 2 == (1 if stage == 3 else 0),  # I3D
    "all": lambda stage, block: True,  # mmaction2's "heavy" I3D
}


# ---- layers ---------------------------------------------------------------------------------------------------------


def stack_frames(x: Tensor, batch: int, *, frames: int, stride: int) -> Tensor:
    """Every frame with its neighbours as channels: (B*T, C, H, W) -> (B*ceil(T/stride), C*frames, H, W), zero-padded.

    A t×k×k convolution of few channels is then a k×k one, which is faster than Conv3d.
    """
    x = x.permute(0, 2, 3, 1).unflatten(0, (batch, -1))  # (B, T, H, W, C)
    x = F.pad(x, (0, 0, 0, 0, 0, 0, frames // 2, frames // 2)).unfold(1, frames, stride)  # (B, T', H, W, C, frames)
    return x.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)


def pool_frames(x: Tensor, batch: int, *, frames: int, stride: int) -> Tensor:
    """Maximum over `frames` frames: (B*T, C, H, W) -> (B*T', C, H, W)."""
    return time_to_batch(F.max_pool2d(time_to_rows(x, batch), (frames, 1), (stride, 1)), x.shape[2])


class Stem(nn.Module):
    """7×7 convolution of stride 2, for clips of `frames` frames, norm, ReLU: (B*T, C, H, W) -> (B*T', C', H', W')."""

    def __init__(self, in_chans: int, out_chans: int, *, frames: int, stride: int, norms: Norms) -> None:
        super().__init__()
        self.frames, self.stride = frames, stride
        self.conv: nn.Module
        self.conv_norm: nn.ModuleDict
        if frames == 1:
            self.conv = _stem_conv(in_chans, out_chans)
            self.conv_norm = norms.behind_shared(out_chans)
            return
        self.conv = PerPathway()
        if IMAGE in norms.pathways:
            self.conv[IMAGE] = _stem_conv(in_chans, out_chans)
        if VIDEO in norms.pathways:  # its filters keep their five dimensions; only they are used
            self.conv[VIDEO] = nn.Conv3d(in_chans, out_chans, (frames, STEM_KERNEL, STEM_KERNEL), bias=False)
        self.conv_norm = norms.behind_own(out_chans)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        conv: Any = next(iter(self.conv.values())) if isinstance(self.conv, PerPathway) else self.conv
        return conv.weight.dtype

    def weight(self, pathway: str) -> Tensor:
        """Filters (C', C*frames, 7, 7)."""
        weight: Any = (self.conv[pathway] if isinstance(self.conv, PerPathway) else self.conv).weight
        return weight.flatten(1, 2) if weight.ndim == 5 else weight

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        if pathway == VIDEO and max(self.frames, self.stride) > 1:
            x = stack_frames(x, batch, frames=self.frames, stride=self.stride)
        if isinstance(self.conv, FoldedConvs):
            return self.conv(x, pathway, batch, relu=True)
        x = F.conv2d(x, self.weight(pathway), None, 2, STEM_KERNEL // 2)
        return F.relu(self.conv_norm(x, pathway), inplace=True)

    def fold(self, pathways: Sequence[str]) -> None:
        """Folds the norm into the convolution."""
        convs: dict[str, nn.Module] = {}
        for pathway in pathways:
            conv = self.conv[pathway] if isinstance(self.conv, PerPathway) else self.conv
            convs[pathway] = self._stacked(pathway) if isinstance(conv, nn.Conv3d) else conv
        self.conv, self.conv_norm = FoldedConvs(convs, self.conv_norm), PerPathway()

    def _stacked(self, pathway: str) -> nn.Conv2d:
        weight = self.weight(pathway)
        conv = _stem_conv(weight.shape[1], weight.shape[0]).to(weight)
        conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        return conv.train(self.training)


def _stem_conv(in_chans: int, out_chans: int) -> nn.Conv2d:
    return nn.Conv2d(in_chans, out_chans, STEM_KERNEL, 2, STEM_KERNEL // 2, bias=False)


class NonLocal(nn.Module):
    """x + what every position gathers from all positions of all frames (paper §3): (B*T, C, H, W) in and out.

    With `group`, of so many frames at a time, if a clip has more.
    """

    def __init__(self, channels: int, *, affinity: Affinity, norms: Norms, group: int = 0) -> None:
        super().__init__()
        self.affinity, self.group = affinity, group
        inner = max(1, channels // 2)
        if affinity.embedded:
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out: nn.Module = nn.Conv2d(inner, channels, 1, bias=affinity.out_bias)
        self.out_norm: nn.ModuleDict = norms.behind_shared(channels)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        grouped = self.group and x.shape[0] > batch * self.group
        gathered = self._gather(x, x.shape[0] // self.group if grouped else batch)
        if isinstance(self.out, FoldedConvs):
            return self.out(gathered, pathway, batch, shortcut=x)
        return x + self.out_norm(self.out(gathered), pathway)

    def _gather(self, x: Tensor, batch: int) -> Tensor:
        """(B*T, C, H, W) -> (B*T, inner, H, W)."""
        seen = F.max_pool2d(x, 2) if self.affinity.pools_first else x
        queries, keys = (self.theta(x), self.phi(seen)) if self.affinity.embedded else (x, seen)
        values = self.g(seen)
        if not self.affinity.pools_first:
            keys, values = F.max_pool2d(keys, 2), F.max_pool2d(values, 2)
        q, k, v = (_positions(maps, batch) for maps in (queries, keys, values))
        if self.affinity.softmax:
            scale = None if self.affinity.scaled else 1.0  # None divides by the root of the channels
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=scale)[:, 0]
        else:
            y = q @ (k.transpose(1, 2) @ v / k.shape[1])  # no softmax between the products: any order will do
        return y.unflatten(1, (-1, *x.shape[2:])).flatten(0, 1).permute(0, 3, 1, 2)

    def fold(self, pathways: Sequence[str]) -> None:
        """Folds the norm into the last convolution."""
        self.out, self.out_norm = FoldedConvs(dict.fromkeys(pathways, self.out), self.out_norm), PerPathway()


def _positions(x: Tensor, batch: int) -> Tensor:
    """(B*T, C, H, W) -> (B, T*H*W, C), a view of channels_last memory."""
    return x.permute(0, 2, 3, 1).unflatten(0, (batch, -1)).flatten(1, 3)


class Bottleneck(Block):
    """t×1×1 or 1×1 -> 3×3 -> 1×1, a non-local block behind their sum perhaps. (B*T, C, H, W) -> (B*T, C', H', W')."""

    expansion = BOTTLENECK_EXPANSION
    behind = "attention"

    def __init__(
        self,
        in_chans: int,
        planes: int,
        *,
        norms: Norms,
        stride: int = 1,
        temporal: bool = False,
        affinity: Affinity | None = None,
        group: int = 0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(in_chans, planes, norms=norms, stride=stride, drop_path=drop_path)
        convs = {IMAGE: PixelConv, VIDEO: TemporalConv}
        self.conv1: nn.Module
        if temporal:
            self.conv1 = PerPathway({pathway: convs[pathway](in_chans, planes) for pathway in norms.pathways})
        else:
            self.conv1 = nn.Conv2d(in_chans, planes, 1, bias=False)
        self.conv1_norm = norms.behind_own(planes) if temporal else norms.behind_shared(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.conv2_norm = norms.behind_shared(planes)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.conv3_norm = norms.behind_shared(planes * self.expansion)
        self.attention = affinity and NonLocal(planes * self.expansion, affinity=affinity, norms=norms, group=group)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        x = self.conv1[pathway](x, batch) if isinstance(self.conv1, PerPathway) else self.conv1(x)
        x = self.act1(self.conv1_norm(x, pathway))
        x = self.act2(self.conv2_norm(self.conv2(x), pathway))
        return self.conv3_norm(self.conv3(x), pathway)

    def folded_layers(self, pathways: Sequence[str]) -> list[FoldedConvs]:
        first = {p: self.conv1[p] if isinstance(self.conv1, PerPathway) else self.conv1 for p in pathways}
        second, third = (dict.fromkeys(pathways, conv) for conv in (self.conv2, self.conv3))
        norms = (self.conv1_norm, self.conv2_norm, self.conv3_norm)
        return [FoldedConvs(convs, norm) for convs, norm in zip((first, second, third), norms, strict=True)]


# ---- the network ----------------------------------------------------------------------------------------------------


class NonLocalNet(ResidualNet):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Args:
        depths: blocks in each of the four stages.
        temporal: which blocks look at three frames: "none" (C2D, whose stem sees one), "alternate" (I3D) or "all".
        nonlocal_blocks: in each stage the numbers of the blocks that a non-local block stands behind.
        affinity: of the non-local blocks, a name in `AFFINITIES`.
        form: how clips are shortened, a name in `FORMS`.
        pathways, tasks, auxiliary, heads, in_chans, drop_rate, drop_path_rate: as in `UniDual`.
        norms: "split" gives each pathway its own BatchNorms; "shared" shares those behind shared convolutions.
        width: multiplies all channels.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        global_pool: "avg", or "" for unpooled features (only without heads).
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        temporal: str = "alternate",
        nonlocal_blocks: Sequence[Sequence[int]] = (),
        affinity: str = "softmax",
        form: str = "slowfast",
        pathways: Sequence[str] = MODALITIES,
        tasks: Arguments,
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        norms: str = "split",
        width: float = 1.0,
        spec: InputSpec | Arguments | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("temporal", temporal, TEMPORAL)
        check_known("affinity", affinity, AFFINITIES)
        check_known("form", form, FORMS)
        check_known("norms", norms, ("split", SHARED))
        if round(STEM_CHANS * width) < 1:
            raise ValueError(f"width {width} leaves no channels, it must be at least {1 / STEM_CHANS:.3f}")
        super().__init__(
            pathways=pathways,
            spec=spec,
            num_frames=num_frames,
            in_chans=in_chans,
            arguments=dict(
                depths=list(depths), temporal=temporal, nonlocal_blocks=[list(blocks) for blocks in nonlocal_blocks],
                affinity=affinity, form=form, norms=norms, width=width, drop_path_rate=drop_path_rate,
            ),
        )  # fmt: skip
        _check_nonlocal_blocks(nonlocal_blocks, depths)
        self.form, self.temporal = FORMS[form], temporal
        pathway_norms = Norms(pathways=self.pathways, shared=norms == SHARED and len(self.pathways) > 1, eps=NORM_EPS)
        chans, frames = round(STEM_CHANS * width), 1 if temporal == "none" else STEM_FRAMES
        self.stem = Stem(in_chans, chans, frames=frames, stride=self.form.stem_stride, norms=pathway_norms)
        self.pool = nn.MaxPool2d(3, 2, self.form.pool_padding)
        self.feature_info = [dict(num_chs=chans, reduction=2, module="stem")]
        self.stages = nn.ModuleList()
        rates = drop_paths(drop_path_rate, depths)
        for stage, depth in enumerate(depths):
            planes, blocks = round(STEM_CHANS * width) * 2**stage, Stage()
            with_nonlocal = nonlocal_blocks[stage] if stage < len(nonlocal_blocks) else ()
            for index in range(depth):
                blocks.append(
                    Bottleneck(
                        chans, planes, norms=pathway_norms, stride=2 if stage > 0 and index == 0 else 1,
                        temporal=TEMPORAL[temporal](stage, index), drop_path=next(rates),
                        affinity=AFFINITIES[affinity] if index in with_nonlocal else None,
                        group=self.form.group if stage == GROUPED_STAGE else 0,
                    )
                )  # fmt: skip
                chans = planes * BOTTLENECK_EXPANSION
            self.stages.append(blocks)
            self.feature_info.append(dict(num_chs=chans, reduction=4 * 2**stage, module=f"stages.{stage}"))
        self._settle_limits()
        self.add_heads(
            num_features=chans, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip
        self.init_weights()

    def init_weights(self) -> None:
        """Fills all weights afresh (`models.fillers`); residual and non-local branches start as nothing (§4.1)."""
        fill_convolutional(self)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d) and (".conv3_norm." in name or ".out_norm." in name):
                nn.init.zeros_(module.weight)

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The stem (0) and the stages up to number `last`: the output of the last, and of those to take."""
        self._check_size(x, pathway)
        batch, as_clip = x.shape[0], x.ndim == 5
        in_time = pathway == VIDEO and not self._is_still(x)
        x = fold_frames(x)
        clips = batch if pathway == VIDEO else x.shape[0]  # on the image pathway frames do not see each other
        x = self.run_block(self.stem, x, pathway, clips)
        taken = {0: x} if 0 in take else {}
        if last > 0:
            x = self._first_pool(x, clips, in_time=in_time)
        for number, stage in enumerate(self.stages, start=1):
            if number > last:
                break
            if number == 2 and in_time and self.form.second_pool:
                x = pool_frames(x, clips, frames=2, stride=2)
            x = stage(x, self.run_block, pathway, clips)
            if number in take:
                taken[number] = x
        outputs = [x, *(taken[number] for number in take)]
        if as_clip:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return outputs[0], outputs[1:]

    def _first_pool(self, x: Tensor, batch: int, *, in_time: bool) -> Tensor:
        frames, stride = self.form.pool_frames, self.form.pool_stride
        if not in_time or stride == 1:
            return self.pool(x)
        return self.pool(pool_frames(x, batch, frames=frames, stride=stride))  # fewer frames first: a maximum is one

    def _is_still(self, x: Tensor) -> bool:
        """Whether a clip is a single frame that a network without temporal weights takes as an image."""
        return self.temporal == "none" and x.ndim == 5 and x.shape[2] == 1

    def _settle_limits(self) -> None:
        """The least frames of a clip and pixels of a side that leave every pool something to look at."""
        halvings = [number for number, stage in enumerate(self.stages) if _looks_around(stage)]  # 4, 8, … ×
        second_pool = len(self.stages) > 1

        def frames_suffice(frames: int) -> bool:
            return (self.form.frames_left(frames) if second_pool else frames) > 0

        def pixels_suffice(side: int) -> bool:
            left = self.form.pixels_left(side)
            return left > 0 and all(-(-left // 2**halving) >= 2 for halving in halvings)

        self.least_frames = next(filter(frames_suffice, itertools.count(1)))
        self.least_pixels = next(filter(pixels_suffice, itertools.count(1)))

    def _check_size(self, x: Tensor, pathway: str) -> None:
        """Raises a ValueError if the pools would leave nothing of the input."""
        if torch.jit.is_tracing():
            return
        if pathway == VIDEO and x.shape[2] < self.least_frames and not self._is_still(x):
            raise ValueError(f"needs clips of at least {self.least_frames} frames, got {tuple(x.shape)}")
        left, group = self.form.frames_left(x.shape[2]) if pathway == VIDEO else 0, self.form.group
        if group and left > group and left % group:
            raise ValueError(
                f"needs clips that leave frames in groups of {group}, got {tuple(x.shape)}, which leave {left}"
            )
        if min(x.shape[-2:]) < self.least_pixels:
            raise ValueError(f"needs height and width of at least {self.least_pixels} pixels, got {tuple(x.shape)}")

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A pathway that the weights lack is inflated or deflated from the other, as the paper starts (§4.1)."""
        have = {pathway for key in weights if (pathway := pathway_of(key)) is not None}
        if have == set(self.pathways):
            return dict(weights)
        adopted: dict[str, Tensor] = {}
        for pathway in self.pathways:
            source = pathway if pathway in have or not have else next(iter(have))
            chosen = select_pathway(weights, source)
            heads = {key: value for key, value in chosen.items() if key.startswith(HEADS)}
            adopted |= {key.replace(f"{HEADS}{source}.", f"{HEADS}{pathway}.", 1): w for key, w in heads.items()}
            plain = to_plain({key: value for key, value in chosen.items() if key not in heads})
            adopted |= {key: w for key, w in self.from_plain(plain).items() if pathway_of(key) in (None, pathway)}
        return adopted

    def from_plain(self, plain: Mapping[str, Tensor], *, image: bool = False) -> dict[str, Tensor]:
        """Weights of a single network by our names without pathways -> this network's but its heads.

        Filters of more frames than the image pathway looks at are summed over time; 2-D ones of which the video pathway
        looks at several frames are repeated and divided by their number. Of an `image` network, which has none,
        non-local blocks stay fresh: they start as nothing. Counts of batches may be missing. What this network has no
        place for keeps its name, for the fit to complain of.
        """
        ours: dict[str, Tensor] = {}
        own = {key: value for key, value in self.state_dict().items() if not key.startswith(HEADS)}
        for key, fresh in own.items():
            if (name := _without_pathway(key)) in plain:
                still = pathway_of(key) == IMAGE or self.pathways == (IMAGE,)
                ours[key] = _fit_frames(plain[name], fresh, deflate=still)
            elif key.endswith(_COUNT) or (image and ".attention." in key):
                ours[key] = fresh
        known = {_without_pathway(key) for key in own}
        return {**ours, **{key: value for key, value in plain.items() if key not in known}}

    def _prune(self, last: int) -> None:
        super()._prune(last)
        self._own_arguments["nonlocal_blocks"] = self._own_arguments["nonlocal_blocks"][:last]
        self._settle_limits()


def _check_nonlocal_blocks(nonlocal_blocks: Sequence[Sequence[int]], depths: Sequence[int]) -> None:
    allowed = [set(range(depth)) for depth in depths]
    if len(nonlocal_blocks) > len(depths) or any(
        set(blocks) - there for blocks, there in zip(nonlocal_blocks, allowed, strict=False)
    ):
        given = [list(blocks) for blocks in nonlocal_blocks]
        raise ValueError(f"nonlocal_blocks {given} names blocks that stages of {list(depths)} blocks do not have")


def _looks_around(stage: nn.Module) -> bool:
    return any(isinstance(module, NonLocal) for module in stage.modules())


# ---- checkpoints of other code bases --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """Weights of another code base: which weight tells them, and the names (theirs, ours without pathways).

    `dims` of the telling weight tell apart what has the same names; `forms` are those that the network may
    have, the first the usual one; `counts` says whether its BatchNorms count batches.
    """

    about: str
    telling: str
    names: Sequence[tuple[str, str]]
    dims: int = 5
    forms: Sequence[str] = ()
    counts: bool = True

    def keys(self, *, pathway: str, task: str) -> KeyMap:
        """Their names and ours, the classifier as the head of a task on a pathway."""
        return KeyMap(self.names, pathway=pathway, task=task)


def _block_names(theirs: str, ours: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(f"{theirs}{their}", f"{ours}.{our}") for our, their in names.items()]


def _blob_names(modules: Mapping[str, str]) -> list[tuple[str, str]]:
    """Caffe2's names of the weights of modules (theirs, ours): it has no dots, and an ending for each kind."""
    return [
        (f"{theirs}_{blob}", f"{ours}.{weight}")
        for theirs, ours in modules.items()
        for weight, blob in (_BLOBS_OF_NORM if ours.endswith("_norm") else _BLOBS_OF_CONV).items()
    ]


_OURS, _HEAD = "stages.{s}.{b}", f"{HEADS}{{pathway}}.{{task}}"
_SLOWFAST = {
    "shortcut.conv": "res{b}.branch1", "shortcut.conv_norm": "res{b}.branch1_bn",
    "conv1": "res{b}.branch2.a", "conv1_norm": "res{b}.branch2.a_bn",
    "conv2": "res{b}.branch2.b", "conv2_norm": "res{b}.branch2.b_bn",
    "conv3": "res{b}.branch2.c", "conv3_norm": "res{b}.branch2.c_bn",
    "attention.theta": "nonlocal{b}.conv_theta", "attention.phi": "nonlocal{b}.conv_phi",
    "attention.g": "nonlocal{b}.conv_g", "attention.out": "nonlocal{b}.conv_out",
    "attention.out_norm": "nonlocal{b}.bn",
}  # fmt: skip
_RESNET = {
    "shortcut.conv": "downsample.0", "shortcut.conv_norm": "downsample.1", "conv{i}": "conv{i}", "conv{i}_norm": "bn{i}"
}  # fmt: skip
_NONLOCAL = {
    "attention.theta": "nl.theta", "attention.phi": "nl.phi", "attention.g": "nl.g", "attention.out": "nl.out",
    "attention.out_norm": "nl.bn",
}  # fmt: skip
_MMACTION2 = {
    "shortcut.conv": "downsample.conv", "shortcut.conv_norm": "downsample.bn",
    "conv{i}": "conv{i}.conv", "conv{i}_norm": "conv{i}.bn",
    "attention.theta": "non_local_block.theta.conv", "attention.phi": "non_local_block.phi.0.conv",
    "attention.g": "non_local_block.g.0.conv", "attention.out": "non_local_block.conv_out.conv",
    "attention.out_norm": "non_local_block.conv_out.bn",
}  # fmt: skip
_PYTORCHVIDEO = {
    "shortcut.conv": "branch1_conv", "shortcut.conv_norm": "branch1_norm",
    "conv1": "branch2.conv_a", "conv1_norm": "branch2.norm_a", "conv2": "branch2.conv_b",
    "conv2_norm": "branch2.norm_b", "conv3": "branch2.conv_c", "conv3_norm": "branch2.norm_c",
}  # fmt: skip
_BLOBS_OF_CONV = {"weight": "w", "bias": "b"}
_BLOBS_OF_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}  # riv is no inverse
_CAFFE2 = {
    "conv1": "stem.conv", "res_conv1_bn": "stem.conv_norm",
    "res{s+2}_{b}_branch1": f"{_OURS}.shortcut.conv", "res{s+2}_{b}_branch1_bn": f"{_OURS}.shortcut.conv_norm",
    "res{s+2}_{b}_branch2a": f"{_OURS}.conv1", "res{s+2}_{b}_branch2a_bn": f"{_OURS}.conv1_norm",
    "res{s+2}_{b}_branch2b": f"{_OURS}.conv2", "res{s+2}_{b}_branch2b_bn": f"{_OURS}.conv2_norm",
    "res{s+2}_{b}_branch2c": f"{_OURS}.conv3", "res{s+2}_{b}_branch2c_bn": f"{_OURS}.conv3_norm",
    "nonlocal_conv{s+2}_{b}_theta": f"{_OURS}.attention.theta", "nonlocal_conv{s+2}_{b}_phi": f"{_OURS}.attention.phi",
    "nonlocal_conv{s+2}_{b}_g": f"{_OURS}.attention.g", "nonlocal_conv{s+2}_{b}_out": f"{_OURS}.attention.out",
    "nonlocal_conv{s+2}_{b}_bn": f"{_OURS}.attention.out_norm", "pred": _HEAD,
}  # fmt: skip
_RESNET_STEM = [("conv1", "stem.conv"), ("bn1", "stem.conv_norm")]
_NOT_MMACTION2S = tuple(form for form in FORMS if form != "mmaction2")
_PYTORCHVIDEO_STAGES = {0: 1, 1: 3, 2: 4, 3: 5}  # ours: theirs; the second pool counts as a block

FORMATS = {
    "slowfast": Format(
        about="PySlowFast", forms=_NOT_MMACTION2S, telling="s1.pathway0_stem.conv.weight",
        names=[
            ("s1.pathway0_stem.conv", "stem.conv"), ("s1.pathway0_stem.bn", "stem.conv_norm"),
            *_block_names("s{s+2}.pathway0_", _OURS, _SLOWFAST), ("head.projection", _HEAD),
        ],
    ),
    "caffe2": Format(  # of which form, nothing in it says
        about="Caffe2 (PySlowFast, video-nonlocal-net)", telling="conv1_w", forms=_NOT_MMACTION2S, counts=False,
        names=_blob_names(_CAFFE2),
    ),
    "mmaction2": Format(
        about="mmaction2", telling="backbone.conv1.conv.weight", forms=("mmaction2",),
        names=[
            ("backbone.conv1.conv", "stem.conv"), ("backbone.conv1.bn", "stem.conv_norm"),
            *_block_names("backbone.layer{s+1}.{b}.", _OURS, _MMACTION2), ("cls_head.fc_cls", _HEAD),
        ],
    ),
    "pytorch_resnet3d": Format(
        about="Tushar-N/pytorch-resnet3d", telling="conv1.weight", forms=("caffe2_32f",),
        names=[*_RESNET_STEM, *_block_names("layer{s+1}.{b}.", _OURS, _RESNET | _NONLOCAL), ("fc", _HEAD)],
    ),
    "resnet": Format(
        about="the ResNets of torchvision and timm", telling="conv1.weight", dims=4,
        names=[*_RESNET_STEM, *_block_names("layer{s+1}.{b}.", _OURS, _RESNET), ("fc", _HEAD)],
    ),
    "pytorchvideo": Format(
        about="pytorchvideo", forms=_NOT_MMACTION2S, telling="blocks.0.conv.weight",
        names=[
            ("blocks.0.conv", "stem.conv"), ("blocks.0.norm", "stem.conv_norm"), ("blocks.6.proj", _HEAD),
            *(
                row
                for ours, theirs in _PYTORCHVIDEO_STAGES.items()
                for row in _block_names(f"blocks.{theirs}.res_blocks.{{b}}.", f"stages.{ours}.{{b}}", _PYTORCHVIDEO)
            ),
        ],
    ),
}  # fmt: skip


def find_format(state_dict: Mapping[str, Tensor]) -> str | None:
    """The name in `FORMATS` of weights of another code base, or None if they are of none."""
    for name, known in FORMATS.items():
        if known.telling in state_dict and state_dict[known.telling].ndim == known.dims:
            return name
    return None


def from_upstream(state_dict: Mapping[str, Tensor], name: str, *, pathway: str, task: str) -> dict[str, Tensor]:
    """Weights of the format `name` -> ours without pathways, the classifier as the head of a task on a pathway.

    Caffe2's norms of scale and bias alone get statistics that change nothing.
    """
    weights = FORMATS[name].keys(pathway=pathway, task=task).forward(state_dict)
    if FORMATS[name].counts or any(key.endswith("_norm.running_var") for key in weights):
        return weights
    return weights | _still_statistics(weights)


def to_upstream(state_dict: Mapping[str, Tensor], name: str, *, pathway: str, task: str) -> dict[str, Tensor]:
    """The weights of one pathway -> the format `name`, the head of a task as classifier. It undoes `from_upstream`."""
    heads = {key: value for key, value in state_dict.items() if key.startswith(f"{HEADS}{pathway}.{task}.")}
    plain = to_plain({key: w for key, w in select_pathway(state_dict, pathway).items() if not key.startswith(HEADS)})
    if FORMATS[name].dims == 5:
        plain = {key: w.unsqueeze(2) if w.ndim == 4 else w for key, w in plain.items()}
    if not FORMATS[name].counts:
        plain = {key: w for key, w in plain.items() if not key.endswith(_COUNT)}
    return FORMATS[name].keys(pathway=pathway, task=task).back(plain | heads)


def _still_statistics(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What turns norms of scale and bias alone into BatchNorms that give the same in evaluation.

    Behind the last convolution of a non-local block there is no norm at all then: it gets one that changes nothing.
    """
    added = {}
    for key, weight in weights.items():
        if key.endswith(".attention.out.weight"):
            norm, chans = key.replace(".out.weight", ".out_norm"), weight.new_ones(len(weight))
            added |= {f"{norm}.weight": weights.get(f"{norm}.weight", chans)}
            added |= {f"{norm}.bias": weights.get(f"{norm}.bias", chans * 0)}
    for key, scale in {**weights, **added}.items():
        if key.endswith("_norm.weight"):
            norm = key.removesuffix(".weight")
            mean, variance = torch.zeros_like(scale), torch.full_like(scale, 1 - NORM_EPS)
            added |= {f"{norm}.running_mean": mean, f"{norm}.running_var": variance}
    return added


def to_plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one pathway by names without it; temporal filters (O, I, t, 1) have five dimensions again."""
    return {
        _without_pathway(key): w.unsqueeze(-1) if w.ndim == 4 and _is_temporal(w) else w for key, w in weights.items()
    }


def _without_pathway(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in (*MODALITIES, SHARED))


def _is_temporal(filters: Tensor) -> bool:
    """Whether filters (O, I, h, w) are t×1×1, their frames in the rows."""
    return filters.shape[2] > filters.shape[3]


def _fit_frames(weight: Tensor, fresh: Tensor, *, deflate: bool) -> Tensor:
    """Filters (O, I, [t,] h, w) as `fresh` holds them; what does not fit is left to the fit to complain of."""
    if weight.ndim < 4 or fresh.ndim < 4:
        return weight
    temporal = fresh.ndim == 4 and _is_temporal(fresh)
    frames = fresh.shape[2] if fresh.ndim == 5 or temporal else 1
    filters = weight if weight.ndim == 5 else weight.unsqueeze(2)
    if weight.ndim == 4 and frames > 1:
        filters = filters.repeat(1, 1, frames, 1, 1) / frames
    elif deflate:
        filters = filters.sum(2, keepdim=True)
    if fresh.ndim == 5:
        return filters
    return filters.squeeze(-1 if temporal else 2)


def _from_others(state_dict: Mapping[str, Tensor], model: NonLocalNet, name: str, task: str) -> dict[str, Tensor]:
    """Weights of another code base as this network's, the classifier as the head of the task wherever it hangs."""
    plain = from_upstream(state_dict, name, pathway=VIDEO, task=task)
    head = f"{HEADS}{VIDEO}.{task}."
    classifier = {key.removeprefix(head): plain.pop(key) for key in [*plain] if key.startswith(head)}
    ours = model.from_plain(plain, image=FORMATS[name].dims == 4)
    for pathway in model.pathways:
        if task in model.heads[pathway]:
            ours |= {f"{HEADS}{pathway}.{task}.{part}": value for part, value in classifier.items()}
    return ours


def _task_of(model: NonLocalNet, name: str, task: str | None) -> str:
    """The task whose head another code base's classifier becomes."""
    if FORMATS[name].dims == 4:
        return first_task(model.tasks, IMAGE) or task or "in1k"
    return task or first_task(model.tasks, VIDEO) or "k400"


def _check_classes(ours: Mapping[str, Tensor], model: NonLocalNet, task: str, about: str) -> None:
    """Raises a CheckpointError if the classifier is of other classes than the task's head."""
    for pathway in model.pathways:
        weight = ours.get(f"{HEADS}{pathway}.{task}.weight")
        if weight is not None and weight.ndim == 2 and len(weight) != (here := model.tasks[task].num_classes):
            modality = model.tasks[task].modality
            raise CheckpointError(
                f"the classifier in these weights of {about} has {len(weight)} classes, the head of {task} has {here}: "
                f"create the network with tasks={{{task!r}: ({modality!r}, {len(weight)})}}, or with num_classes for a "
                f"fresh head"
            )


def implied_arguments(state_dict: Mapping[str, Tensor], arguments: Arguments) -> dict[str, Any]:
    """The form and the affinity of another code base's network, where these arguments have others that it has not."""
    name = find_format(state_dict)
    if name is None:
        return {}
    known, implied = FORMATS[name], {}
    form, affinity = arguments.get("form", "slowfast"), arguments.get("affinity", "softmax")
    if known.forms and form not in known.forms and arguments["temporal"] != "all":
        implied["form"] = known.forms[0]
    projections = {part for part in ("theta", "g") if any(f".non_local_block.{part}." in key for key in state_dict)}
    if name != "mmaction2":
        affinities = ("softmax", "dot_product")
    elif projections == {"g"}:
        affinities = ("mm_gaussian",)
    else:
        affinities = ("mm_embedded_gaussian", "mm_dot_product")
    if arguments.get("nonlocal_blocks") and affinity not in affinities:
        implied["affinity"] = affinities[0]
    return implied


def _warn_of_form(model: NonLocalNet, known: Format) -> None:
    """Weights of another form have the same names and shapes, and silently give other outputs."""
    form = model._own_arguments["form"]
    if known.forms and form not in known.forms and model.temporal != "all":
        warnings.warn(
            f"weights of {known.about} are of a network of form {known.forms[0]!r}, this one is of {form!r}: its "
            f"outputs are others than theirs; choose a tag or form={known.forms[0]!r} to have them",
            stacklevel=2,
        )


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: NonLocalNet, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint in any format we read -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys and shapes: our own, and those of `FORMATS`. A video network's classifier becomes the
    head of `task`, and its deflation the image pathway where the model has one; a ResNet's becomes the head of the
    first image task, and its inflation the video pathway. `fresh_heads`: see `fit_to_model`.

    Raises:
        CheckpointError: the format is unknown, or what is in it does not fit.
    """
    name = find_format(state_dict)
    if name is not None:
        task = _task_of(model, name, task)
        _warn_of_form(model, FORMATS[name])
        state_dict = _from_others(state_dict, model, name, task)
        if not fresh_heads:
            _check_classes(state_dict, model, task, FORMATS[name].about)
            fresh_heads = any(key.startswith(HEADS) for key in state_dict)  # those of other tasks
    elif model.state_dict().keys().isdisjoint(state_dict):
        read = ", ".join(known.about for known in FORMATS.values())
        raise CheckpointError(f"the weights are in no format that is read here: this package's own, {read}")
    elif len(model.pathways) == 1:
        state_dict = select_pathway(state_dict, model.pathways[0])
    stems = [f"stem.conv.{ending}" for ending in ("weight", "image.weight", "video.weight")]
    return fit_to_model(state_dict, model, adaptable=stems, fresh_heads=fresh_heads)


# ---- registered names -----------------------------------------------------------------------------------------------


def _first_conv(arguments: Arguments) -> str:
    if arguments["temporal"] == "none":
        return "stem.conv"
    return f"stem.conv.{IMAGE if IMAGE in arguments['pathways'] else VIDEO}"


FAMILY = Family(
    model_class=NonLocalNet,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    implied_arguments=implied_arguments,
    first_conv=_first_conv,
    reduction=32,
    about="an inflated (I3D) or frame-wise (C2D) ResNet, with or without "
    "[non-local blocks](https://arxiv.org/abs/1711.07971)",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def i3d50_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-50 for images and videos: 1×1 and 3×3 convolutions are shared, stem, temporal convolutions and norms not."""
    return build(FAMILY, "i3d50_dual", pretrained, **kwargs)


@register_model
def i3d50_nl_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-50 with five non-local blocks for images and videos, which share their projections."""
    return build(FAMILY, "i3d50_nl_dual", pretrained, **kwargs)


@register_model
def c2d50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """C2D-50: a ResNet-50 for images and, with one pool over time, for videos, with the same weights."""
    return build(FAMILY, "c2d50", pretrained, **kwargs)


@register_model
def c2d50_nl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """C2D-50 with five non-local blocks, for images and videos with the same weights."""
    return build(FAMILY, "c2d50_nl", pretrained, **kwargs)


@register_model
def i3d50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-50, a video network."""
    return build(FAMILY, "i3d50", pretrained, **kwargs)


@register_model
def i3d50_nl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-50 with five non-local blocks, a video network."""
    return build(FAMILY, "i3d50_nl", pretrained, **kwargs)


@register_model
def i3d101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-101, a video network."""
    return build(FAMILY, "i3d101", pretrained, **kwargs)


@register_model
def i3d101_nl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """I3D-101 with five non-local blocks where PySlowFast has them, a video network."""
    return build(FAMILY, "i3d101_nl", pretrained, **kwargs)
