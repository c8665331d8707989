"""UniDual on a trunk of timm: an image network as it is, and a video pathway that adds operators over the frames.

Both pathways share the trunk. The image pathway is timm's network, to the bit; the video pathway starts as the mean of
its frames' outputs, and operators that start at zero learn what lies between the frames.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, register_model
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unidual_zoo.checks import check_known, shorten
from unidual_zoo.models.attention import fold_quick_gelu
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.clip_formats import from_clip_names, has_clip_names, is_frozen
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.pathways import SHARED, PerPathway, fold_frames, pathway_of, unfold_frames
from unidual_zoo.models.practice import POINTWISE_UNITS
from unidual_zoo.models.rows.dual_trunk import ARCHITECTURES, CHECKPOINTS, CLIP, NAMES
from unidual_zoo.models.temporal import (
    ADAPTER_REDUCTION,
    MHRA_REDUCTION,
    Adapter,
    GlobalBlocks,
    TemporalEmbedding,
    centred,
    centred_in_time,
    cosine_terms,
    temporal_projection,
)
from unidual_zoo.models.trunks import Frames, Network, OwnNorms, TrunkKind, create_trunk, fold_norms, patch_grid
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import HEADS, CheckpointError, cached_from_hub, fetch_from_hub, fit_to_model, read_weights

ADAPTER, LOCAL_MHRA, POINTWISE, NONE = "adapter", "local_mhra", "pointwise", "none"
OPERATORS = (ADAPTER, LOCAL_MHRA, POINTWISE, NONE)
REDUCTIONS = {ADAPTER: ADAPTER_REDUCTION, LOCAL_MHRA: MHRA_REDUCTION}
ATTENTION, MLP = "attention", "mlp"  # where a transformer's block has an operator before it,
BLOCK, PROJECTION = "block", "projection"  # and where a convolutional network's has one, behind it or in its place
AFTER_NORM, BEFORE_NORM = "after_norm", "before_norm"
TRUNK, UNITS, OWN_NORMS, EMBEDDING = "trunk.", "units.", f"norms.{VIDEO}.", f"embeddings.{VIDEO}."
VIDEO_HEADS = f"{HEADS}{VIDEO}."


class Unit(PerPathway):
    """A block of the trunk with what each pathway has of its own at it, `unit[pathway][place]`.

    What it gives is the block's output on either pathway: one name for both, where layers are explained.
    """

    def __init__(self, kind: TrunkKind, own: Mapping[str, Mapping[str, nn.Module]]) -> None:
        super().__init__({pathway: nn.ModuleDict(dict(places)) for pathway, places in own.items()})
        self.kind = kind

    def _own(self, pathway: str) -> Any:
        if pathway not in self:
            return {}
        return self[pathway]

    def forward(self, block: nn.Module, x: Tensor, pathway: str, frames: Frames) -> Tensor:
        """The input of the trunk's block -> its output, the pathway's operators applied."""
        own = self._own(pathway)
        if PROJECTION in own:
            return self.kind.with_projection(block, x, lambda maps: own[PROJECTION](maps, frames.batch))
        if ATTENTION in own:
            x = _operate_on_tokens(own[ATTENTION], x, frames)
        if MLP in own:
            x = _operate_on_tokens(own[MLP], self.kind.attend(block, x, frames), frames)
            return self.kind.transform(block, x)
        x = self.kind.run(block, x, frames)
        return _operate_on_maps(own[BLOCK], x, frames) if BLOCK in own else x

    def fold(self, block: Any, pathway: str) -> None:
        """Folds BatchNorms into the pathway's operators: their own, and the block's behind its projection."""
        own = self._own(pathway)
        for operator in own.values():
            if isinstance(operator, Adapter):
                operator.fold()
        _, name = self.kind.projection(block) or (None, None)
        norm = getattr(block, name) if name else None
        if PROJECTION in own and isinstance(norm, nn.BatchNorm2d):
            own[PROJECTION] = fuse_conv_bn_eval(own[PROJECTION], norm)


def _operate_on_tokens(operator: nn.Module, x: Tensor, frames: Frames) -> Tensor:
    first, patches = x[:, : frames.prefix], x[:, frames.prefix :]
    patches = operator(patches, frames.batch)
    return torch.cat([first, patches], 1) if frames.prefix else patches


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
        operator: what the video pathway has at each block. "adapter": C -> C/reduction, depthwise over time, -> C, as a
            residual behind a convolutional network's block, or on the patches before a transformer's (ST-Adapter).
            "local_mhra": the same behind a BatchNorm (UniFormerV2). "pointwise", the UniDual unit: the block's last 1×1
            projection is a t×1×1 convolution that starts at [0, W, 0]. "none": nothing.
        per_block: operators of a transformer's block: 1, or 2, before its attention and before its MLP.
        place: where in a transformer's block a single operator lies: before its "attention" or before its "mlp".
        reduction: of the operator's channels, by default 2 for an adapter and 1.5 for local MHRA.
        pixelwise: images get 1×1 adapters, too, which start at zero.
        global_blocks: how many of a transformer's last blocks have a UniFormerV2's global block beside them, in which a
            query gathers from all frames; a gate mixes the query and the frames' mean by channel. Before a norm, which
            takes the scale out, their weights have the sum 1, as there; behind it 2, so that a clip starts the same.
        temporal_downsample: clips enter a transformer by patches that span three frames, at every other frame
            (UniFormerV2), which start as the trunk's patches of the frame in the middle.
        norms: "split" gives the video pathway norms of its own, which start as copies: frames have other statistics
            than pictures, and BatchNorms that see both by turns fit neither. "shared" has one set for both.
        frame_mean: where a clip's frames are averaged: "after_norm", so that it starts with the mean of its frames'
            logits, or "before_norm" (ST-Adapter, UniFormerV2) where the trunk has a norm behind its blocks.
        time_terms: how many terms of the cosine transform over time of the frames' pooled features the video pathway's
            heads see. 1 is their mean. More tell the order of the frames, up to as many as there are frames; at the
            start they have weights of zero. They need a mean behind the norm and no global blocks.
        freeze_trunk: see the method of that name.
        stages, neck: what pruning has left of the trunk: outputs of `feature_info`, and the layers behind the last one.
        spec, num_frames, in_chans, global_pool: as of UniDual.
        drop_rate: of pooled features, and within the global blocks' MLPs (UniFormerV2: 0.5).
        drop_path_rate: of the trunk's blocks, which drop each frame for itself.
    """

    hooks_see_maps = False

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
        per_block: int = 1,
        place: str = ATTENTION,
        reduction: float | None = None,
        pixelwise: bool = False,
        global_blocks: int = 0,
        temporal_downsample: bool = False,
        norms: str = "split",
        frame_mean: str = AFTER_NORM,
        time_terms: int = 1,
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
        check_known("place", place, (ATTENTION, MLP))
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
                per_block=per_block, place=place, reduction=reduction, pixelwise=pixelwise,
                global_blocks=global_blocks, temporal_downsample=temporal_downsample, norms=norms,
                frame_mean=frame_mean, time_terms=time_terms, drop_path_rate=drop_path_rate, stages=stages, neck=neck,
            ),
        )  # fmt: skip
        self.trunk: Network = network
        self.kind, self.operator, self.frame_mean, self.time_terms = kind, operator, frame_mean, time_terms
        self.fully_convolutional, self.practice = not kind.tokens, kind.practice
        self.units_practice = POINTWISE_UNITS if operator == POINTWISE else None
        self._check_options()
        if stages is not None:
            kind.cut(network, stages - 1, neck=neck)
        self.feature_info = [{**info, "module": f"{TRUNK}{info['module']}"} for info in network.feature_info[:stages]]
        self.units = _tree({name: Unit(kind, self._operators(name)) for name in self.block_names})
        depth = len(self.block_names)
        self.global_blocks = PerPathway()
        if global_blocks and VIDEO in self.pathways:
            shape, numbers = (network.embed_dim, network.blocks[0].attn.num_heads), range(depth - global_blocks, depth)
            self.global_blocks[VIDEO] = GlobalBlocks(*shape, numbers=numbers, drop=drop_rate)
        self.embeddings = PerPathway()
        if temporal_downsample and VIDEO in self.pathways:
            self.embeddings[VIDEO] = TemporalEmbedding(network.get_submodule(self._stem()))
        self.norms = PerPathway({VIDEO: OwnNorms(network)} if norms == "split" and len(self.pathways) > 1 else {})
        self._drop_unused()
        self.add_heads(
            num_features=network.num_features,
            head_hidden_size=network.head_hidden_size,
            head_multiples={VIDEO: time_terms},
            tasks=tasks,
            auxiliary=auxiliary,
            heads=heads,
            drop_rate=drop_rate,
            global_pool=global_pool,
        )
        self._own_arguments["freeze_trunk"] = False
        if freeze_trunk:
            self.freeze_trunk()

    def _check_options(self) -> None:
        given = self._own_arguments
        per_block, pixelwise, global_blocks = given["per_block"], given["pixelwise"], given["global_blocks"]
        depth = len(self.block_names) if self.kind.tokens else 0
        trunk = f"timm's {given['trunk']} ({type(self.trunk).__name__})"
        if per_block not in (1, 2):
            raise ValueError(f"per_block must be 1 or 2, got {per_block!r}")
        within = "per_block=2" if per_block == 2 else f"place={MLP!r}" if given["place"] == MLP else None
        if within and not all(self.kind.has_halves(self.trunk.get_submodule(of)) for of in self.block_names):
            raise ValueError(f"{within} needs transformer blocks of attention and MLP, {trunk} has none")
        if given["temporal_downsample"] and not (self.kind.tokens and self.trunk.dynamic_img_size):
            raise ValueError(f"temporal_downsample=True needs a transformer's patches of any size, {trunk} has none")
        if not 0 <= global_blocks <= depth:
            raise ValueError(
                f"global_blocks must be 0 to {depth}, a transformer's blocks, for {trunk}: {global_blocks!r}"
            )
        if self.operator == POINTWISE and pixelwise:
            raise ValueError(
                "pixelwise=True needs adapters; with operator='pointwise' images have the projection itself"
            )
        if self.operator == POINTWISE and not any(map(self._projection, self.block_names)):
            raise ValueError(f"operator='pointwise' needs blocks that end in a 1×1 projection, {trunk} has none")
        if self.frame_mean == BEFORE_NORM and not self.kind.normed_behind(self.trunk):
            raise ValueError(f"frame_mean='before_norm' needs a norm behind the blocks, {trunk} has none")
        if not isinstance(self.time_terms, int) or self.time_terms < 1:
            raise ValueError(f"time_terms must be a whole number from 1, got {self.time_terms!r}")
        if self.time_terms > 1 and not self.takes_time_terms:
            raise ValueError("time_terms beyond 1 need frame_mean='after_norm' and no global_blocks")

    def _operators(self, name: str) -> dict[str, dict[str, nn.Module]]:
        """What each pathway has of its own at a block, by place."""
        block, arguments, own = self.trunk.get_submodule(name), self._own_arguments, {}
        channels, projection = self.kind.channels(self.trunk, block), self._projection(name)
        reduction = arguments["reduction"] or REDUCTIONS.get(self.operator, ADAPTER_REDUCTION)
        places: Sequence[str] = (BLOCK,)
        if self.kind.tokens:
            places = (ATTENTION, MLP) if arguments["per_block"] == 2 else (arguments["place"],)
        if VIDEO in self.pathways and self.operator in REDUCTIONS:
            norm = self.operator == LOCAL_MHRA
            own[VIDEO] = {place: Adapter(channels, reduction=reduction, norm=norm) for place in places}
        elif VIDEO in self.pathways and self.operator == POINTWISE and projection:
            own[VIDEO] = {PROJECTION: temporal_projection(block.get_submodule(projection))}
        if IMAGE in self.pathways and arguments["pixelwise"]:
            own[IMAGE] = {place: Adapter(channels, reduction=reduction, kernel=1) for place in places}
        return own

    @property
    def takes_time_terms(self) -> bool:
        """Whether the video pathway's heads may see more of time than the frames' mean."""
        return self.frame_mean == AFTER_NORM and not self._own_arguments["global_blocks"]

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
        if IMAGE in self.pathways:
            return []
        unused = [self._stem()] if VIDEO in self.embeddings else []
        if self.operator == POINTWISE:
            unused += [f"{name}.{found}" for name in self.block_names if (found := self._projection(name))]
        return unused

    def _drop_unused(self) -> None:
        for name in self._unused():
            self.trunk.set_submodule(name, nn.Identity())

    def _stem(self) -> str:
        """The name in the trunk of the layer that sees the input."""
        return self.trunk.default_cfg["first_conv"]

    def _ends(self) -> list[int]:
        """The number of the block that gives each output of `feature_info`; -1 is the stem."""
        modules = [f"{info['module'].removeprefix(TRUNK)}." for info in self.feature_info]
        names = [f"{name}." for name in self.block_names]
        return [max((n for n, name in enumerate(names) if name.startswith(of)), default=-1) for of in modules]

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        stem: Any = self.trunk.get_submodule(self._stem())
        stem = self.embeddings[VIDEO] if isinstance(stem, nn.Identity) else stem
        return stem.weight.dtype

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        ends, batch, as_clip = self._ends(), x.shape[0], x.ndim == 5
        wanted = {ends[number] for number in take}
        x, query, frames = self._begin(x, pathway)
        taken = {-1: x} if -1 in wanted else {}
        for number in range(ends[last] + 1):
            x, query = self._run(number, x, query, pathway, frames)
            if number in wanted:
                taken[number] = x
        if last == len(self.feature_info) - 1:
            x = self._finish(x, pathway)
        outputs = [self._as_maps(taken[ends[number]], frames) for number in take]
        if as_clip:
            outputs = [unfold_frames(output, batch) for output in outputs]
        return self._unfold(x, query, batch, as_clip), outputs

    def _begin(self, x: Tensor, pathway: str) -> tuple[Tensor, Tensor | None, Frames]:
        """Images or clips -> the first block's input (N, ...), the query of the global blocks, what goes with them."""
        batch, own, network = x.shape[0], self._global(pathway), self._network(pathway)
        query = None if own is None else own.query.repeat(batch, 1, 1)
        if pathway in self.embeddings:
            grid = patch_grid(network, x)
            patches = network.patch_embed.norm(self.embeddings[pathway](x))
            x, going = self.kind.enter(network, patches, batch, grid)
        else:
            x, going = self.kind.stem(network, fold_frames(x) if x.ndim == 5 else x, batch)
        return x, query, going

    def _run(
        self, number: int, x: Tensor, query: Tensor | None, pathway: str, frames: Frames
    ) -> tuple[Tensor, Tensor | None]:
        """The input of a block -> its output, with the pathway's operators at it, and the query behind it."""
        network, name = self._network(pathway), self.block_names[number]
        x, frames = self.kind.approach(network, name, x), self.kind.at(network, name, frames)
        x = self.run_block(self.units.get_submodule(name), network.get_submodule(name), x, pathway, frames)
        own = self._global(pathway)
        if own is not None and str(number) in own.blocks:
            query = self.run_block(own.blocks[str(number)], query, x, frames)
        return x, query

    def _finish(self, x: Tensor, pathway: str) -> Tensor:
        """The last block's output, normalised unless that is to come behind the frames' mean."""
        return x if self._means_before_norm(pathway) else self.kind.tail(self._network(pathway), x)

    def _means_before_norm(self, pathway: str) -> bool:
        return pathway == VIDEO and self.frame_mean == BEFORE_NORM

    def _global(self, pathway: str) -> GlobalBlocks | None:
        if pathway not in self.global_blocks:
            return None
        own = self.global_blocks[pathway]
        assert isinstance(own, GlobalBlocks)
        return own

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        network, own, before = self._network(pathway), self._global(pathway), self._means_before_norm(pathway)
        x, query, batch = self._fold(features, pathway)
        pooled = self.kind.pool(network, x) if before else network.forward_head(x, pre_logits=True)
        if self.features_modality(features) == VIDEO:
            pooled = pooled.unflatten(0, (batch, -1)).mean(1)
        if own is not None and query is not None:
            pooled = own.gate(query.squeeze(1), pooled, total=1 if before else 2)
        return self.kind.norm(network, pooled) if before else pooled

    def head_inputs(self, features: Tensor, pathway: str) -> Tensor:
        if pathway != VIDEO or self.time_terms == 1:
            return self._pool(features, pathway)
        x, _, batch = self._fold(features, pathway)
        pooled = self._network(pathway).forward_head(x, pre_logits=True)
        return cosine_terms(pooled.unflatten(0, (batch, -1)), self.time_terms)

    def features_modality(self, features: Tensor) -> str:
        return IMAGE if features.ndim == (3 if self.kind.tokens else 4) else VIDEO

    def _unfold(self, x: Tensor, query: Tensor | None, batch: int, as_clip: bool) -> Tensor:
        """Activations (N, ...) as features: maps (B, C, [T,] H', W') or tokens (B, [T,] L, C).

        The query of global blocks is the last token of each frame.
        """
        if not as_clip:
            return x
        if not self.kind.tokens:
            return unfold_frames(x, batch)
        x = x.unflatten(0, (batch, -1))
        return x if query is None else torch.cat([x, query.unsqueeze(1).expand(-1, x.shape[1], -1, -1)], 2)

    def _fold(self, features: Tensor, pathway: str) -> tuple[Tensor, Tensor | None, int]:
        """What `_unfold` was given."""
        batch = features.shape[0]
        if self.features_modality(features) == IMAGE:
            return features, None, batch
        if not self.kind.tokens:
            return fold_frames(features), None, batch
        if self._global(pathway) is None:
            return features.flatten(0, 1), None, batch
        return features[:, :, :-1].flatten(0, 1), features[:, 0, -1:], batch

    def _as_maps(self, x: Tensor, frames: Frames) -> Tensor:
        """A block's output (N, ...) as maps (N, C, H', W')."""
        return x[:, frames.prefix :].unflatten(1, frames.grid).permute(0, 3, 1, 2) if self.kind.tokens else x

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The trunk's groups; what a pathway has of its own at a layer is in that layer's group."""

        def ours(pattern: str) -> str:
            of_trunk = rf"trunk|units|norms\.{VIDEO}\.trunk|global_blocks\.{VIDEO}"
            return rf"^(?:{of_trunk})\.(?:{pattern.replace('^', '')})"

        def translated(patterns: Any) -> Any:
            return ours(patterns) if isinstance(patterns, str) else [(ours(one), suffix) for one, suffix in patterns]

        groups = {group: translated(patterns) for group, patterns in self.trunk.group_matcher(coarse=coarse).items()}
        if VIDEO in self.global_blocks:
            groups["blocks"].append(
                (rf"^global_blocks\.{VIDEO}\.(?:query|balance)", (99999,))
            )  # timm: the last block's
        if VIDEO in self.embeddings:
            groups["stem"] = rf"{groups['stem']}|^{EMBEDDING}"
        return groups

    def no_weight_decay(self) -> set[str]:
        """Those of the trunk, and what the global blocks share."""
        excepted: Any = getattr(self.trunk, "no_weight_decay", set)
        names = {f"{TRUNK}{name}" for name in excepted()}
        names |= {f"global_blocks.{VIDEO}.{name}" for name in ("query", "balance")}
        return names & {name for name, _ in self.named_parameters()}

    def explained_layers(self) -> tuple[list[str], list[str]]:
        """The blocks."""
        names = [f"{UNITS}{name}" for name in self.block_names]
        return names, names

    def layer_maps(self, output: Tensor) -> Tensor:
        return self._as_maps(output, self._frames(output, len(output)))

    def feature_maps(self, features: Tensor, pathway: str) -> Tensor:
        if not self.kind.tokens:
            return features
        tokens, _, batch = self._fold(features, pathway)
        maps = self._as_maps(tokens, self._frames(tokens, batch))
        return maps if features.ndim == 3 else unfold_frames(maps, batch)

    def _frames(self, x: Tensor, batch: int) -> Frames:
        """What goes with activations (N, ...) of inputs of the spec's size or, if that cannot be, of square ones."""
        network = self._network(self.pathways[0])
        if not self.kind.tokens:
            return self.kind.frames(network, batch, (0, 0))
        patches, patch = x.shape[1] - network.num_prefix_tokens, self.feature_info[0]["reduction"]
        height, width = (side // patch for side in self.spec.crop)
        if height * width != patches:
            height = width = math.isqrt(patches)
        return self.kind.frames(network, batch, (height, width))

    def explained_features(self, x: Tensor, pathway: str) -> Tensor:
        """The last block's input, if of its output the heads see one token alone."""
        if not self._reads_one_token():
            return self._features(x, pathway)
        batch, as_clip = x.shape[0], x.ndim == 5
        x, query, frames = self._begin(x, pathway)
        for number in range(len(self.block_names) - 1):
            x, query = self._run(number, x, query, pathway, frames)
        return self._unfold(x, query, batch, as_clip)

    def resume_features(self, features: Tensor, pathway: str) -> Tensor:
        if not self._reads_one_token():
            return features
        x, query, batch = self._fold(features, pathway)
        x, query = self._run(len(self.block_names) - 1, x, query, pathway, self._frames(x, batch))
        return self._unfold(self._finish(x, pathway), query, batch, self.features_modality(features) == VIDEO)

    def _reads_one_token(self) -> bool:
        return self.kind.tokens and self.kind.pooling(self.trunk) == "token"

    def fold(self) -> None:
        for pathway in self.pathways:
            for name in self.block_names:
                unit: Any = self.units.get_submodule(name)
                unit.fold(self._network(pathway).get_submodule(name), pathway)
        for own in self._own_norms():
            own.shares = False  # each pathway's folded weights are its own
            fold_norms(own.trunk)
        fold_norms(self.trunk)
        fold_quick_gelu(self)

    # ---- a trunk that is frozen, pruned, or one pathway's -----------------------------------------------------------

    def freeze_trunk(self, frozen: bool = True) -> None:
        """Stops, or starts again, the training of the trunk: of all that images use but heads and 1×1 adapters.

        A frozen trunk stays in evaluation mode while the network trains, so that whatever is learnt from videos leaves
        the logits of images as they are, to the bit. Operators learn, and the video pathway's norms if they are split.
        """
        self._own_arguments["freeze_trunk"] = frozen
        super().freeze_trunk(frozen)

    def trunk_modules(self) -> Iterator[nn.Module]:
        yield self.trunk

    def keep_pathway(self, pathway: str) -> None:
        super().keep_pathway(pathway)
        self.trunk = self._network(pathway)
        self.norms = PerPathway()
        self._drop_unused()
        if self.trunk_frozen:
            self.freeze_trunk()

    def _prune(self, last: int) -> None:
        self._cut(last, neck=True)

    def _drop_neck(self) -> None:
        self._cut(self._own_arguments["stages"] - 1, neck=False)

    def _cut(self, last: int, *, neck: bool) -> None:
        for network in (self.trunk, *(own.trunk for own in self._own_norms())):
            self.kind.cut(network, last, neck=neck)
        self._own_arguments |= dict(stages=last + 1, neck=neck)
        names = self.block_names
        if len(names) < len(list(_units(self.units))) or not neck:  # global blocks are for what follows the last block
            self.global_blocks = PerPathway()
            self._own_arguments["global_blocks"] = 0
        self.units = _tree({name: self.units.get_submodule(name) for name in names})

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
        for key, value in self._as_timm_fits(weights).items():
            if key.startswith(classifier):
                ours |= {f"{HEADS}{pathway}.{task}.{key.removeprefix(classifier)}": value for pathway in self.pathways}
            else:
                ours[f"{TRUNK}{key}"] = value
        return self._with_start(ours)

    def _as_timm_fits(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A trunk's weights as timm makes them fit, by timm's names."""
        name, own = self._stem(), self.trunk.get_submodule(self._stem())
        if isinstance(own, nn.Identity):  # timm asks for the sizes of the projection that was taken out
            embedding = self.embeddings[VIDEO]
            assert isinstance(embedding, TemporalEmbedding)
            self.trunk.set_submodule(name, embedding.of_one_frame())
        try:
            return self.kind.from_timm(weights, self.trunk)
        finally:
            self.trunk.set_submodule(name, own)

    def from_clip(self, weights: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        """Weights of a video network on CLIP's trunk (see `clip_formats`) -> this network's, its head that of `task`.

        ST-Adapter's files are without the trunk, which is CLIP's own and comes from timm's repository on the Hub.
        UniFormerV2's are without CLIP's last norm, which images have as a plain one then: without scale and shift.

        Raises:
            CheckpointError: CLIP's trunk is needed and cannot be had.
        """
        first_global = len(self.block_names) - self._own_arguments["global_blocks"]
        ours = from_clip_names(weights, first_global=first_global, task=task)
        if is_frozen(weights):
            self._compare_with_clip(ours)
        if f"{TRUNK}cls_token" not in ours and (repository := self._clip_repository()):
            ours |= self._clip(fetch_from_hub(repository))
        adopted, own = self.adopt(ours), f"{OWN_NORMS}trunk.norm.weight"
        if own in adopted and f"global_blocks.{VIDEO}.query" in ours:
            adopted[f"{TRUNK}norm.weight"] = torch.ones_like(adopted[own])
            adopted[f"{TRUNK}norm.bias"] = torch.zeros_like(adopted[own])
        return adopted

    def _clip_repository(self) -> str | None:
        """Where timm has OpenAI's weights of the trunk, if there are such."""
        for tag in timm.list_pretrained(f"{self._own_arguments['trunk'].partition('.')[0]}.openai"):
            cfg = timm.get_pretrained_cfg(str(tag))
            return cfg and cfg.hf_hub_id
        return None

    def _clip(self, path: Path) -> dict[str, Tensor]:
        """CLIP's weights of the trunk in timm's file."""
        weights, own = self._as_timm_fits(read_weights(path)), self.trunk.state_dict()
        return {f"{TRUNK}{key}": value for key, value in weights.items() if key in own}

    def _compare_with_clip(self, ours: Mapping[str, Tensor]) -> None:
        """Warns if the trunk of a UniFormerV2 that is said to be frozen is not CLIP's, where CLIP's is at hand."""
        repository = self._clip_repository()
        if repository is None or (path := cached_from_hub(repository)) is None:
            return
        pairs = {key: (ours[key], value) for key, value in self._clip(path).items() if key in ours}
        kept = {key: pair for key, pair in pairs.items() if not key.startswith(f"{TRUNK}norm.")}  # the last is its own
        if changed := [key for key, (a, b) in kept.items() if a.shape == b.shape and not torch.equal(a.to(b), b)]:
            warnings.warn(f"the trunk is not CLIP's, it differs in {shorten(changed)}", stacklevel=2)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network on this trunk, with other pathways or inputs of another size -> weights as this one's.

        The video pathway of weights that have none starts as from timm's; without an image pathway the trunk has the
        video pathway's norms.
        """
        norms = {key.removeprefix(OWN_NORMS): value for key, value in weights.items() if key.startswith(OWN_NORMS)}
        if norms and IMAGE not in self.pathways:
            weights = {key: value for key, value in weights.items() if not key.startswith(OWN_NORMS)} | norms
        if self.kind.tokens:  # position embeddings may be of another size
            trunk = {key.removeprefix(TRUNK): value for key, value in weights.items() if key.startswith(TRUNK)}
            trunk = self._as_timm_fits(trunk)
            weights = {**weights, **{f"{TRUNK}{key}": value for key, value in trunk.items()}}
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
        complete |= {
            key: self._with_terms(value)
            for key, value in complete.items()
            if key.startswith(VIDEO_HEADS) and value.ndim > 1
        }
        unused = tuple(f"{TRUNK}{name}." for name in self._unused())
        return {key: value for key, value in complete.items() if not key.startswith(unused)}

    def _with_terms(self, weight: Tensor) -> Tensor:
        """A head's weight (classes, n·C) for as many terms over time as ours see: the others are zero, or left out."""
        if weight.shape[1] % self.heads.in_features:
            return weight  # of another network, as is said elsewhere
        return nn.functional.pad(weight, (0, self.heads.width(VIDEO) - weight.shape[1]))

    def _start_of(self, key: str, fresh: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """An operator's weight at the start: as it is, or of a projection that of the trunk's, at its own time step."""
        if key.startswith(EMBEDDING):
            weight = weights.get(f"{TRUNK}{self._stem()}.{key.removeprefix(EMBEDDING)}")
            return fresh if weight is None else centred_in_time(weight) if weight.ndim == 4 else weight
        name, _, rest = key.removeprefix(UNITS).partition(f".{VIDEO}.{PROJECTION}.")
        weight = weights.get(f"{TRUNK}{name}.{self._projection(name)}.{rest}") if rest else None
        if weight is None:
            return fresh
        return centred(weight) if rest == "weight" else weight


def _units(tree: nn.Module) -> Iterator[Unit]:
    return (module for module in tree.modules() if isinstance(module, Unit))


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
    """A checkpoint of timm's, of a video network on CLIP, or ours -> exactly the model's weights, or an error that says
    what does not fit.

    Formats are told by their keys. timm's classifier becomes the head of `task` (default: the model's first image task)
    on every pathway that has one; heads of other tasks are fresh then. A video network's becomes the video pathway's
    head. `fresh_heads`: see `fit_to_model`.
    """
    if any(key.startswith(TRUNK) for key in state_dict):
        state_dict = model.adopt(state_dict)
    elif has_clip_names(state_dict):
        state_dict = model.from_clip(state_dict, task or first_task(model.tasks, VIDEO) or "k400")
    elif model.trunk.state_dict().keys().isdisjoint(state_dict):
        read = (
            f"this package's own, timm's {model.arguments()['trunk']}, UniFormerV2 (its authors, mmaction2), ST-Adapter"
        )
        raise CheckpointError(f"the weights are in no format that is read here: {read}")
    else:
        task = task or first_task(model.tasks, IMAGE) or "in1k"
        state_dict = model.from_timm(state_dict, task)
        fresh_heads = fresh_heads or any(set(model.pathway_tasks(pathway)) - {task} for pathway in model.pathways)
    stems = (f"{TRUNK}{model.trunk.default_cfg['first_conv']}.weight", f"{EMBEDDING}weight")
    return fit_to_model(state_dict, model, adaptable=stems, fresh_heads=fresh_heads)


def _timm_cfg(arguments: Arguments) -> PretrainedCfg:
    """timm's configuration of the trunk."""
    cfg = timm.get_pretrained_cfg(arguments["trunk"])
    assert cfg is not None
    return cfg


def first_conv(arguments: Arguments) -> str:
    """The layer that sees the input, as `Family` asks for it."""
    if arguments.get("temporal_downsample") and IMAGE not in arguments["pathways"]:
        return EMBEDDING.rstrip(".")
    return f"{TRUNK}{_timm_cfg(arguments).first_conv}"


def reduction(arguments: Arguments) -> int:
    """Pixels of the input per position of the last features, for transformers of a patch."""
    given = arguments.get("trunk_args") or {}
    if stride := given.get("output_stride") or given.get("patch_size"):
        return stride
    cfg = _timm_cfg(arguments)
    if cfg.pool_size:
        return cfg.input_size[-1] // cfg.pool_size[-1]
    if named := re.search(r"_patch(\d+)_", arguments["trunk"]):
        return int(named[1])
    with torch.device("meta"):
        network: Network = timm.create_model(arguments["trunk"])
    return network.feature_info[-1]["reduction"]


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=DualTrunk,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv=first_conv,
    reduction=reduction,
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
def unidual_vit_little_patch16_reg1_gap_256(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-Little/16 of 22 M parameters with one register, the mean of its patches, 256 pixels."""
    return build(FAMILY, "unidual_vit_little_patch16_reg1_gap_256", pretrained, **kwargs)


@register_model
def unidual_vit_base_patch16_clip_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CLIP's ViT-B/16, 224 pixels."""
    return build(FAMILY, "unidual_vit_base_patch16_clip_224", pretrained, **kwargs)


@register_model
def unidual_vit_large_patch14_clip_336(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CLIP's ViT-L/14, 336 pixels."""
    return build(FAMILY, "unidual_vit_large_patch14_clip_336", pretrained, **kwargs)


@register_model
def unidual_eva02_base_patch14_448(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EVA-02-B/14, 448 pixels."""
    return build(FAMILY, "unidual_eva02_base_patch14_448", pretrained, **kwargs)


@register_model
def unidual_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ConvNeXt-Tiny."""
    return build(FAMILY, "unidual_convnext_tiny", pretrained, **kwargs)


@register_model
def unidual_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50."""
    return build(FAMILY, "unidual_resnet50", pretrained, **kwargs)


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
