"""UniDual and its baselines: R2D, R(2+1)D, multitask and LSTM networks as one class (arXiv 1906.03857, Table 1).

Which pathways a network has, which tasks hang on them and how the frames of a clip are pooled are constructor data.
Widths and strides are VMZ's (the paper's code base): mid = floor(27·in·out / (9·in + 3·out)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import register_model
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.folding import FoldedBlock, FoldedConvs
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.pathways import (
    SHARED,
    Norms,
    UniDualConv,
    deflate,
    fold_frames,
    inflate,
    pathway_of,
    select_pathway,
    unfold_frames,
)
from unidual_zoo.models.residual import Block, ResidualNet, Shortcut, Stage, drop_paths
from unidual_zoo.models.rows.unidual import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import CheckpointError, KeyMap, fit_to_model

STEM_CHANS, STEM_MID_CHANS, STEM_KERNEL = 64, 45, 7  # VMZ fixes 45; its formula would give 83
BOTTLENECK_EXPANSION = 4
LSTM_UNITS = 512  # paper §3.1, R2D-LSTM


def mid_chans(in_chans: int, out_chans: int) -> int:
    """Channels between the 3×3 and the temporal convolution that give a 3×3×3 convolution's parameters ([21] §3.5)."""
    return 27 * in_chans * out_chans // (9 * in_chans + 3 * out_chans)


def _fold_unit(unit: UniDualConv, pathways: Sequence[str]) -> list[FoldedConvs]:
    spatial = FoldedConvs(dict.fromkeys(pathways, unit.spatial), unit.spatial_norm)
    return [spatial, FoldedConvs({pathway: unit.pointwise[pathway] for pathway in pathways}, unit.norm)]


class BasicBlock(Block):
    """Two UniDual units. `mid_per_block` gives both the first one's mid channels, as torchvision does."""

    def __init__(
        self,
        in_chans: int,
        planes: int,
        *,
        norms: Norms,
        stride: int = 1,
        temporal_stride: int = 1,
        mid_per_block: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            in_chans, planes, norms=norms, stride=stride, temporal_stride=temporal_stride, drop_path=drop_path
        )
        mid = mid_chans(in_chans, planes)
        self.conv1 = UniDualConv(in_chans, mid, planes, norms=norms, stride=stride, temporal_stride=temporal_stride)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = UniDualConv(planes, mid if mid_per_block else mid_chans(planes, planes), planes, norms=norms)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        return self.conv2(self.act1(self.conv1(x, pathway, batch)), pathway, batch)

    def folded_layers(self, pathways: Sequence[str]) -> list[FoldedConvs]:
        return [*_fold_unit(self.conv1, pathways), *_fold_unit(self.conv2, pathways)]


class Bottleneck(Block):
    """1×1 (shared) -> UniDual unit -> 1×1 (shared)."""

    expansion = BOTTLENECK_EXPANSION

    def __init__(
        self,
        in_chans: int,
        planes: int,
        *,
        norms: Norms,
        stride: int = 1,
        temporal_stride: int = 1,
        mid_per_block: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            in_chans, planes, norms=norms, stride=stride, temporal_stride=temporal_stride, drop_path=drop_path
        )
        mid = mid_chans(in_chans if mid_per_block else planes, planes)
        self.conv1 = nn.Conv2d(in_chans, planes, 1, bias=False)
        self.conv1_norm = norms.behind_shared(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = UniDualConv(planes, mid, planes, norms=norms, stride=stride, temporal_stride=temporal_stride)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.conv3_norm = norms.behind_shared(planes * self.expansion)

    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        x = self.act1(self.conv1_norm(self.conv1(x), pathway))
        x = self.act2(self.conv2(x, pathway, batch))
        return self.conv3_norm(self.conv3(x), pathway)

    def folded_layers(self, pathways: Sequence[str]) -> list[FoldedConvs]:
        first = FoldedConvs(dict.fromkeys(pathways, self.conv1), self.conv1_norm)
        last = FoldedConvs(dict.fromkeys(pathways, self.conv3), self.conv3_norm)
        return [first, *_fold_unit(self.conv2, pathways), last]


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class UniDual(ResidualNet):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Args:
        depths: blocks in each of the four stages.
        block: "basic" or "bottleneck".
        pathways: ("image",) is an R2D, ("video",) an R(2+1)D, both a UniDual.
        tasks: `{"in1k": ("image", 1000), "k400": ("video", 400)}`; a task of 0 classes has no head.
        auxiliary: every task has a head on both pathways (paper §2.2, Auxiliary Losses).
        heads: `{"image": ["in1k"], "video": [...]}` where the rule does not fit: a task has its
            head on the pathway of its modality or, where that is missing, on the other.
        norms: "split" gives each pathway its own BatchNorms; "shared" shares those behind shared convolutions.
        pool: a 1×3×3 max pool of stride 2 behind the stem (paper §3.3).
        width: multiplies all channels.
        mid_planes: "conv" sizes each unit's middle from its own channels (VMZ), "block" from the block's (torchvision).
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        norm_eps: of the BatchNorms.
        in_chans: channels of the input.
        drop_rate: of pooled features.
        drop_path_rate: how often the last block's residual is dropped, the others' less the earlier they are.
        frame_pool: "mean" over a clip's frames, or "lstm" on the image pathway (paper §3.1, R2D-LSTM).
        global_pool: "avg", or "" for unpooled features (only without heads).
    """

    unfolded = False  # whether activations are (B, C, T, H, W), see `unfold`

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        block: str = "basic",
        pathways: Sequence[str] = MODALITIES,
        tasks: Arguments,
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        norms: str = "split",
        pool: bool = False,
        width: float = 1.0,
        mid_planes: str = "conv",
        norm_eps: float = 1e-3,
        spec: InputSpec | Arguments | None = None,
        num_frames: int | None = None,
        frame_pool: str = "mean",
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("block", block, BLOCKS)
        check_known("norms", norms, ("split", SHARED))
        check_known("mid_planes", mid_planes, ("conv", "block"))
        check_known("frame_pool", frame_pool, ("mean", "lstm"))
        if round(STEM_MID_CHANS * width) < 1:
            raise ValueError(f"width {width} leaves no channels, it must be at least {1 / STEM_MID_CHANS:.2f}")
        if frame_pool == "lstm" and tuple(pathways) != (IMAGE,):
            raise ValueError(f"frame_pool='lstm' needs pathways ('image',) alone, got {tuple(pathways)}")
        super().__init__(
            pathways=pathways,
            spec=spec,
            num_frames=num_frames,
            in_chans=in_chans,
            arguments=dict(
                depths=list(depths), block=block, norms=norms, pool=pool, width=width, mid_planes=mid_planes,
                norm_eps=norm_eps, frame_pool=frame_pool, drop_path_rate=drop_path_rate,
            ),
        )  # fmt: skip
        pathway_norms = Norms(pathways=self.pathways, shared=norms == SHARED and len(self.pathways) > 1, eps=norm_eps)
        chans, stem_mid = round(STEM_CHANS * width), round(STEM_MID_CHANS * width)
        self.stem = UniDualConv(in_chans, stem_mid, chans, kernel=STEM_KERNEL, stride=2, norms=pathway_norms)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else None
        self.stages = nn.ModuleList()
        reduction = 4 if pool else 2
        self.feature_info = [dict(num_chs=chans, reduction=2, module="act")]  # behind the stem
        rates = drop_paths(drop_path_rate, depths)
        for stage, depth in enumerate(depths):
            planes, stage_stride = round(STEM_CHANS * width) * 2**stage, 1 if stage == 0 else 2
            blocks = Stage()
            for index in range(depth):
                stride = stage_stride if index == 0 else 1
                blocks.append(
                    BLOCKS[block](
                        chans, planes, stride=stride, temporal_stride=stride,
                        drop_path=next(rates), mid_per_block=mid_planes == "block", norms=pathway_norms,
                    )
                )  # fmt: skip
                chans = planes * BLOCKS[block].expansion
            reduction *= stage_stride
            self.stages.append(blocks)
            self.feature_info.append(dict(num_chs=chans, reduction=reduction, module=f"stages.{stage}"))

        self.lstm = nn.LSTM(chans, LSTM_UNITS, batch_first=True) if frame_pool == "lstm" else None
        self.add_heads(
            num_features=chans,
            head_hidden_size=LSTM_UNITS if self.lstm is not None else None,
            tasks=tasks,
            auxiliary=auxiliary,
            heads=heads,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        self.init_weights()

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The stem (0) and the stages up to number `last`: the output of the last, and of those to take."""
        batch, as_clip = x.shape[0], x.ndim == 5
        x = x if self.unfolded else fold_frames(x)
        x = self.act(self.run_block(self.stem, x, pathway, batch))
        taken = {0: x} if 0 in take else {}
        if self.pool is not None:
            x = self.pool(x)
        for number, stage in enumerate(self.stages, start=1):
            if number > last:
                break
            x = stage(x, self.run_block, pathway, batch)
            if number in take:
                taken[number] = x
        outputs = [x, *(taken[number] for number in take)]
        if as_clip and not self.unfolded:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return outputs[0], outputs[1:]

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        if self.lstm is None:
            return super()._pool(features, pathway)
        x = features.mean((-2, -1))  # (B, D) of images, (B, D, T) of clips
        x = x.unsqueeze(1).expand(-1, self.num_frames, -1) if features.ndim == 4 else x.transpose(1, 2)
        return self.lstm(x)[0][:, -1]  # (B, T, D) -> (B, LSTM_UNITS)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return dict(stem=r"^stem", blocks=[(blocks, None), (r"^lstm", (99999,))])  # timm: joins the group before it

    def explained_layers(self) -> tuple[list[str], list[str]]:
        """The UniDual units, and the last unit of each residual block."""
        units = [name for name, module in self.named_modules() if isinstance(module, UniDualConv)]
        return units, list({name.rpartition(".")[0]: name for name in units if "." in name}.values())

    def _fold_stem(self) -> None:
        self.stem = FoldedBlock(_fold_unit(self.stem, self.pathways), residual=False)
        self.act = nn.Identity()

    def unfold(self) -> None:
        if self.unfolded or self.pathways != (VIDEO,):
            return
        self.unfolded = True
        blocks = [self.stem, *(block for stage in self.stages for block in stage.children())]
        for block in blocks:
            assert isinstance(block, FoldedBlock)
            if isinstance(block.shortcut, Shortcut):
                block.shortcut = block.shortcut.unfolded(VIDEO)
            block.unfold(VIDEO)
        if self.pool is not None:
            self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A pathway that the weights lack is inflated or deflated from the other (paper §3.1)."""
        have = {pathway_of(key) for key in weights} - {None}
        if have == set(self.pathways):
            return dict(weights)
        adopted: dict[str, Tensor] = {}
        for pathway in self.pathways:
            if pathway in have:
                adopted |= select_pathway(weights, pathway)
            else:
                adopted |= inflate(weights) if pathway == VIDEO else deflate(weights)
        return adopted

    def _drop_neck(self) -> None:
        self.lstm = None
        self._own_arguments["frame_pool"] = "mean"


# ---- checkpoints of other code bases --------------------------------------------------------------------------------

# (torchvision's VideoResNet, ours). A (2+1)D convolution is Sequential(spatial, norm, ReLU, temporal) there.
_ENDS = [
    ("stem.0", "stem.spatial"),
    ("stem.1", "stem.spatial_norm.video"),
    ("stem.3", "stem.pointwise.video"),
    ("stem.4", "stem.norm.video"),
    ("layer{s+1}.{b}.downsample.0", "stages.{s}.{b}.shortcut.conv"),
    ("layer{s+1}.{b}.downsample.1", "stages.{s}.{b}.shortcut.conv_norm.video"),
    ("fc", "heads.video.{task}"),
]
_BASIC = [
    *_ENDS,
    ("layer{s+1}.{b}.conv{i}.0.0", "stages.{s}.{b}.conv{i}.spatial"),
    ("layer{s+1}.{b}.conv{i}.0.1", "stages.{s}.{b}.conv{i}.spatial_norm.video"),
    ("layer{s+1}.{b}.conv{i}.0.3", "stages.{s}.{b}.conv{i}.pointwise.video"),
    ("layer{s+1}.{b}.conv{i}.1", "stages.{s}.{b}.conv{i}.norm.video"),
]
_BOTTLENECK = [
    *_ENDS,
    ("layer{s+1}.{b}.conv1.0", "stages.{s}.{b}.conv1"),
    ("layer{s+1}.{b}.conv1.1", "stages.{s}.{b}.conv1_norm.video"),
    ("layer{s+1}.{b}.conv2.0.0", "stages.{s}.{b}.conv2.spatial"),
    ("layer{s+1}.{b}.conv2.0.1", "stages.{s}.{b}.conv2.spatial_norm.video"),
    ("layer{s+1}.{b}.conv2.0.3", "stages.{s}.{b}.conv2.pointwise.video"),
    ("layer{s+1}.{b}.conv2.1", "stages.{s}.{b}.conv2.norm.video"),
    ("layer{s+1}.{b}.conv3.0", "stages.{s}.{b}.conv3"),
    ("layer{s+1}.{b}.conv3.1", "stages.{s}.{b}.conv3_norm.video"),
]
_TEMPORAL = ".pointwise.video."


def from_video_resnet(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights in torchvision's layout -> ours, its classifier as the head of `task`.

    Filters (O, I, 1, k, k) and (O, I, t, 1, 1) become (O, I, k, k) and (O, I, t, 1). Other weights stay as they are.
    """
    keys = KeyMap(_BOTTLENECK if "layer1.0.conv3.0.weight" in state_dict else _BASIC, task=task)
    ours = keys.forward(state_dict)
    return {key: value if key in state_dict else _without_axis(key, value) for key, value in ours.items()}


def to_video_resnet(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights (of the video pathway alone) -> torchvision's layout, the head of `task` as classifier.

    It undoes `from_video_resnet`: filters have five dimensions again. Other weights stay as they are.
    """
    keys = KeyMap(_BOTTLENECK if "stages.0.0.conv3.weight" in state_dict else _BASIC, task=task)
    theirs = keys.back({key: _with_axis(key, value) for key, value in state_dict.items()})
    return {key: state_dict.get(key, value) for key, value in theirs.items()}


def _without_axis(key: str, filters: Tensor) -> Tensor:
    """5-D filters without the axis on which they are one pixel or frame wide; if they are not, the fit will say so."""
    return filters.squeeze(-1 if _TEMPORAL in key else 2) if filters.ndim == 5 else filters


def _with_axis(key: str, filters: Tensor) -> Tensor:
    return filters.unsqueeze(-1 if _TEMPORAL in key else 2) if filters.ndim == 4 else filters


def _reduction(arguments: Arguments) -> int:
    """Pixels of the input per position of the last features."""
    return 32 if arguments.get("pool") else 16


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: UniDual, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint in any format we read -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys: our own, which is taken as it is, and torchvision's VideoResNet (R(2+1)D), whose
    classifier becomes the head of `task` (default: the model's first video task) and whose deflation becomes the image
    pathway where the model has one. `fresh_heads`: see `fit_to_model`.

    Raises:
        CheckpointError: the format is unknown, or what is in it does not fit.
    """
    if "stem.0.weight" in state_dict:
        video = from_video_resnet(state_dict, task or first_task(model.tasks, VIDEO) or "k400")
        if any(f"_norm.{SHARED}." in key for key in model.state_dict()):
            video = {key.replace(f"_norm.{VIDEO}.", f"_norm.{SHARED}."): value for key, value in video.items()}
        state_dict = {**deflate(video), **video} if IMAGE in model.pathways else video
    elif model.state_dict().keys().isdisjoint(state_dict):
        read = "this package's own, the R(2+1)D of torchvision, ig65m-pytorch and VMZ (PyTorch)"
        raise CheckpointError(f"the weights are in no format that is read here: {read}")
    if len(model.pathways) == 1:
        state_dict = select_pathway(state_dict, model.pathways[0])
    return fit_to_model(state_dict, model, adaptable=("stem.spatial.weight",), fresh_heads=fresh_heads)


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=UniDual,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv="stem.spatial",
    reduction=_reduction,
    about="one network for images and videos ([UniDual](https://arxiv.org/abs/1906.03857)) or one of that paper's "
    "baselines",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def r2d10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D, one block a stage and a quarter of the width: an image network."""
    return build(FAMILY, "r2d10", pretrained, **kwargs)


@register_model
def r2plus1d10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D, one block a stage and a quarter of the width: a video network."""
    return build(FAMILY, "r2plus1d10", pretrained, **kwargs)


@register_model
def r2d10_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-multitask in small: one image network for both tasks, clips frame by frame."""
    return build(FAMILY, "r2d10_multitask", pretrained, **kwargs)


@register_model
def r2d10_lstm_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-LSTM-multitask in small: an LSTM over a clip's frames."""
    return build(FAMILY, "r2d10_lstm_multitask", pretrained, **kwargs)


@register_model
def r2plus1d10_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D-multitask in small: one video network for both tasks, images inflated."""
    return build(FAMILY, "r2plus1d10_multitask", pretrained, **kwargs)


@register_model
def unidual10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual, one block a stage and a quarter of the width."""
    return build(FAMILY, "unidual10", pretrained, **kwargs)


@register_model
def unidual10_aux(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual-Aux, one block a stage and a quarter of the width."""
    return build(FAMILY, "unidual10_aux", pretrained, **kwargs)


@register_model
def r2d34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-34: R(2+1)D-34 with 1×1 in place of temporal convolutions, an image network."""
    return build(FAMILY, "r2d34", pretrained, **kwargs)


@register_model
def r2plus1d34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D-34 (Tran et al. 2018), a video network."""
    return build(FAMILY, "r2plus1d34", pretrained, **kwargs)


@register_model
def r2d34_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-34-multitask: one image network for both tasks, clips frame by frame."""
    return build(FAMILY, "r2d34_multitask", pretrained, **kwargs)


@register_model
def r2d34_lstm_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-34-LSTM-multitask: an LSTM over a clip's frames."""
    return build(FAMILY, "r2d34_lstm_multitask", pretrained, **kwargs)


@register_model
def r2plus1d34_multitask(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D-34-multitask: one video network for both tasks, images inflated."""
    return build(FAMILY, "r2plus1d34_multitask", pretrained, **kwargs)


@register_model
def unidual34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual-34 (paper §3.1)."""
    return build(FAMILY, "unidual34", pretrained, **kwargs)


@register_model
def unidual34_aux(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual-34 with a head of every task on both pathways, for the auxiliary losses (paper §2.2)."""
    return build(FAMILY, "unidual34_aux", pretrained, **kwargs)


@register_model
def r2d152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R2D-152: R(2+1)D-152 with 1×1 in place of temporal convolutions, an image network."""
    return build(FAMILY, "r2d152", pretrained, **kwargs)


@register_model
def r2plus1d152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """R(2+1)D-152 with the paper's pool behind the stem (§3.3), a video network."""
    return build(FAMILY, "r2plus1d152", pretrained, **kwargs)


@register_model
def unidual152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual-152 (paper §3.3)."""
    return build(FAMILY, "unidual152", pretrained, **kwargs)


@register_model
def unidual152_aux(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniDual-152 with a head of every task on both pathways, for the auxiliary losses (paper §2.2)."""
    return build(FAMILY, "unidual152_aux", pretrained, **kwargs)


@register_model
def r2plus1d18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """torchvision's R(2+1)D-18, a video network."""
    return build(FAMILY, "r2plus1d18", pretrained, **kwargs)
