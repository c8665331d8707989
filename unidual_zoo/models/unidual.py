"""UniDual and its baselines: R2D, R(2+1)D, multitask and LSTM networks as one class (arXiv 1906.03857, Table 1).

Which pathways a network has, which tasks hang on them and how the frames of a clip are pooled are constructor data.
Widths, strides and initialisation are VMZ's (the paper's code base): mid = floor(27·in·out / (9·in + 3·out)).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.models import register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unidual_zoo.checks import check_known
from unidual_zoo.models.create import Family, build
from unidual_zoo.models.heads import TaskHeads, first_task, init_head, primary_task
from unidual_zoo.models.pathways import (
    SHARED,
    PathwayNorm,
    UniDualConv,
    deflate,
    fold_frames,
    select_pathway,
    unfold_frames,
)
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, ClipSpec, InputSpec, Task, parse_tasks
from unidual_zoo.weights import HEADS, Checkpoint, Metric, fit_to_model

STEM_CHANS, STEM_MID_CHANS, STEM_KERNEL = 64, 45, 7  # VMZ fixes 45; its formula would give 83
BOTTLENECK_EXPANSION = 4
GLOBAL_POOLS = ("avg", "")
LSTM_UNITS = 512  # paper §3.1, R2D-LSTM


def mid_chans(in_chans: int, out_chans: int) -> int:
    """Channels between the 3×3 and the temporal convolution that give a 3×3×3 convolution's parameters ([21] §3.5)."""
    return 27 * in_chans * out_chans // (9 * in_chans + 3 * out_chans)


class Shortcut(nn.Module):
    """1×1 projection of the residual connection, shared by the pathways: (B*T, C, H, W) -> (B*T', C', H', W')."""

    def __init__(self, in_chans, out_chans, *, stride, temporal_stride, pathways, shared_norms, eps):
        super().__init__()
        self.temporal_stride = temporal_stride
        self.conv = nn.Conv2d(in_chans, out_chans, 1, stride, bias=False)
        self.conv_norm = PathwayNorm(out_chans, pathways=pathways, shared=shared_norms, eps=eps)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        if pathway == VIDEO and self.temporal_stride > 1:
            x = x.unflatten(0, (batch, -1))[:, :: self.temporal_stride].flatten(0, 1)
        return self.conv_norm(self.conv(x), pathway)


class Block(nn.Module):
    """A residual block; subclasses set `residual`. (B*T, C, H, W) -> (B*T', C', H', W')."""

    expansion = 1

    def __init__(self, in_chans, planes, *, stride, temporal_stride, drop_path, **norms):
        super().__init__()
        self.shortcut = None
        if stride > 1 or in_chans != planes * self.expansion:
            strides = dict(stride=stride, temporal_stride=temporal_stride)
            self.shortcut = Shortcut(in_chans, planes * self.expansion, **strides, **norms)
        self.drop_path = DropPath(drop_path) if drop_path else None
        self.act = nn.ReLU(inplace=True)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no residual branch")

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, pathway, batch)
        x = self.residual(x, pathway, batch)
        if self.drop_path is not None:  # a clip is dropped as a whole
            x = self.drop_path(x.unflatten(0, (batch, -1))).flatten(0, 1)
        return self.act(x + shortcut)


class BasicBlock(Block):
    """Two UniDual units. `mid_per_block` gives both the first one's mid channels, as torchvision does."""

    def __init__(self, in_chans, planes, *, stride, temporal_stride, drop_path, mid_per_block, **norms):
        strides = dict(stride=stride, temporal_stride=temporal_stride)
        super().__init__(in_chans, planes, **strides, drop_path=drop_path, **norms)
        mid = mid_chans(in_chans, planes)
        self.conv1 = UniDualConv(in_chans, mid, planes, **strides, **norms)
        self.conv2 = UniDualConv(planes, mid if mid_per_block else mid_chans(planes, planes), planes, **norms)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        return self.conv2(self.act(self.conv1(x, pathway, batch)), pathway, batch)


class Bottleneck(Block):
    """1×1 (shared) -> UniDual unit -> 1×1 (shared)."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(self, in_chans, planes, *, stride, temporal_stride, drop_path, mid_per_block, **norms):
        strides = dict(stride=stride, temporal_stride=temporal_stride)
        super().__init__(in_chans, planes, **strides, drop_path=drop_path, **norms)
        norm = partial(PathwayNorm, pathways=norms["pathways"], shared=norms["shared_norms"], eps=norms["eps"])
        mid = mid_chans(in_chans if mid_per_block else planes, planes)
        self.conv1 = nn.Conv2d(in_chans, planes, 1, bias=False)
        self.conv1_norm = norm(planes)
        self.conv2 = UniDualConv(planes, mid, planes, **strides, **norms)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.conv3_norm = norm(planes * self.expansion)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        x = self.act(self.conv1_norm(self.conv1(x), pathway))
        x = self.act(self.conv2(x, pathway, batch))
        return self.conv3_norm(self.conv3(x), pathway)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class UniDual(nn.Module):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Args:
        depths: blocks in each of the four stages.
        block: "basic" or "bottleneck".
        pathways: ("image",) is an R2D, ("video",) an R(2+1)D, both a UniDual.
        tasks: `{"in1k": ("image", 1000), "k400": ("video", 400)}`; a task of 0 classes has no head.
        auxiliary: every task has a head on both pathways (paper §2.2, Auxiliary Losses).
        heads: `{"image": ["in1k"], "video": [...]}` where the rule does not fit: a task hangs on its modality's
            pathway or, if that is missing, on the other.
        norms: "split" gives each pathway its own BatchNorms; "shared" shares those behind shared convolutions.
        pool: a 1×3×3 max pool of stride 2 behind the stem (paper §3.3).
        width: multiplies all channels.
        mid_planes: "conv" sizes each unit's middle from its own channels (VMZ), "block" from the block's (torchvision).
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        frame_pool: "mean" over a clip's frames, or "lstm" on the image pathway (paper §3.1, R2D-LSTM).
        global_pool: "avg", or "" for unpooled features (only without heads).
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        block: str = "basic",
        pathways: Sequence[str] = MODALITIES,
        tasks: Mapping[str, Any],
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        norms: str = "split",
        pool: bool = False,
        width: float = 1.0,
        mid_planes: str = "conv",
        norm_eps: float = 1e-3,
        spec: InputSpec | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        frame_pool: str = "mean",
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        check_known("block", block, BLOCKS)
        check_known("norms", norms, ("split", SHARED))
        check_known("mid_planes", mid_planes, ("conv", "block"))
        check_known("frame_pool", frame_pool, ("mean", "lstm"))
        for pathway in pathways:
            check_known("pathway", pathway, MODALITIES)
        if not pathways:
            raise ValueError(f"a network needs a pathway, allowed: {', '.join(MODALITIES)}")
        if round(STEM_MID_CHANS * width) < 1:
            raise ValueError(f"width {width} leaves no channels, it must be at least {1 / STEM_MID_CHANS:.2f}")
        if frame_pool == "lstm" and tuple(pathways) != (IMAGE,):
            raise ValueError(f"frame_pool='lstm' needs pathways ('image',) alone, got {tuple(pathways)}")
        self._shape = dict(
            depths=list(depths), block=block, pathways=list(pathways), norms=norms, pool=pool, width=width,
            mid_planes=mid_planes, norm_eps=norm_eps, frame_pool=frame_pool, in_chans=in_chans,
            drop_rate=drop_rate, drop_path_rate=drop_path_rate,
        )  # fmt: skip
        self.pathways = tuple(name for name in MODALITIES if name in pathways)
        self.in_chans = in_chans
        self.frame_pool = frame_pool
        self.grad_checkpointing = False
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec.from_dict(spec or {})
        if num_frames is not None:
            self.spec = dataclasses.replace(self.spec, clip=dataclasses.replace(self.spec.clip, length=num_frames))

        common: dict[str, Any] = dict(
            pathways=self.pathways, shared_norms=norms == SHARED and len(self.pathways) > 1, eps=norm_eps
        )
        chans, stem_mid = round(STEM_CHANS * width), round(STEM_MID_CHANS * width)
        self.stem = UniDualConv(in_chans, stem_mid, chans, kernel=STEM_KERNEL, stride=2, **common)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else None
        self.stages = nn.ModuleList()
        reduction = 4 if pool else 2
        self.feature_info = [dict(num_chs=chans, reduction=2, module="stem")]
        drop_paths = iter([drop_path_rate * index / max(1, sum(depths) - 1) for index in range(sum(depths))])
        for stage, depth in enumerate(depths):
            planes, stage_stride = round(STEM_CHANS * width) * 2**stage, 1 if stage == 0 else 2
            blocks = nn.ModuleList()
            for index in range(depth):
                stride = stage_stride if index == 0 else 1
                blocks.append(
                    BLOCKS[block](
                        chans, planes, stride=stride, temporal_stride=stride,
                        drop_path=next(drop_paths), mid_per_block=mid_planes == "block", **common,
                    )
                )  # fmt: skip
                chans = planes * BLOCKS[block].expansion
            reduction *= stage_stride
            self.stages.append(blocks)
            self.feature_info.append(dict(num_chs=chans, reduction=reduction, module=f"stages.{stage}"))

        self.num_features = chans
        self.lstm = nn.LSTM(chans, LSTM_UNITS, batch_first=True) if frame_pool == "lstm" else None
        self.head_hidden_size = LSTM_UNITS if self.lstm is not None else chans
        self.head_drop = nn.Dropout(drop_rate)
        self.heads = TaskHeads(
            parse_tasks(tasks),
            pathways=self.pathways,
            in_features=self.head_hidden_size,
            auxiliary=auxiliary,
            assignment=heads,
        )
        self.spec = self.spec.for_tasks(self.tasks)
        _check_global_pool(global_pool, self._tasks_with_heads())
        self.global_pool = global_pool
        self.init_weights()

    def init_weights(self) -> None:
        """MSRA fan-in for convolutions, as VMZ; heads normal with deviation 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                init_head(module)

    # ---- the forward pass -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, modality: str | None = None, task: str | None = None) -> Tensor:
        """Logits (B, classes) of `task` by the pathway `modality`; pooled features if that pathway has no head.

        Without `modality` the input's rank chooses the pathway (or the only one there is); without `task` the first
        task of the input's modality with a head there, else the first with a head there. An image on the video pathway
        becomes `num_frames` equal frames; a clip on the image pathway is run frame by frame.

        Raises:
            ValueError: a pathway or head that the model lacks; an input of another rank, dtype or number of channels.
        """
        came = self._check_input(x)
        pathway = self._resolve_pathway(came, modality)
        task = self._resolve_task(came, pathway, task)
        features = self.forward_features(x, modality=pathway)
        return self.forward_head(features, modality=pathway, task=task)

    def forward_features(self, x: Tensor, modality: str | None = None) -> Tensor:
        """Unpooled features: (B, C, H, W) of an image on the image pathway, (B, C, T, H, W) of all else."""
        return self._run(x, modality, last=len(self.stages))[0]

    def forward_head(
        self, x: Tensor, pre_logits: bool = False, modality: str | None = None, task: str | None = None
    ) -> Tensor:
        """What `forward_features` gave -> logits (B, classes), or pooled features (B, D) if `pre_logits`.

        Features (B, C, T, H, W) count as a clip's: of an image on the video pathway the head is to be named by `task`,
        if the pathway has heads of images and of videos.
        """
        came = IMAGE if x.ndim == 4 else VIDEO
        pathway = self._resolve_pathway(came, modality)
        if self.global_pool == "":
            return x
        if self.lstm is not None:
            x = x.mean((-2, -1))  # (B, D) of images, (B, D, T) of clips
            x = x.unsqueeze(1).expand(-1, self.num_frames, -1) if came == IMAGE else x.transpose(1, 2)
            x = self.lstm(x)[0][:, -1]  # (B, T, D) -> (B, LSTM_UNITS)
        else:
            x = x.mean(tuple(range(2, x.ndim)))
        x = self.head_drop(x)
        task = self._resolve_task(came, pathway, task)
        return x if pre_logits or task is None else self.heads[pathway][task](x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        modality: str | None = None,
    ) -> Any:
        """Outputs of the stem (0) and the stages (1 to 4): (B, C, H, W) of images, (B, C, T, H, W) of clips."""
        check_known("output_fmt", output_fmt, ("NCHW",))
        take, last = self._take_indices(indices)
        features, taken = self._run(x, modality, last=last if stop_early else len(self.stages), take=take)
        return taken if intermediates_only else (features, taken)

    def _take_indices(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        listed = list(indices) if isinstance(indices, Sequence) else indices
        return feature_take_indices(len(self.stages) + 1, listed)  # type: ignore[return-value]

    def _run(
        self, x: Tensor, modality: str | None, *, last: int, take: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The stem (0) and the stages up to number `last`: the output of the last, and of those to take."""
        came = self._check_input(x)
        pathway = self._resolve_pathway(came, modality)
        if came == IMAGE and pathway == VIDEO:
            x = x.unsqueeze(2).expand(-1, -1, self.num_frames, -1, -1)
        batch, as_clip = x.shape[0], x.ndim == 5
        run = self._checkpointed if self.grad_checkpointing and torch.is_grad_enabled() else _call
        x = self.act(run(self.stem, fold_frames(x), pathway, batch))
        taken = {0: x} if 0 in take else {}
        if self.pool is not None:
            x = self.pool(x)
        for number, stage in enumerate(self.stages, start=1):
            if number > last:
                break
            for block in stage.children():
                x = run(block, x, pathway, batch)
            if number in take:
                taken[number] = x
        outputs = [x, *(taken[number] for number in take)]
        if as_clip:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return outputs[0], outputs[1:]

    @staticmethod
    def _checkpointed(block: nn.Module, x: Tensor, pathway: str, batch: int) -> Tensor:
        if torch.compiler.is_compiling():  # changes nothing but the forward's result, and takes no contexts
            return checkpoint(block, x, pathway, batch, use_reentrant=False)

        def contexts():
            return contextlib.nullcontext(), _statistics_kept(block)

        return checkpoint(block, x, pathway, batch, use_reentrant=False, context_fn=contexts)

    def _check_input(self, x: Tensor) -> str:
        """The modality of the input by its rank, after its shape and type are found to be right."""
        if x.ndim not in (4, 5) or x.shape[1] != self.in_chans or 0 in x.shape:
            chans = self.in_chans
            allowed = f"non-empty images (B, {chans}, H, W) or clips (B, {chans}, T, H, W)"
            raise ValueError(f"needs {allowed}, got {tuple(x.shape)}")
        dtype = self.stem.dtype  # not that of the first parameter: a replica of DataParallel has none
        if x.dtype != dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            raise ValueError(f"needs normalised {dtype} input, as the weights are, got {x.dtype}")
        return IMAGE if x.ndim == 4 else VIDEO

    def _resolve_pathway(self, came: str, modality: str | None) -> str:
        if modality is None:
            return self.default_pathway(came)
        if modality not in self.pathways:
            raise ValueError(f"no pathway for modality {modality!r} here, allowed: {', '.join(self.pathways)}")
        return modality

    def _resolve_task(self, came: str, pathway: str, task: str | None) -> str | None:
        if task is None:
            return self.default_task(came, pathway)
        if task not in self.heads[pathway]:
            allowed = ", ".join(self.pathway_tasks(pathway)) or "none"
            raise ValueError(f"task {task!r} has no head on the {pathway} pathway, allowed: {allowed}")
        return task

    # ---- tasks and heads --------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return self.heads.tasks

    @property
    def auxiliary(self) -> bool:
        """Whether every task has a head on every pathway."""
        return self.heads.auxiliary

    @property
    def num_frames(self) -> int:
        """Frames of a clip, and of an image that is inflated to one."""
        return self.spec.clip.length

    @property
    def num_classes(self) -> int:
        """Classes of the primary task, timm's `num_classes`."""
        primary = primary_task(self.tasks)
        return self.tasks[primary].num_classes if primary else 0

    def default_pathway(self, modality: str) -> str:
        """The pathway that an input of this modality takes by default."""
        return modality if modality in self.pathways else self.pathways[0]

    def default_task(self, modality: str, pathway: str) -> str | None:
        """The task that an input of this modality has by default on a pathway, None if no head is there."""
        return self.heads.default_task(modality, pathway)

    def pathway_tasks(self, pathway: str) -> tuple[str, ...]:
        """The tasks that have a head on a pathway, in the order of `tasks`."""
        return self.heads.on(pathway)

    def _tasks_with_heads(self) -> set[str]:
        return {task for pathway in self.pathways for task in self.heads.on(pathway)}

    def get_classifier(self, task: str | None = None) -> nn.Module:
        """The task's head (default: the primary task's), on its modality's pathway if it has one there."""
        return self.heads.classifier(task)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, *, task: str | None = None) -> None:
        """Fresh heads of `num_classes` for a task (default: the primary one); 0 without a task removes all heads.

        `global_pool` None stays what it is, but new heads on a network without pooling bring "avg" back.
        """
        if global_pool is None:
            global_pool = "avg" if num_classes else self.global_pool
        task = task or (primary_task(self.tasks) if num_classes else None)
        kept = self._tasks_with_heads() - {task} if task else set()
        _check_global_pool(global_pool, kept | {task} if task and num_classes else kept)
        if task is None:
            self.heads.remove_all()
        else:
            self.heads.resize(task, num_classes)
            self.spec = self.spec.without_classes(task)
        self.heads.to(next(self.stem.parameters()))
        self.global_pool = global_pool
        self.spec = self.spec.for_tasks(self.tasks)

    def drop_auxiliary_heads(self) -> None:
        """Removes the heads that only training needs (paper §2.2, Inference).

        That is a task's head on the other modality's pathway, if it has one on its own and the pathway keeps another.
        """
        self.heads.drop_auxiliary()

    def add_auxiliary_heads(self) -> None:
        """Gives every task a head on every pathway; those it had stay as they are."""
        self.heads.add_auxiliary()
        self.heads.to(next(self.stem.parameters()))

    # ---- timm's conventions -----------------------------------------------------------------------------------------

    @property
    def _model_args(self) -> dict[str, Any]:
        """The constructor arguments that rebuild this network as it is now; timm saves them in config.json."""
        now = dict(global_pool=self.global_pool, num_frames=self.num_frames, spec=self.spec.to_dict())
        return {**self._shape, **self.heads.arguments(), **now}

    @_model_args.setter
    def _model_args(self, arguments: Mapping[str, Any]) -> None:
        """timm's factory sets the arguments of the call here; the network itself knows better and forgets nothing."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups of parameters from input to output, for layer decay."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return dict(stem=r"^stem", blocks=[(blocks, None), (r"^lstm|^heads", (99999,))])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stem and each block in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay must skip by name: none."""
        return set()

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages behind the last index, and the heads if `prune_head`.

        New heads then take what the last stage gives, an LSTM before them is fresh.
        """
        take, last = self._take_indices(indices)
        self.stages, self.feature_info = self.stages[:last], self.feature_info[: last + 1]
        self._shape |= {"depths": [len(list(stage.children())) for stage in self.stages]}
        if prune_head:
            self.reset_classifier(0, "")
            chans = self.feature_info[-1]["num_chs"]
            if self.lstm is not None and chans != self.num_features:
                self.lstm = nn.LSTM(chans, LSTM_UNITS, batch_first=True).to(next(self.stem.parameters()))
            self.num_features = chans
            self.head_hidden_size = self.heads.in_features = LSTM_UNITS if self.lstm is not None else chans
        return take


def _check_global_pool(global_pool: str, with_heads: set[str]) -> None:
    check_known("global_pool", global_pool, GLOBAL_POOLS)
    if global_pool == "" and with_heads:
        heads = ", ".join(sorted(with_heads))
        raise ValueError(f"global_pool='' gives unpooled features and needs num_classes=0, got heads of {heads}")


def _call(block: nn.Module, *args: Any) -> Tensor:
    return block(*args)


@contextlib.contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """While a checkpointed block is recomputed its BatchNorms must not count the same batch again."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, counted in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None if counted is None else counted.clone()
    try:
        yield
    finally:
        for norm, momentum, counted in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counted


# ---- checkpoints of other code bases --------------------------------------------------------------------------------

_VIDEO_RESNET = [  # torchvision's VideoResNet, as VMZ and ig65m-pytorch use it -> our names
    (r"^stem\.0\.", "stem.spatial."),
    (r"^stem\.1\.", "stem.spatial_norm.video."),
    (r"^stem\.3\.", "stem.pointwise.video."),
    (r"^stem\.4\.", "stem.norm.video."),
    (r"^layer(\d)\.(\d+)\.", lambda found: f"stages.{int(found[1]) - 1}.{found[2]}."),
    (r"\.(conv[12])\.0\.0\.", r".\1.spatial."),
    (r"\.(conv[12])\.0\.1\.", r".\1.spatial_norm.video."),
    (r"\.(conv[12])\.0\.3\.", r".\1.pointwise.video."),
    (r"\.conv([13])\.0\.", r".conv\1."),  # 1×1 convolutions of bottlenecks
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.conv_norm.video."),
]


def _from_video_resnet(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights in torchvision's layout -> ours, its classifier as the head of `task`."""
    bottleneck = "layer1.0.conv3.0.weight" in state_dict
    ours = {}
    for key, value in state_dict.items():
        for pattern, name in _VIDEO_RESNET:
            key = re.sub(pattern, name, key)
        behind_unit = r"\.(conv2)\.1\." if bottleneck else r"\.(conv[12])\.1\."
        key = re.sub(behind_unit, r".\1.norm.video.", key)
        key = re.sub(r"\.(conv[13])\.1\.", r".\1_norm.video.", key)
        key = re.sub(r"^fc\.", f"{HEADS}video.{task}.", key)
        if value.ndim == 5:  # (O, I, 1, k, k) or (O, I, t, 1, 1)
            value = value.squeeze(-1) if value.shape[2] > 1 else value.squeeze(2)
        ours[key] = value
    return ours


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: UniDual, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint in any format we read -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys: our own, which is taken as it is, and torchvision's VideoResNet (R(2+1)D), whose
    classifier becomes the head of `task` (default: the model's first video task) and whose deflation becomes the image
    pathway where the model has one. `fresh_heads`: see `fit_to_model`.
    """
    if "stem.0.weight" in state_dict:
        video = _from_video_resnet(state_dict, task or first_task(model.tasks, VIDEO) or "k400")
        if any(f"_norm.{SHARED}." in key for key in model.state_dict()):
            video = {key.replace(f"_norm.{VIDEO}.", f"_norm.{SHARED}."): value for key, value in video.items()}
        state_dict = {**deflate(video), **video} if IMAGE in model.pathways else video
    if len(model.pathways) == 1:
        state_dict = select_pathway(state_dict, model.pathways[0])
    return fit_to_model(state_dict, model, adaptable=("stem.spatial.weight",), fresh_heads=fresh_heads)


# ---- the table of variants ------------------------------------------------------------------------------------------

_IN1K, _K400 = {"in1k": (IMAGE, 1000)}, {"k400": (VIDEO, 400)}
_NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}
_SPEC_34 = InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=8), classes=_NAMES)
_SPEC_152 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=16, stride=4), classes=_NAMES)
_SPEC_TORCHVISION = dataclasses.replace(_SPEC_34, clip=ClipSpec(length=16, rate=15))
_TOY = {"toy_objects": (IMAGE, 10), "toy_actions": (VIDEO, 12)}
_SPEC_TOY = InputSpec(
    resize=(72, 96), crop=(64, 64), clip=ClipSpec(length=8, stride=4), classes={task: task for task in _TOY}
)

_CIFAR = {"cifar10": (IMAGE, 10), "cifar_motion": (VIDEO, 12)}


def _spec_cifar(*tasks: str) -> InputSpec:
    return InputSpec(resize=32, crop=(28, 28), classes={task: task for task in tasks}, clip=ClipSpec(length=8))


_SIZES = {
    "10": dict(depths=(1, 1, 1, 1), width=0.25, spec=_SPEC_34),
    "34": dict(depths=(3, 4, 6, 3), spec=_SPEC_34),
    "152": dict(depths=(3, 8, 36, 3), block="bottleneck", pool=True, spec=_SPEC_152),
}
_SYSTEMS = {  # paper, Table 1; a fine-tuned system is its network, trained in two stages
    "r2d{}": dict(pathways=(IMAGE,), tasks=_IN1K),
    "r2plus1d{}": dict(pathways=(VIDEO,), tasks=_K400),
    "r2d{}_multitask": dict(pathways=(IMAGE,), tasks=_IN1K | _K400),
    "r2d{}_lstm_multitask": dict(pathways=(IMAGE,), tasks=_IN1K | _K400, frame_pool="lstm"),
    "r2plus1d{}_multitask": dict(pathways=(VIDEO,), tasks=_IN1K | _K400),
    "unidual{}": dict(pathways=MODALITIES, tasks=_IN1K | _K400),
    "unidual{}_aux": dict(pathways=MODALITIES, tasks=_IN1K | _K400, auxiliary=True),
}
_ONLY_SMALL = ("r2d152_multitask", "r2d152_lstm_multitask", "r2plus1d152_multitask")  # the paper has no such systems

ARCHITECTURES: dict[str, dict[str, Any]] = {
    name.format(size): {**numbers, **system}
    for size, numbers in _SIZES.items()
    for name, system in _SYSTEMS.items()
    if name.format(size) not in _ONLY_SMALL
}
ARCHITECTURES["r2plus1d18"] = dict(  # torchvision's network
    depths=(2, 2, 2, 2), mid_planes="block", norm_eps=1e-5, pathways=(VIDEO,), tasks=_K400, spec=_SPEC_TORCHVISION
)  # fmt: skip

# ---- the table of checkpoints ---------------------------------------------------------------------------------------

_SPEC_32 = dataclasses.replace(_SPEC_34, clip=ClipSpec(length=32))
_VMZ = "https://github.com/facebookresearch/VMZ"
_ZOO = f"{_VMZ}/blob/main/c2/tutorials/model_zoo.md"
_FILES_34 = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34_"
_FILES_152 = "https://github.com/bjuncek/VMZ/releases/download/test_models/r2plus1d_152_"
_ROW_34 = Checkpoint(
    spec=_SPEC_34,
    license="mit",
    source="https://github.com/moabitcoin/ig65m-pytorch",
    about="IG-65M, then Kinetics-400",
)
_ROW_152 = Checkpoint(  # trained at 112×112 without the pool; the numbers in the files' names are no hashes
    spec=_SPEC_32, arguments={"pool": False}, license="apache-2.0", source=_VMZ, about="IG-65M, then Kinetics-400"
)  # fmt: skip


def _metrics(task: str, values: Mapping[str, float], *, source: str, protocol: str = "unidual34") -> list[Metric]:
    return [Metric(task=task, metric=m, value=v, protocol=protocol, source=source) for m, v in values.items()]


def _theirs(video_1: float, video_5: float, *, protocol: str = "unidual34", source: str = _ZOO) -> list[Metric]:
    return _metrics("k400", {"video@1": video_1, "video@5": video_5}, protocol=protocol, source=source)


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first with weights is the default
    "unidual10_aux.cifar10_motion": Checkpoint(
        file="unidual10_aux.cifar10_motion.safetensors", spec=_spec_cifar(*_CIFAR),
        arguments={"tasks": _CIFAR, "auxiliary": False},
        sha256="41fa3780e4fdd57f71283850e8e9366d39bab175ba005c931c5a54f131ed640e",
        license="apache-2.0", about="CIFAR-10 and CIFAR-Motion", recipe="cifar",
        metrics=[
            *_metrics("cifar10", {"top-1": 74.2, "top-5": 98.2}, source="benchmarks/table2.py"),
            *_metrics(
                "cifar_motion", {"clip@1": 68.2, "video@1": 72.5, "video@5": 98.0}, source="benchmarks/table2.py"
            ),
        ],
    ),
    "unidual10_aux.toy": Checkpoint(
        file="unidual10_aux.toy.safetensors", spec=_SPEC_TOY, arguments={"tasks": _TOY, "auxiliary": False},
        sha256="7914e8bc3efd9c389842b825dca895e34e76c08b24f7dc1320e1ae32f80a202c",
        license="apache-2.0", about="the embedded data", recipe="toy",
        metrics=[
            *_metrics("toy_objects", {"top-1": 83.3, "top-5": 97.6}, source="benchmarks/imagenet.py"),
            *_metrics(
                "toy_actions", {"clip@1": 93.6, "video@1": 95.6, "video@5": 99.6}, source="benchmarks/kinetics.py"
            ),
        ],
    ),
    "r2d10.cifar10": Checkpoint(
        file="r2d10.cifar10.safetensors", spec=_spec_cifar("cifar10"), arguments={"tasks": {"cifar10": (IMAGE, 10)}},
        sha256="5221ccf61a0c289d6cbd3b01e60e560f4e221d8bb51d8a6f14f1073ee8582791",
        license="apache-2.0", about="CIFAR-10", recipe="cifar",
        metrics=_metrics("cifar10", {"top-1": 70.2, "top-5": 97.7}, source="benchmarks/table2.py"),
    ),
    "r2plus1d10.cifar_motion": Checkpoint(
        file="r2plus1d10.cifar_motion.safetensors", spec=_spec_cifar("cifar_motion"),
        arguments={"tasks": {"cifar_motion": (VIDEO, 12)}},
        sha256="6e33119dfdcb2b287d054fd5d57fe34990fcfb788ae17b22492ff661128bbb5f",
        license="apache-2.0", about="CIFAR-Motion", recipe="cifar",
        metrics=_metrics(
            "cifar_motion", {"clip@1": 67.3, "video@1": 69.8, "video@5": 97.7}, source="benchmarks/table2.py"
        ),
    ),
    "r2plus1d18.tv_k400": Checkpoint(
        url="https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth", sha256="91a641e6", spec=_SPEC_TORCHVISION,
        license="bsd-3-clause", source="https://github.com/pytorch/vision", about="Kinetics-400",
        upstream=_theirs(67.463, 86.175, protocol="torchvision", source="torchvision R2Plus1D_18_Weights"),
    ),
    "r2plus1d34.ig65m_ft_k400_clip8": dataclasses.replace(
        _ROW_34, url=f"{_FILES_34}clip8_ft_kinetics_from_ig65m-0aa0550b.pth", sha256="0aa0550b",
        upstream=_theirs(74.9, 91.8),
    ),
    "r2plus1d34.ig65m_ft_k400_clip32": dataclasses.replace(
        _ROW_34, url=f"{_FILES_34}clip32_ft_kinetics_from_ig65m-ade133f1.pth", sha256="ade133f1", spec=_SPEC_32,
        upstream=_theirs(80.0, 94.2),
    ),
    "r2plus1d34.ig65m_clip8": dataclasses.replace(
        _ROW_34, url=f"{_FILES_34}clip8_ig65m_from_scratch-9bae36ae.pth", sha256="9bae36ae",
        arguments={"tasks": {"ig65m": (VIDEO, 487)}}, about="IG-65M",
    ),
    "r2plus1d34.ig65m_clip32": dataclasses.replace(
        _ROW_34, url=f"{_FILES_34}clip32_ig65m_from_scratch-449a7af9.pth", sha256="449a7af9", spec=_SPEC_32,
        arguments={"tasks": {"ig65m": (VIDEO, 359)}}, about="IG-65M",
    ),
    "r2plus1d152.ig65m_ft_k400": dataclasses.replace(
        _ROW_152, url=f"{_FILES_152}ft_kinetics_from_ig65m_f107107466.pth", upstream=_theirs(81.6, 95.3),
    ),
    "r2plus1d152.sports1m_ft_k400": dataclasses.replace(
        _ROW_152, url=f"{_FILES_152}ft_kinetics_from_sports1m_f128957437.pth", upstream=_theirs(79.5, 94.0),
        about="Sports-1M, then Kinetics-400",
    ),
    "r2plus1d152.ig65m": dataclasses.replace(
        _ROW_152, url=f"{_FILES_152}ig65m_from_scratch_f106380637.pth",
        arguments={"pool": False, "tasks": {"ig65m": (VIDEO, 359)}}, about="IG-65M",
    ),
}  # fmt: skip


def _warm_start(row: Checkpoint) -> Checkpoint:
    """A UniDual whose video pathway is a public R(2+1)D and whose image pathway is that deflated, without training."""
    heads = {IMAGE: ["k400"], VIDEO: ["k400"]}
    about = f"{row.about}; images: the video pathway deflated, not trained"
    return dataclasses.replace(row, arguments={**row.arguments, "tasks": _K400, "heads": heads}, about=about)


def _in_paper(name: str, size: str) -> Checkpoint:
    """A system of the paper, whose weights nobody published. Published weights come without auxiliary heads."""
    tasks = ",".join(f"{task}:{modality}" for task, (modality, _) in ARCHITECTURES[name]["tasks"].items())
    recipe = f"paper-{size} --set model={name} --set tasks={tasks}"
    return Checkpoint(spec=ARCHITECTURES[name]["spec"], arguments={"auxiliary": False}, recipe=recipe)


for _size, _video in {"34": "r2plus1d34.ig65m_ft_k400_clip8", "152": "r2plus1d152.ig65m_ft_k400"}.items():
    for _system in (f"unidual{_size}", f"unidual{_size}_aux"):
        CHECKPOINTS[f"{_system}.ig65m_ft_k400_deflated"] = _warm_start(CHECKPOINTS[_video])
    for _system in (name.format(_size) for name in _SYSTEMS):
        if _system in ARCHITECTURES:
            CHECKPOINTS[f"{_system}.{'_'.join(ARCHITECTURES[_system]['tasks'])}"] = _in_paper(_system, _size)


def timm_cfg(
    *, spec: InputSpec, tasks: Mapping[str, Any], pathways: Sequence[str], pool: bool = False, **_: Any
) -> dict[str, Any]:
    """What timm's PretrainedCfg can say of these arguments. It has no 128×171: `crop_pct` approximates it."""
    parsed = parse_tasks(tasks)
    primary = primary_task(parsed)
    head = None
    if primary:
        home = parsed[primary].modality
        head = f"{HEADS}{home if home in pathways else next(iter(pathways), IMAGE)}.{primary}"
    reduction = 32 if pool else 16
    return dict(
        input_size=(3, *spec.crop),
        pool_size=tuple(-(-side // reduction) for side in spec.crop),
        crop_pct=min(spec.crop) / spec.short_side,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        num_classes=parsed[primary].num_classes if primary else 0,
        first_conv="stem.spatial",
        classifier=head,
    )


FAMILY = Family(UniDual, ARCHITECTURES, CHECKPOINTS, checkpoint_filter_fn, timm_cfg)
default_cfgs = FAMILY.default_cfgs()


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build(FAMILY, name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{name}: {ARCHITECTURES[name]}"
    globals()[name] = register_model(entrypoint)


for _name in ARCHITECTURES:
    _register(_name)
