"""UniDual on a trunk of timm: an image network as it is, and a video pathway that adds operators over the frames.

Both pathways share the trunk. The image pathway is timm's network, to the bit; the video pathway starts as the mean of
its frames' outputs, and operators that start at zero learn what lies between the frames.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, register_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unidual_zoo.checks import check_known
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.pathways import SHARED, PerPathway, fold_frames, pathway_of, unfold_frames
from unidual_zoo.models.rows.dual_trunk import ARCHITECTURES, CHECKPOINTS, CLIP, NAMES
from unidual_zoo.models.temporal import ADAPTER_REDUCTION, Adapter, centred, temporal_projection
from unidual_zoo.models.trunks import Frames, Network, OwnNorms, TrunkKind, create_trunk, fold_norms
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import HEADS, fit_to_model

ADAPTER, POINTWISE, NONE = "adapter", "pointwise", "none"
OPERATORS = (ADAPTER, POINTWISE, NONE)
BEHIND, PROJECTION = "block", "projection"  # where a block has an operator
AFTER_NORM, BEFORE_NORM = "after_norm", "before_norm"
TRUNK, UNITS, OWN_NORMS = "trunk.", "units.", f"norms.{VIDEO}."


class Unit(PerPathway):
    """A block of the trunk with what each pathway has of its own at it, `unit[pathway][place]`.

    What it gives is the block's output on either pathway: one name for both, where layers are explained.
    """

    def __init__(self, kind: TrunkKind, own: Mapping[str, Mapping[str, nn.Module]]) -> None:
        super().__init__({pathway: nn.ModuleDict(dict(places)) for pathway, places in own.items()})
        self.kind = kind

    def _own(self, pathway: str) -> Any:
        return self[pathway] if pathway in self else {}  # noqa: SIM401  # a ModuleDict has no `get`

    def forward(self, block: nn.Module, x: Tensor, pathway: str, frames: Frames) -> Tensor:
        """The input of the trunk's block -> its output, the pathway's operators applied."""
        own = self._own(pathway)
        if PROJECTION in own:
            return self.kind.with_projection(block, x, lambda maps: own[PROJECTION](maps, frames.batch))
        x = self.kind.run(block, x, frames)
        return _operate_on_maps(own[BEHIND], x, frames) if BEHIND in own else x

    def fold(self, block: Any, pathway: str) -> None:
        """Folds the BatchNorm behind the pathway's own projection into it, while the block still has that."""
        own = self._own(pathway)
        _, name = self.kind.projection(block) or (None, None)
        norm = getattr(block, name) if name else None
        if PROJECTION in own and isinstance(norm, nn.BatchNorm2d):
            own[PROJECTION] = fuse_conv_bn_eval(own[PROJECTION], norm)


def _operate_on_maps(operator: nn.Module, x: Tensor, frames: Frames) -> Tensor:
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, C, H, W) -> (N, H*W, C)
    return operator(tokens, frames.batch).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class DualTrunk(TaskModel):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Args:
        trunk: a network of timm by its name, of one of the classes in `trunks.KINDS`; a tag in the name is left aside.
        trunk_args: constructor arguments of the trunk, plain data.
        img_size: pixels of the input's side in place of the trunk's own; the spec follows. Other inputs are taken, too.
        pathways: ("image",) is the trunk alone; ("video",) has one set of norms, its own.
        tasks, auxiliary, heads: as of UniDual.
        operator: what the video pathway has at each block. "adapter": C -> C/reduction, depthwise over time, -> C,
            added to the block's output. "pointwise", the UniDual unit: the block's last 1×1 projection is a t×1×1
            convolution that starts at [0, W, 0]. "none": nothing.
        reduction: of an adapter's channels, by default 2.
        pixelwise: images get a 1×1 adapter, too, which starts at zero.
        norms: "split" gives the video pathway norms of its own, which start as copies: frames have other statistics
            than pictures, and BatchNorms that see both by turns fit neither. "shared" has one set for both.
        frame_mean: where a clip's frames are averaged: "after_norm", so that it starts with the mean of its frames'
            logits, or "before_norm" (ST-Adapter, UniFormerV2) where the trunk has a norm behind its blocks.
        freeze_trunk: see the method of that name.
        stages, neck: what pruning has left of the trunk: outputs of `feature_info`, and the layers behind the last one.
        spec, num_frames, in_chans, drop_rate, global_pool: as of UniDual.
        drop_path_rate: of the trunk's blocks, which drop each frame for itself.
    """

    def __init__(
        self,
        *,
        trunk: str,
        trunk_args: Mapping[str, Any] | None = None,
        img_size: int | None = None,
        pathways: Sequence[str] = MODALITIES,
        tasks: Mapping[str, Any],
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        operator: str = ADAPTER,
        reduction: float | None = None,
        pixelwise: bool = False,
        norms: str = "split",
        frame_mean: str = AFTER_NORM,
        freeze_trunk: bool = False,
        stages: int | None = None,
        neck: bool = True,
        spec: InputSpec | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("operator", operator, OPERATORS)
        check_known("norms", norms, ("split", SHARED))
        check_known("frame_mean", frame_mean, (AFTER_NORM, BEFORE_NORM))
        network, kind = create_trunk(
            trunk, img_size=img_size, in_chans=in_chans, drop_path_rate=drop_path_rate, arguments=trunk_args or {}
        )
        super().__init__(
            pathways=pathways,
            spec=spec if img_size is None else _resized(spec, img_size, native=network.default_cfg["input_size"][-1]),
            num_frames=num_frames,
            in_chans=in_chans,
            arguments=dict(
                trunk=trunk, trunk_args=dict(trunk_args or {}), img_size=img_size, operator=operator,
                reduction=reduction, pixelwise=pixelwise, norms=norms, frame_mean=frame_mean,
                drop_path_rate=drop_path_rate, stages=stages, neck=neck,
            ),
        )  # fmt: skip
        self.trunk: Network = network
        self.kind, self.operator, self.frame_mean = kind, operator, frame_mean
        self.fully_convolutional = not kind.tokens
        self._check_options(pixelwise=pixelwise)
        if stages is not None:
            kind.cut(network, stages - 1, neck=neck)
        self.feature_info = [{**info, "module": f"{TRUNK}{info['module']}"} for info in network.feature_info[:stages]]
        own = {name: self._operators(name, reduction or ADAPTER_REDUCTION, pixelwise) for name in self.block_names}
        self.units = _tree({name: Unit(kind, operators) for name, operators in own.items()})
        self.norms = PerPathway({VIDEO: OwnNorms(network)} if norms == "split" and len(self.pathways) > 1 else {})
        self._drop_unused()
        self.add_heads(
            num_features=network.num_features,
            head_hidden_size=network.head_hidden_size,
            tasks=tasks,
            auxiliary=auxiliary,
            heads=heads,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        self.freeze_trunk(freeze_trunk)

    def _check_options(self, *, pixelwise: bool) -> None:
        described = f"timm's {self._own_arguments['trunk']} ({type(self.trunk).__name__}) has none"
        if self.operator == POINTWISE and pixelwise:
            raise ValueError(
                "pixelwise=True needs adapters; with operator='pointwise' images have the projection itself"
            )
        if self.operator == POINTWISE and not any(map(self._projection, self.block_names)):
            raise ValueError(f"operator='pointwise' needs blocks that end in a 1×1 projection, {described}")
        if self.frame_mean == BEFORE_NORM and not self.kind.normed_behind:
            raise ValueError(f"frame_mean='before_norm' needs a norm behind the blocks, {described}")

    def _operators(self, name: str, reduction: float, pixelwise: bool) -> dict[str, dict[str, nn.Module]]:
        """What each pathway has of its own at a block, by place."""
        block, own = self.trunk.get_submodule(name), {}
        channels, projection = self.kind.channels(block), self._projection(name)
        if VIDEO in self.pathways and self.operator == ADAPTER:
            own[VIDEO] = {BEHIND: Adapter(channels, reduction=reduction)}
        elif VIDEO in self.pathways and self.operator == POINTWISE and projection:
            own[VIDEO] = {PROJECTION: temporal_projection(block.get_submodule(projection))}
        if IMAGE in self.pathways and pixelwise:
            own[IMAGE] = {BEHIND: Adapter(channels, reduction=reduction, kernel=1)}
        return own

    # ---- the trunk's parts ------------------------------------------------------------------------------------------

    @property
    def block_names(self) -> list[str]:
        """Names of the trunk's residual blocks in their order."""
        return self.kind.block_names(self.trunk)

    def _network(self, pathway: str) -> Network:
        """The trunk with the norms of a pathway."""
        return self.norms[pathway].trunk if pathway in self.norms else self.trunk

    def _projection(self, name: str) -> str | None:
        """The name in a block of its last 1×1 projection, if it has one."""
        found = self.kind.projection(self.trunk.get_submodule(name))
        return found and found[0]

    def _unused(self) -> list[str]:
        """The trunk's projections that only an image pathway would use, where there is none."""
        if self.operator != POINTWISE or IMAGE in self.pathways:
            return []
        return [f"{name}.{found}" for name in self.block_names if (found := self._projection(name))]

    def _drop_unused(self) -> None:
        for name in self._unused():
            self.trunk.set_submodule(name, nn.Identity())

    def _ends(self) -> list[int]:
        """The number of the block that gives each output of `feature_info`; -1 is the stem."""
        modules = [f"{info['module'].removeprefix(TRUNK)}." for info in self.feature_info]
        names = [f"{name}." for name in self.block_names]
        return [max((n for n, name in enumerate(names) if name.startswith(of)), default=-1) for of in modules]

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.trunk.get_submodule(self.trunk.default_cfg["first_conv"]).weight.dtype

    def _features(self, x: Tensor, pathway: str) -> Tensor:
        return self._intermediates(x, pathway, take=(), last=len(self.feature_info) - 1)[0]

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        network, ends = self._network(pathway), self._ends()
        batch, as_clip = x.shape[0], x.ndim == 5
        x, frames = self.kind.stem(network, fold_frames(x) if as_clip else x, batch)
        taken = {-1: x}
        for number, name in enumerate(self.block_names[: ends[last] + 1]):
            x = self.kind.approach(network, name, x)
            unit, block = self.units.get_submodule(name), network.get_submodule(name)
            x = taken[number] = self.run_block(unit, block, x, pathway, frames)
        if last == len(self.feature_info) - 1:
            x = self.kind.tail(network, x)
        outputs = [x, *(taken[ends[number]] for number in take)]
        if as_clip:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return outputs[0], outputs[1:]

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        network = self._network(pathway)
        if self.features_modality(features) == IMAGE:
            return network.forward_head(features, pre_logits=True)
        frames, batch = fold_frames(features), features.shape[0]
        pooled = network.forward_head(frames, pre_logits=True)
        return pooled.unflatten(0, (batch, -1)).mean(1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The trunk's groups; what a pathway has of its own at a layer is in that layer's group."""

        def ours(pattern: str) -> str:
            return rf"^(?:trunk|units|norms\.{VIDEO}\.trunk)\.(?:{pattern.replace('^', '')})"

        def translated(patterns: Any) -> Any:
            return ours(patterns) if isinstance(patterns, str) else [(ours(one), suffix) for one, suffix in patterns]

        return {group: translated(patterns) for group, patterns in self.trunk.group_matcher(coarse=coarse).items()}

    def no_weight_decay(self) -> set[str]:
        """Those of the trunk."""
        excepted: Any = getattr(self.trunk, "no_weight_decay", set)
        return {f"{TRUNK}{name}" for name in excepted()}

    def explained_layers(self) -> tuple[list[str], list[str]]:
        """The blocks."""
        names = [f"{UNITS}{name}" for name in self.block_names]
        return names, names

    def fold(self) -> None:
        for pathway in self.pathways:
            for name in self.block_names:
                unit: Any = self.units.get_submodule(name)
                unit.fold(self._network(pathway).get_submodule(name), pathway)
        for own in self._own_norms():
            own.shares = False  # each pathway's folded weights are its own
            fold_norms(own.trunk)
        fold_norms(self.trunk)

    # ---- a trunk that is frozen, pruned, or one pathway's -----------------------------------------------------------

    def freeze_trunk(self, frozen: bool = True) -> None:
        """Stops, or starts again, the training of the trunk: of all that images use but heads and 1×1 adapters.

        A frozen trunk stays in evaluation mode while the network trains, so that whatever is learnt from videos leaves
        the logits of images as they are, to the bit. Operators learn, and the video pathway's norms if they are split.
        """
        self.trunk.requires_grad_(not frozen)
        self._own_arguments["freeze_trunk"] = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> DualTrunk:
        """nn.Module's, but a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self._own_arguments["freeze_trunk"]:
            self.trunk.eval()
        return self

    def keep_pathway(self, pathway: str) -> None:
        super().keep_pathway(pathway)
        self.trunk = self._network(pathway)
        self.norms = PerPathway()
        self._drop_unused()

    def _prune(self, last: int) -> None:
        self._cut(last, neck=True)

    def _drop_neck(self) -> None:
        self._cut(self._own_arguments["stages"] - 1, neck=False)

    def _cut(self, last: int, *, neck: bool) -> None:
        for network in (self.trunk, *(own.trunk for own in self._own_norms())):
            self.kind.cut(network, last, neck=neck)
        self._own_arguments |= dict(stages=last + 1, neck=neck)
        self.units = _tree({name: self.units.get_submodule(name) for name in self.block_names})

    def _own_norms(self) -> list[OwnNorms]:
        return [own for own in self.norms.values() if isinstance(own, OwnNorms)]

    def _apply(self, fn: Any, recurse: bool = True) -> DualTrunk:
        super()._apply(fn, recurse)  # where weights cannot change in place, it makes others
        self._share_trunk()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        loaded = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self._share_trunk()
        return loaded

    def _share_trunk(self) -> None:
        for own in self._own_norms():
            own.share(self.trunk)

    # ---- weights of others ------------------------------------------------------------------------------------------

    def from_timm(self, weights: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        """The trunk's weights in timm's format -> this network's; the classifier is the head of `task` everywhere."""
        classifier, ours = f"{self.trunk.default_cfg['classifier']}.", {}
        for key, value in self.kind.from_timm(weights, self.trunk).items():
            if key.startswith(classifier):
                ours |= {f"{HEADS}{pathway}.{task}.{key.removeprefix(classifier)}": value for pathway in self.pathways}
            else:
                ours[f"{TRUNK}{key}"] = value
        return self._with_start(ours)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network on this trunk, with other pathways perhaps -> weights named as this one's.

        The video pathway of weights that have none starts as from timm's; without an image pathway the trunk has the
        video pathway's norms.
        """
        norms = {key.removeprefix(OWN_NORMS): value for key, value in weights.items() if key.startswith(OWN_NORMS)}
        if norms and IMAGE not in self.pathways:
            weights = {key: value for key, value in weights.items() if not key.startswith(OWN_NORMS)} | norms
        adopted = self._with_start(weights)
        return {key: value for key, value in adopted.items() if pathway_of(key) in (None, *self.pathways)}

    def _with_start(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights and, if they have no norms or no operators of a pathway of ours, what these start as."""
        complete = dict(weights)
        own = {key: value for key, value in self.state_dict().items() if pathway_of(key) and not key.startswith(HEADS)}
        norms = {key for key in own if key.startswith(OWN_NORMS)}
        if norms.isdisjoint(weights):
            complete |= {key: weights[of] for key in norms if (of := key.removeprefix(OWN_NORMS)) in weights}
        operators = own.keys() - norms
        if operators.isdisjoint(weights):
            complete |= {key: self._start_of(key, own[key], weights) for key in operators}
        unused = tuple(f"{TRUNK}{name}." for name in self._unused())
        return {key: value for key, value in complete.items() if not key.startswith(unused)}

    def _start_of(self, key: str, fresh: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """An operator's weight at the start: as it is, or of a projection that of the trunk's, at its own time step."""
        name, _, rest = key.removeprefix(UNITS).partition(f".{VIDEO}.{PROJECTION}.")
        weight = weights.get(f"{TRUNK}{name}.{self._projection(name)}.{rest}") if rest else None
        if weight is None:
            return fresh
        return centred(weight) if rest == "weight" else weight


def _tree(modules: Mapping[str, nn.Module]) -> nn.Module:
    """Modules by dotted names as a tree, in which `get_submodule` finds each by its name."""
    root = nn.Module()
    for name, module in modules.items():
        *above, last = name.split(".")
        parent = root
        for part in above:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, module)
    return root


# ---- inputs and checkpoints of timm ---------------------------------------------------------------------------------


def timm_spec(cfg: PretrainedCfg) -> InputSpec:
    """The preprocessing that timm's configuration describes, as timm's evaluation transform has it."""
    height, width = cfg.input_size[-2:]
    resize = (height, width) if cfg.crop_mode == "squash" else math.floor(min(height, width) / cfg.crop_pct)
    return InputSpec(
        resize=resize, crop=(height, width), mean=cfg.mean, std=cfg.std, interpolation=cfg.interpolation, clip=CLIP,
        classes=NAMES,
    )  # fmt: skip


def _resized(spec: InputSpec | Mapping[str, Any] | None, side: int, *, native: int) -> InputSpec:
    """The spec for inputs of another side than the trunk's own, unless it is of another already."""
    spec = spec if isinstance(spec, InputSpec) else InputSpec.from_dict(spec or {})
    if spec.crop != (native, native):
        return spec
    resize = math.floor(spec.resize * side / native) if isinstance(spec.resize, int) else (side, side)
    return dataclasses.replace(spec, resize=resize, crop=(side, side))


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: DualTrunk, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint of timm's or ours -> exactly the model's weights, or an error that says what does not fit.

    Formats are told by their keys. timm's classifier becomes the head of `task` (default: the model's first image task)
    on every pathway that has one; heads of other tasks are fresh then. `fresh_heads`: see `fit_to_model`.
    """
    if any(key.startswith(TRUNK) for key in state_dict):
        state_dict = model.adopt(state_dict)
    else:
        task = task or first_task(model.tasks, IMAGE) or "in1k"
        state_dict = model.from_timm(state_dict, task)
        fresh_heads = fresh_heads or any(set(model.pathway_tasks(pathway)) - {task} for pathway in model.pathways)
    stem = f"{TRUNK}{model.trunk.default_cfg['first_conv']}.weight"
    return fit_to_model(state_dict, model, adaptable=(stem,), fresh_heads=fresh_heads)


def _timm_cfg(arguments: Arguments) -> PretrainedCfg:
    """timm's configuration of the trunk."""
    cfg = timm.get_pretrained_cfg(arguments["trunk"])
    assert cfg is not None
    return cfg


def _first_conv(arguments: Arguments) -> str:
    return f"{TRUNK}{_timm_cfg(arguments).first_conv}"


def _reduction(arguments: Arguments) -> int:
    """Pixels of the input per position of the last features."""
    cfg, asked = _timm_cfg(arguments), (arguments.get("trunk_args") or {}).get("output_stride")
    assert cfg.pool_size
    return asked or cfg.input_size[-1] // cfg.pool_size[-1]


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=DualTrunk,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv=_first_conv,
    reduction=_reduction,
    about="an image network of [timm](https://github.com/huggingface/pytorch-image-models) with a video pathway in the "
    "spirit of [UniDual](https://arxiv.org/abs/1906.03857)",
    classifier_of=IMAGE,
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def unidual_efficientnet_lite0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-Lite0 (Google), whose weights are packaged: small enough for any machine."""
    return build(FAMILY, "unidual_efficientnet_lite0", pretrained, **kwargs)


@register_model
def unidual_trunk(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Any network of timm that can be a trunk, `trunk="resnet18.a1_in1k"`, by default EfficientNet-Lite0.

    The spec is that of timm's tag, and with `pretrained` the weights are those of timm's repository on the Hub.
    """
    return build(FAMILY, "unidual_trunk", pretrained, **_trunk_arguments(pretrained, kwargs))


def _trunk_arguments(pretrained: bool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `unidual_trunk`, completed by what timm knows of the trunk."""
    trunk = arguments.get("trunk", ARCHITECTURES["unidual_trunk"]["trunk"])
    cfg = timm.get_pretrained_cfg(trunk) if timm.is_model(trunk) else None
    if cfg is None:
        return dict(arguments)
    completed = {"spec": timm_spec(cfg), **arguments}
    saved = isinstance(arguments.get("pretrained_cfg"), Mapping | PretrainedCfg)
    if pretrained and not saved and cfg.hf_hub_id:
        published = {"hf_hub_id": cfg.hf_hub_id, "license": cfg.license}
        completed["pretrained_cfg_overlay"] = published | (arguments.get("pretrained_cfg_overlay") or {})
    return completed
