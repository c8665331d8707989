"""Channel-separated networks, ir-CSN and ip-CSN (arXiv 1904.02811), and the dual networks made of them.

A residual block mixes channels in 1×1×1 convolutions and positions in a depthwise one. 99 % of the weights lie in the
former: a dual network shares these, and gives each pathway its own stem, depthwise convolutions and BatchNorms. That
is UniDual with the roles exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import register_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unidual_zoo.checks import check_known, shorten
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.folding import FoldedConvs
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.pathways import (
    Norms,
    PathwayNorm,
    PerPathway,
    fold_frames,
    for_depthwise,
    pathway_of,
    time_to_batch,
    time_to_rows,
    unfold_frames,
)
from unidual_zoo.models.residual import ResidualNet, StridedPixelConv, drop_paths
from unidual_zoo.models.rows.csn import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import CheckpointError, KeyMap, fit_to_model

STEM_CHANS = 64
EXPANSION = 4
DEPTH_KERNEL = 3  # frames that a filter of the video pathway sees
INTERACTION_REDUCED, INTERACTION_PRESERVED = "ir", "ip"
BLOCKS = (INTERACTION_REDUCED, INTERACTION_PRESERVED)


# ---- layers over folded frames --------------------------------------------------------------------------------------


class ClipConv(nn.Conv3d):
    """Convolution over clips of folded frames: (B*T, C, H, W) -> (B*T', C', H', W').

    Frames folded in channels_last memory are clips in channels_last_3d, so nothing is copied but for `for_depthwise`.
    """

    def forward(self, x: Tensor, batch: int) -> Tensor:
        clips = unfold_frames(x, batch)
        return fold_frames(super().forward(for_depthwise(clips) if self.groups > 1 else clips))


class ConvNorm(nn.Module):
    """A convolution, shared or each pathway's own, with each pathway's BatchNorm: (B*T, C, H, W) -> (B*T', C', H', W').

    Adding a shortcut and ReLU come last.
    """

    def __init__(self, conv: nn.Conv2d | PerPathway, norm: PathwayNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm: PathwayNorm | None = norm

    def forward(
        self, x: Tensor, pathway: str, batch: int, *, relu: bool = False, shortcut: Tensor | None = None
    ) -> Tensor:
        conv = self.conv[pathway] if isinstance(self.conv, PerPathway) else self.conv
        x = conv(x) if isinstance(conv, nn.Conv2d) else conv(x, batch)
        if self.norm is not None:
            x = self.norm(x, pathway)
        if shortcut is not None:
            x = x + shortcut
        return F.relu(x, inplace=True) if relu else x

    def folded(self, pathways: Sequence[str]) -> ConvNorm | FoldedConvs:
        """The layer that serves, the norm folded in."""
        assert self.norm is not None
        if isinstance(self.conv, nn.Conv2d):
            return FoldedConvs(dict.fromkeys(pathways, self.conv), self.norm)
        for pathway in pathways:
            conv, norm = self.conv[pathway], self.norm[pathway]
            assert isinstance(conv, nn.Conv2d | nn.Conv3d)
            assert isinstance(norm, nn.BatchNorm2d)
            self.conv[pathway] = fuse_conv_bn_eval(conv, norm)
        self.norm = None
        return self


class Stem(ConvNorm):
    """7×7 convolution of images, 3×7×7 of clips, of stride 2 over pixels; BatchNorm, ReLU."""

    def __init__(self, in_chans: int, out_chans: int, *, norms: Norms) -> None:
        convs = PerPathway()
        if IMAGE in norms.pathways:
            convs[IMAGE] = nn.Conv2d(in_chans, out_chans, 7, 2, 3, bias=False)
        if VIDEO in norms.pathways:
            kernel = (DEPTH_KERNEL, 7, 7)
            convs[VIDEO] = ClipConv(in_chans, out_chans, kernel, (1, 2, 2), (1, 3, 3), bias=False)
        super().__init__(convs, norms.behind_own(out_chans))

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        return super().forward(x, pathway, batch, relu=True)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        assert isinstance(self.conv, PerPathway)
        return next(iter(self.conv.values())).weight.dtype  # pyright: ignore[reportReturnType]


class Bottleneck(nn.Module):
    """1×1×1 -> (ip: 1×1×1 without ReLU ->) depthwise -> 1×1×1, and the shortcut: (B*T, C, H, W) -> (B*T', C', H', W').

    The depthwise convolution and the shortcut carry the stride, over pixels and of clips over frames, too.
    """

    def __init__(
        self, in_chans: int, planes: int, *, norms: Norms, block: str, stride: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.stride = stride

        def pointwise(inputs: int, outputs: int, stride: int = 1) -> ConvNorm:
            return ConvNorm(StridedPixelConv(inputs, outputs, stride=stride), norms.behind_own(outputs))

        self.conv1: nn.Module = pointwise(in_chans, planes)
        self.interact: nn.Module | None = pointwise(planes, planes) if block == INTERACTION_PRESERVED else None
        depthwise = PerPathway()
        if IMAGE in norms.pathways:
            depthwise[IMAGE] = nn.Conv2d(planes, planes, 3, stride, 1, groups=planes, bias=False)
        if VIDEO in norms.pathways:
            depthwise[VIDEO] = ClipConv(planes, planes, DEPTH_KERNEL, stride, 1, groups=planes, bias=False)
        self.conv2: nn.Module = ConvNorm(depthwise, norms.behind_own(planes))
        out_chans = planes * EXPANSION
        self.conv3: nn.Module = pointwise(planes, out_chans)
        changes = stride > 1 or in_chans != out_chans
        self.shortcut: nn.Module | None = pointwise(in_chans, out_chans, stride) if changes else None
        self.drop_path = DropPath(drop_path) if drop_path else None

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(self._every(x, pathway, batch), pathway, batch)
        x = self.conv1(x, pathway, batch, relu=True)
        if self.interact is not None:
            x = self.interact(x, pathway, batch)
        x = self.conv2(x, pathway, batch, relu=True)
        if self.drop_path is None or not self.training:
            return self.conv3(x, pathway, batch, relu=True, shortcut=shortcut)
        x = self.conv3(x, pathway, batch).unflatten(0, (batch, -1))  # a clip is dropped as a whole
        return F.relu(self.drop_path(x).flatten(0, 1) + shortcut, inplace=True)

    def _every(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        """The frames on which the depthwise convolution of clips is centred."""
        if pathway == IMAGE or self.stride == 1:
            return x
        # A slice would be copied, and torch.export cannot tell that it has as many frames as a convolution gives.
        frames = F.avg_pool2d(time_to_rows(x, batch), 1, (self.stride, 1))
        return time_to_batch(frames, x.shape[2])

    def fold(self, pathways: Sequence[str]) -> None:
        """Folds the norms into the convolutions."""
        for name, layer in list(self.named_children()):
            if isinstance(layer, ConvNorm):
                setattr(self, name, layer.folded(pathways))


# ---- the network ----------------------------------------------------------------------------------------------------


class CSN(ResidualNet):
    """Images (B, C, H, W) and clips (B, C, T, H, W) of any length -> logits (B, classes) of a task.

    Args:
        depths: blocks in each of the four stages.
        block: "ir" (interaction-reduced) or "ip" (interaction-preserved: one more 1×1×1 convolution a block).
        pathways: ("video",) is the paper's network, both are a dual one; ("image",) is its image pathway alone.
        tasks, auxiliary, heads, in_chans, drop_rate, drop_path_rate: as in `UniDual`.
        width: multiplies all channels.
        norm_eps: of the BatchNorms, 1e-3 everywhere but in PyTorchVideo's network.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 3),
        block: str = INTERACTION_REDUCED,
        pathways: Sequence[str] = MODALITIES,
        tasks: Arguments,
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        width: float = 1.0,
        norm_eps: float = 1e-3,
        spec: InputSpec | Arguments | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("block", block, BLOCKS)
        chans = round(STEM_CHANS * width)
        if chans < 1:
            raise ValueError(f"width {width} leaves no channels, it must be more than {0.5 / STEM_CHANS:.3f}")
        own = dict(
            depths=list(depths), block=block, width=width, norm_eps=norm_eps, drop_path_rate=drop_path_rate
        )  # fmt: skip
        super().__init__(pathways=pathways, spec=spec, num_frames=num_frames, in_chans=in_chans, arguments=own)
        norms = Norms(pathways=self.pathways, shared=False, eps=norm_eps)
        self.stem = Stem(in_chans, chans, norms=norms)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        self.feature_info = [dict(num_chs=chans, reduction=2, module="stem")]
        planes, reduction = chans, 4
        rates = drop_paths(drop_path_rate, depths)
        for number, depth in enumerate(depths):
            blocks = nn.ModuleList()
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(Bottleneck(chans, planes, norms=norms, block=block, stride=stride, drop_path=next(rates)))
                chans = planes * EXPANSION
            self.stages.append(blocks)
            self.feature_info.append(dict(num_chs=chans, reduction=reduction, module=f"stages.{number}.{depth - 1}"))
            planes, reduction = 2 * planes, 2 * reduction
        self.add_heads(
            num_features=chans, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip
        self.init_weights()

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The stem (0) and the stages up to number `last`: the output of the last, and of those to take."""
        batch, as_clip = x.shape[0], x.ndim == 5
        x = self.run_block(self.stem, fold_frames(x), pathway, batch)
        taken = {0: x}
        if last > 0:
            x = self.pool(x)
        for number, blocks in enumerate(self.stages[:last], start=1):
            for block in blocks.children():
                x = self.run_block(block, x, pathway, batch)
            if number in take:
                taken[number] = x
        outputs = [x, *(taken[number] for number in take)]
        if as_clip:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return outputs[0], outputs[1:]

    def fold(self) -> None:
        if self.stem.norm is None:
            return
        self.stem.folded(self.pathways)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.fold(self.pathways)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A pathway that the weights lack starts as the other: filters are summed over time, or spread out over it."""
        have = {pathway_of(key) for key in weights} - {None}
        adopted = {key: value for key, value in weights.items() if pathway_of(key) in (None, *self.pathways)}
        for lacking, other in ((IMAGE, VIDEO), (VIDEO, IMAGE)):
            if lacking in self.pathways and lacking not in have:
                moved = {key: value for key, value in weights.items() if pathway_of(key) == other}
                adopted |= {
                    key.replace(f".{other}.", f".{lacking}.", 1): _to_pathway(value, lacking)
                    for key, value in moved.items()
                }
        return adopted

    def set_norm_eps(self, eps: float) -> None:
        """The eps of all BatchNorms from now on."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps
        self._own_arguments["norm_eps"] = eps


def _to_pathway(value: Tensor, pathway: str) -> Tensor:
    """A weight of the other pathway as this one's: filters lose or gain the axis of time, all else stays what it is."""
    if pathway == IMAGE:
        return value.sum(2) if value.ndim == 5 else value
    return value.unsqueeze(2).repeat(1, 1, DEPTH_KERNEL, 1, 1) / DEPTH_KERNEL if value.ndim == 4 else value


# ---- checkpoints of other code bases --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """How another code base names a CSN's layers: of each its convolution and its BatchNorm.

    `block` goes before the names in a block. A format is told by `mark`, a weight that no other has.
    """

    mark: str
    stem: tuple[str, str]
    block: str
    layers: Mapping[str, tuple[str, str]]  # by our names
    classifier: str
    eps: float = 1e-3  # of the BatchNorms in its authors' network

    def key_map(self, task: str) -> KeyMap:
        """Their names and ours, of a network with the video pathway alone."""
        rows = [(self.stem[0], "stem.conv.video"), (self.stem[1], "stem.norm.video"), (self.classifier, _HEAD)]
        for ours, (conv, norm) in self.layers.items():
            own = ".video" if ours == "conv2" else ""
            rows.append((f"{self.block}.{conv}", f"stages.{{s}}.{{b}}.{ours}.conv{own}"))
            rows.append((f"{self.block}.{norm}", f"stages.{{s}}.{{b}}.{ours}.norm.video"))
        return KeyMap(rows, task=task)


_HEAD, _NORM_WEIGHTS = "heads.video.{task}", (".norm.video.weight", ".norm.video.bias")
_MM = {
    "conv1": ("conv1.conv", "conv1.bn"),
    "conv3": ("conv3.conv", "conv3.bn"),
    "shortcut": ("downsample.conv", "downsample.bn"),
}
_VMZ = {"conv1": ("conv1.0", "conv1.1"), "conv3": ("conv3.0", "conv3.1"), "shortcut": ("downsample.0", "downsample.1")}
_BACKBONE = "backbone."  # mmaction2's; its files without a classifier go without
_MM_ENDS: dict[str, Any] = dict(
    stem=("backbone.conv1.conv", "backbone.conv1.bn"), block="backbone.layer{s+1}.{b}", classifier="cls_head.fc_cls"
)
_VMZ_ENDS: dict[str, Any] = dict(stem=("stem.0", "stem.1"), block="layer{s+1}.{b}", classifier="fc")
FORMATS: Mapping[str, Format] = {  # the first whose mark is there; "conv2.0" is depthwise in ir, pointwise in ip blocks
    "mmaction2 (ip-CSN)": Format(
        **_MM_ENDS, mark="backbone.layer1.0.conv2.1.conv.weight",
        layers=_MM | {"interact": ("conv2.0.conv", "conv2.0.bn"), "conv2": ("conv2.1.conv", "conv2.1.bn")},
    ),
    "mmaction2 (ir-CSN)": Format(
        **_MM_ENDS, mark="backbone.layer1.0.conv2.0.conv.weight", layers=_MM | {"conv2": ("conv2.0.conv", "conv2.0.bn")}
    ),
    "VMZ (ip-CSN)": Format(
        **_VMZ_ENDS, mark="layer1.0.conv2.0.2.weight",
        layers=_VMZ | {"interact": ("conv2.0.0", "conv2.0.1"), "conv2": ("conv2.0.2", "conv2.1")},
    ),
    "VMZ (ir-CSN)": Format(
        **_VMZ_ENDS, mark="layer1.0.conv2.0.weight", layers=_VMZ | {"conv2": ("conv2.0", "conv2.1")}
    ),
    "GluonCV": Format(
        mark="layer1.0.conv4.weight", stem=("conv1", "bn1"), block="layer{s+1}.{b}", classifier="out_fc",
        layers={
            "conv1": ("conv1", "bn1"), "conv2": ("conv3", "bn3"), "conv3": ("conv4", "bn4"),
            "shortcut": ("down_sample.0", "down_sample.1"),
        },
    ),
    "PyTorchVideo": Format(
        mark="blocks.1.res_blocks.0.branch2.conv_a.weight", stem=("blocks.0.conv", "blocks.0.norm"),
        block="blocks.{s+1}.res_blocks.{b}", classifier="blocks.5.proj", eps=1e-5,
        layers={
            "conv1": ("branch2.conv_a", "branch2.norm_a"), "conv2": ("branch2.conv_b", "branch2.norm_b"),
            "conv3": ("branch2.conv_c", "branch2.norm_c"), "shortcut": ("branch1_conv", "branch1_norm"),
        },
    ),
}  # fmt: skip


def from_upstream(weights: Mapping[str, Tensor], format: Format, *, task: str) -> dict[str, Tensor]:
    """Another code base's weights -> those of our video pathway, the classifier as the head of `task`.

    GluonCV's norms of scale and bias alone (its `Affine`) get statistics that change nothing.
    """
    ours = format.key_map(task).forward(weights)
    ours = {key: value.squeeze(2) if _is_pointwise(key) and value.ndim == 5 else value for key, value in ours.items()}
    for key in [key for key, value in ours.items() if key.endswith(_NORM_WEIGHTS) and value.ndim == 4]:
        norm, flat = key.rpartition(".")[0], ours[key].flatten()
        still = {
            f"{norm}.running_mean": torch.zeros_like(flat),
            f"{norm}.running_var": torch.full_like(flat, 1 - format.eps),
        }
        ours |= {key: flat, **still}
    return ours


def to_upstream(weights: Mapping[str, Tensor], format: Format, *, task: str) -> dict[str, Tensor]:
    """Weights of a network with the video pathway alone -> as another code base has them: undoes `from_upstream`."""
    deep = {key: value.unsqueeze(2) if _is_pointwise(key) else value for key, value in weights.items()}
    return format.key_map(task).back(deep)


def _is_pointwise(key: str) -> bool:
    return key.endswith(".conv.weight")


def _find_format(weights: Mapping[str, Tensor]) -> Format:
    found = next((format for format in FORMATS.values() if format.mark in weights), None)
    if found is None:
        raise CheckpointError(
            f"the weights are no CSN's in a format that is read, {', '.join(FORMATS)} or this package's: "
            f"they begin with {shorten(list(weights))}"
        )
    return found


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: CSN, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint in any format we read -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys: our own, and those of `FORMATS`, with which the model's BatchNorms get their
    authors' eps. Their classifier becomes the head of `task` (default: the model's first video task), and if they
    have none the heads are fresh. A pathway that the weights lack is made from the other. `fresh_heads`: see
    `fit_to_model`.
    """
    if state_dict.keys().isdisjoint(model.state_dict()):
        if "layer1.0.conv2.0.conv.weight" in state_dict:
            state_dict = {f"{_BACKBONE}{key}": value for key, value in state_dict.items()}
        format = _find_format(state_dict)
        fresh_heads = fresh_heads or f"{format.classifier}.weight" not in state_dict
        state_dict = from_upstream(state_dict, format, task=task or first_task(model.tasks, VIDEO) or "k400")
        model.set_norm_eps(format.eps)
    stems = [f"stem.conv.{pathway}.weight" for pathway in model.pathways]
    return fit_to_model(model.adopt(state_dict), model, adaptable=stems, fresh_heads=fresh_heads)


def _first_conv(arguments: Arguments) -> str:
    return f"stem.conv.{IMAGE if IMAGE in arguments['pathways'] else VIDEO}"


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=CSN,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv=_first_conv,
    reduction=32,
    about="a channel-separated network ([CSN](https://arxiv.org/abs/1904.02811)), alone or as a dual network in the "
    "spirit of [UniDual](https://arxiv.org/abs/1906.03857)",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def ircsn50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-50, interaction-reduced: a video network."""
    return build(FAMILY, "ircsn50", pretrained, **kwargs)


@register_model
def ircsn50_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-50 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ircsn50_dual", pretrained, **kwargs)


@register_model
def ircsn101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-101, interaction-reduced: a video network."""
    return build(FAMILY, "ircsn101", pretrained, **kwargs)


@register_model
def ircsn101_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-101 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ircsn101_dual", pretrained, **kwargs)


@register_model
def ircsn152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-152, interaction-reduced: a video network."""
    return build(FAMILY, "ircsn152", pretrained, **kwargs)


@register_model
def ircsn152_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ir-CSN-152 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ircsn152_dual", pretrained, **kwargs)


@register_model
def ipcsn50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-50, interaction-preserved: a video network."""
    return build(FAMILY, "ipcsn50", pretrained, **kwargs)


@register_model
def ipcsn50_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-50 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ipcsn50_dual", pretrained, **kwargs)


@register_model
def ipcsn101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-101, interaction-preserved: a video network."""
    return build(FAMILY, "ipcsn101", pretrained, **kwargs)


@register_model
def ipcsn101_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-101 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ipcsn101_dual", pretrained, **kwargs)


@register_model
def ipcsn152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-152, interaction-preserved: a video network."""
    return build(FAMILY, "ipcsn152", pretrained, **kwargs)


@register_model
def ipcsn152_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ip-CSN-152 as a dual network: 1×1×1 convolutions shared, the rest each pathway's own."""
    return build(FAMILY, "ipcsn152_dual", pretrained, **kwargs)
