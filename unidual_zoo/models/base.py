"""What every network of the zoo is: images and clips in, logits of a task out, heads that come and go, timm's methods.

A family subclasses `TaskModel`, builds its layers, calls `add_heads` last, and answers the abstract methods. Everything
that depends on the input's form is settled once per call: the modality by the rank, then the pathway, then the task.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unidual_zoo.checks import check_known
from unidual_zoo.models.family import Arguments, name_with_heads
from unidual_zoo.models.heads import HeadSizes, TaskHeads, head_sizes, primary_task
from unidual_zoo.models.pathways import PerPathway, pathway_of
from unidual_zoo.models.practice import Practice
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec, Task, parse_tasks
from unidual_zoo.weights import HEADS

GLOBAL_POOLS = ("avg", "")
_UNTRACED = "the input's rank chooses its way; torch.export.export and torch.jit.trace take it with an example"

LEARNING = ("heads", "head_drop")  # parts of a network that are no trunk


class TaskModel(nn.Module, ABC):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    torch.compile, torch.export (also for any batch, size and number of frames that leaves each stage two or more) and
    torch.jit.trace take it. torch.fx.symbolic_trace and torch.jit.script do not: the input's rank chooses its way.
    timm's `model_parameters(model, exclude_head=True)` drops the last two parameters, one head of several: the names of
    all of them begin with `heads.`.

    Args:
        pathways: "image", "video" or both, the branches of this network.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        in_chans: channels of the input.
        arguments: the family's own constructor arguments as plain data, from which the network can be built again.
    """

    hooks_see_maps = True  # whether the modules that `feature_info` names are called and give maps
    fully_convolutional = False  # whether `forward_features` gives maps (B, C, [T,] H, W) of inputs of any size
    practice: Practice | None = None  # the rates of fine-tuning, where the recipe's own do not do
    units_practice: Practice | None = None  # likewise, where units over time learn of videos, beside a frozen trunk too
    feature_info: list[dict[str, Any]]  # timm's: channels, reduction and module of each intermediate output
    pretrained_cfg: dict[str, Any]  # timm's factory sets it

    def __init__(
        self,
        *,
        pathways: Sequence[str],
        spec: InputSpec | Arguments | None,
        num_frames: int | None,
        in_chans: int,
        arguments: Arguments,
    ) -> None:
        super().__init__()
        for pathway in pathways:
            check_known("pathway", pathway, MODALITIES)
        if not pathways:
            raise ValueError(f"a network needs a pathway, allowed: {', '.join(MODALITIES)}")
        self.pathways = tuple(name for name in MODALITIES if name in pathways)
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self.trunk_frozen = False
        self.spec = spec if isinstance(spec, InputSpec) else InputSpec.from_dict(spec or {})
        if num_frames is not None:
            self.spec = dataclasses.replace(self.spec, clip=dataclasses.replace(self.spec.clip, length=num_frames))
        self._own_arguments = dict(arguments)

    def add_heads(
        self,
        *,
        num_features: int,
        head_hidden_size: int | None = None,
        head_multiples: Mapping[str, int] | None = None,
        tasks: Arguments,
        auxiliary: bool,
        heads: Mapping[str, Sequence[str]] | None,
        drop_rate: float,
        global_pool: str,
    ) -> None:
        """The last step of a constructor: heads on pooled features of `head_hidden_size` (default: `num_features`),
        or on the multiple of them that a pathway's `head_inputs` gives."""
        self.num_features = num_features
        self.head_hidden_size = head_hidden_size or num_features
        self.drop_rate = drop_rate
        self.head_drop = nn.Dropout(drop_rate)
        self.heads = TaskHeads(
            parse_tasks(tasks),
            pathways=self.pathways,
            in_features=self.head_hidden_size,
            multiples=head_multiples,
            auxiliary=auxiliary,
            assignment=heads,
        )
        self.spec = self.spec.for_tasks(self.tasks)
        _check_global_pool(global_pool, self._tasks_with_heads())
        self.global_pool = global_pool

    # ---- what a family answers --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the weights, read off a layer: a replica of DataParallel has no parameters."""

    @abstractmethod
    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """Unpooled features after output number `last` of `feature_info`, and the outputs to take as maps.

        The input is checked and the network has the pathway; images are (B, C, H, W), clips (B, C, T, H, W), and maps
        (B, D, H', W') or (B, D, T', H', W').
        """

    @abstractmethod
    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        """What `_features` gave -> (B, head_hidden_size)."""

    def head_inputs(self, features: Tensor, pathway: str) -> Tensor:
        """What `_features` gave -> what the pathway's heads see: the pooled features, unless a family gives more."""
        return self._pool(features, pathway)

    @abstractmethod
    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """timm's groups of parameters from input to output, for layer decay; what no pattern matches comes last."""

    def _features(self, x: Tensor, pathway: str) -> Tensor:
        """Unpooled features of a checked input on a pathway that the network has."""
        return self._intermediates(x, pathway, take=(), last=len(self.feature_info) - 1)[0]

    def explained_layers(self) -> tuple[list[str], list[str]]:
        """Names of the modules whose feature maps can be drawn, and of the one that each residual block stands for.

        Raises:
            ValueError: the family does not name any.
        """
        raise ValueError(f"{type(self).__name__} cannot be explained: it does not say which layers have feature maps")

    def _prune(self, last: int) -> None:
        """Removes the layers behind output number `last` of `feature_info`.

        Raises:
            ValueError: the family does not say which they are.
        """
        raise ValueError(f"{type(self).__name__} cannot be pruned: it does not say what lies behind an output")

    def _drop_neck(self) -> None:
        """Removes layers between the features and the heads."""

    def layer_maps(self, output: Tensor) -> Tensor:
        """What a module of `explained_layers` gave for one input -> maps (T', D, H', W')."""
        return output

    def feature_maps(self, features: Tensor, pathway: str) -> Tensor:
        """Unpooled or explained features of inputs of the spec's size -> maps (B, D, [T',] H', W')."""
        return features

    def explained_features(self, x: Tensor, pathway: str) -> Tensor:
        """The features of a checked input that Grad-CAM draws as maps: the unpooled ones, or earlier ones where
        classification does not look at every position of these."""
        return self._features(x, pathway)

    def resume_features(self, features: Tensor, pathway: str) -> Tensor:
        """What `explained_features` gave -> unpooled features."""
        return features

    def features_modality(self, features: Tensor) -> str:
        """The modality that features count as in `forward_head`."""
        return IMAGE if features.ndim == 4 else VIDEO

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must skip beside biases and scales."""
        return set()

    def fold(self) -> None:
        """Folds what this network, a copy that is to serve, need not compute on its own: BatchNorms into other layers.

        Raises:
            ValueError: there are BatchNorms and the family does not say how they are folded.
        """
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules()):
            raise ValueError(
                f"{type(self).__name__} cannot be made ready to serve: it does not say how BatchNorms fold"
            )

    def unfold(self) -> None:
        """Gives the video pathway of this network, folded and without another, the form that engines run fastest.

        That is Conv3d's where frames are folded into the batch for torch's sake. Calls and outputs stay what they are;
        by default the form does, too.
        """

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network of this family, with other pathways or inputs of another size -> weights as this one's.

        Raises:
            ValueError: this network has a pathway that the weights lack.
        """
        have = {pathway_of(key) for key in weights} - {None}
        if have and (lacking := set(self.pathways) - have):
            raise ValueError(f"the weights have no {' or '.join(sorted(lacking))} pathway to start from")
        return {key: value for key, value in weights.items() if pathway_of(key) in (None, *self.pathways)}

    # ---- the forward pass -------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, modality: str | None = None, task: str | None = None) -> Tensor:
        """Logits (B, classes) of `task` by the pathway `modality`; pooled features if that pathway has no head.

        Without `modality` the input's rank chooses the pathway (or the only one there is); without `task` the first
        task of the input's modality with a head there, else the first with a head there. An image on the video pathway
        becomes `image_frames` equal frames; a clip on the image pathway is run frame by frame.

        Raises:
            ValueError: a pathway or head that the model lacks; an input of another rank, dtype or number of channels.
        """
        input_modality = self._check_input(x)
        pathway = self._resolve_pathway(input_modality, modality)
        task = self._resolve_task(input_modality, pathway, task)
        return self._head(self._features(self._fit(x, pathway), pathway), pathway, task)

    def forward_features(self, x: Tensor, modality: str | None = None) -> Tensor:
        """Unpooled features: of convolutional networks (B, C, H, W) of an image on the image pathway, (B, C, T, H, W)
        of all else; of transformers tokens."""
        pathway = self._resolve_pathway(self._check_input(x), modality)
        return self._features(self._fit(x, pathway), pathway)

    def forward_explained(self, x: Tensor, modality: str | None = None) -> Tensor:
        """What Grad-CAM draws, see `explained_features`: `feature_maps` makes maps of it, `resume_features` goes on."""
        pathway = self._resolve_pathway(self._check_input(x), modality)
        return self.explained_features(self._fit(x, pathway), pathway)

    def forward_head(
        self, x: Tensor, pre_logits: bool = False, modality: str | None = None, task: str | None = None
    ) -> Tensor:
        """What `forward_features` gave -> logits (B, classes), or pooled features (B, D) if `pre_logits`.

        Features of an image on the video pathway look like a clip's: there the head is to be named by `task`, if the
        pathway has heads of images and of videos.
        """
        input_modality = self.features_modality(x)
        pathway = self._resolve_pathway(input_modality, modality)
        task = None if pre_logits else self._resolve_task(input_modality, pathway, task)
        return self._head(x, pathway, task)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        modality: str | None = None,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the layers of `feature_info`: (B, C, H, W) of images, (B, C, T, H, W) of clips."""
        check_known("output_fmt", output_fmt, ("NCHW",))
        take, last = self._take_indices(indices)
        pathway = self._resolve_pathway(self._check_input(x), modality)
        last = last if stop_early else len(self.feature_info) - 1
        features, taken = self._intermediates(self._fit(x, pathway), pathway, take=take, last=last)
        return taken if intermediates_only else (features, taken)

    def _head(self, features: Tensor, pathway: str, task: str | None) -> Tensor:
        """Logits of the task, or for None pooled features; features as they are without pooling."""
        if self.global_pool == "":
            return features
        if task is None:
            return self.head_drop(self._pool(features, pathway))
        return self.heads[pathway][task](self.head_drop(self.head_inputs(features, pathway)))

    def _fit(self, x: Tensor, pathway: str) -> Tensor:
        """An image on the video pathway becomes a clip of `image_frames` equal frames; all else stays what it is."""
        if x.ndim == 4 and pathway == VIDEO:
            return x.unsqueeze(2).expand(-1, -1, self.image_frames, -1, -1)
        return x

    def _check_input(self, x: Tensor) -> str:
        """The modality of the input by its rank, after its shape and type are found to be right."""
        if isinstance(x, torch.fx.Proxy):
            raise NotImplementedError(f"torch.fx cannot trace {type(self).__name__}: {_UNTRACED}")
        if torch.jit.is_tracing():  # sizes are tensors then, whose comparisons a trace warns of
            return IMAGE if x.ndim == 4 else VIDEO
        if x.ndim not in (4, 5) or x.shape[1] != self.in_chans or 0 in x.shape:
            chans = self.in_chans
            allowed = f"non-empty images (B, {chans}, H, W) or clips (B, {chans}, T, H, W)"
            raise ValueError(f"needs {allowed}, got {tuple(x.shape)}")
        if x.dtype != self.dtype and not (x.is_floating_point() and torch.is_autocast_enabled(x.device.type)):
            raise ValueError(f"needs normalised {self.dtype} input, as the weights are, got {x.dtype}")
        return IMAGE if x.ndim == 4 else VIDEO

    def _resolve_pathway(self, input_modality: str, pathway: str | None) -> str:
        if pathway is None:
            return self.default_pathway(input_modality)
        if pathway not in self.pathways:
            raise ValueError(f"no pathway for modality {pathway!r} here, allowed: {', '.join(self.pathways)}")
        return pathway

    def _resolve_task(self, input_modality: str, pathway: str, task: str | None) -> str | None:
        if task is None:
            return self.default_task(input_modality, pathway)
        if task not in self.heads[pathway]:
            allowed = ", ".join(self.pathway_tasks(pathway)) or "none"
            raise ValueError(f"task {task!r} has no head on the {pathway} pathway, allowed: {allowed}")
        return task

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """The block's output; with gradient checkpointing it is computed again in the backward pass.

        Inputs may be layers, too.
        """
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return block(*inputs)
        if torch.compiler.is_compiling():  # changes nothing but the forward's result, and takes no contexts
            return checkpoint(block, *inputs, use_reentrant=False)

        def contexts():
            return contextlib.nullcontext(), _statistics_kept([block, *inputs])

        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

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
        """Frames of a clip."""
        return self.spec.clip.length

    @property
    def image_frames(self) -> int:
        """Frames of the clip that an image becomes on the video pathway, where the spec or a family may say fewer."""
        return self.spec.image_frames or self.num_frames

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
        self.global_pool = global_pool
        self._settle_heads()

    def drop_auxiliary_heads(self) -> None:
        """Removes the heads that only training needs (paper §2.2, Inference).

        That is a task's head on the other modality's pathway, if it has one on its own and the pathway keeps another.
        """
        self.heads.drop_auxiliary()

    def add_auxiliary_heads(self) -> None:
        """Gives every task a head on every pathway; those it had stay as they are."""
        self.heads.add_auxiliary()
        self._settle_heads()

    def _settle_heads(self) -> None:
        """New heads take the type, the device and the mode of the network."""
        self.heads.to(next(self.parameters())).train(self.training)
        self.spec = self.spec.for_tasks(self.tasks)

    def keep_pathway(self, pathway: str) -> None:
        """Removes what the other pathways alone use, their heads included.

        Raises:
            ValueError: the network has no such pathway.
        """
        if pathway not in self.pathways:
            raise ValueError(f"the model has no {pathway!r} pathway, allowed: {', '.join(self.pathways)}")
        for module in list(self.modules()):
            if isinstance(module, PerPathway):
                module.keep(pathway)
        self.pathways = (pathway,)

    # ---- timm's conventions -----------------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments, as plain data, that rebuild this network as it is now."""
        now = dict(
            pathways=list(self.pathways), in_chans=self.in_chans, drop_rate=self.drop_rate,
            global_pool=self.global_pool, num_frames=self.num_frames, spec=self.spec.to_dict(),
        )  # fmt: skip
        return {**self._own_arguments, **self.heads.arguments(), **now}

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm writes to config.json."""
        return self.arguments()

    @_model_args.setter
    def _model_args(self, arguments: Arguments) -> None:
        """timm's factory adds the arguments of the call, which this network has resolved and knows already."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; weights with other heads are refused with the name and arguments of the network that they fit."""
        if strict and (there := head_sizes(state_dict)) and there != (here := head_sizes(self.state_dict())):
            raise RuntimeError(self._describe_mismatch(there, here))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _describe_mismatch(self, there: HeadSizes, here: HeadSizes) -> str:
        message = f"the weights have the heads {_list_heads(there)}, this network has {_list_heads(here)}"
        architecture = getattr(self, "pretrained_cfg", {}).get("architecture")
        if architecture and (name := name_with_heads(architecture, there)):
            return f"{message}: they fit {name}"
        return f"{message}: create it with the tasks and heads of the weights"

    def __prepare_scriptable__(self) -> TaskModel:
        """torch.jit.script asks for what it is to compile."""
        raise NotImplementedError(f"torch.jit.script cannot compile {type(self).__name__}: {_UNTRACED}")

    def trunk_modules(self) -> Iterable[nn.Module]:
        """What `freeze_trunk` holds still: all but the heads, unless a family has more that is to learn in any case."""
        return (child for name, child in self.named_children() if name not in LEARNING)

    def freeze_trunk(self, frozen: bool = True) -> None:
        """Stops, or starts again, the training of the trunk; a frozen one stays in evaluation mode."""
        for module in self.trunk_modules():
            module.requires_grad_(not frozen)
        for parameter in self.parameters(recurse=False):  # of the network itself, such as position embeddings
            parameter.requires_grad_(not frozen)
        self.trunk_frozen = frozen
        self.train(self.training)

    def trunk_weights(self) -> dict[str, Tensor]:
        """The weights and statistics that `freeze_trunk` holds still."""
        held = {id(module) for module in self.trunk_modules()}
        others = tuple(f"{name}." for name, child in self.named_children() if id(child) not in held)
        return {key: value for key, value in self.state_dict().items() if not key.startswith(others)}

    def learnt_pooling(self, pathway: str) -> nn.Module | None:
        """The part of `_pool` that learns although the trunk is frozen, if there is one."""
        return None

    def is_settled(self, pathway: str) -> bool:
        """Whether the trunk is frozen and nothing else comes before the heads, or before pooling that learns.

        An input then always has the same `forward_settled`.
        """
        pooling = self.learnt_pooling(pathway)
        behind = {id(weight) for weight in pooling.parameters()} if pooling else set()
        return self.trunk_frozen and not any(
            weight.requires_grad
            and id(weight) not in behind
            and not name.startswith(HEADS)
            and pathway_of(name) in (None, pathway)
            for name, weight in self.named_parameters()
        )

    def forward_settled(self, x: Tensor, pathway: str) -> Tensor:
        """Images or clips -> what does not change on a settled pathway: what heads see (B, D), or unpooled features
        (B, …) where pooling learns."""
        features = self.forward_features(x, modality=pathway)
        return self.head_inputs(features, pathway) if self.learnt_pooling(pathway) is None else features

    def pool_settled(self, settled: Tensor, pathway: str) -> Tensor:
        """What `forward_settled` gave -> what heads see (B, D)."""
        seen = settled if self.learnt_pooling(pathway) is None else self.head_inputs(settled, pathway)
        return self.head_drop(seen)

    def train(self, mode: bool = True) -> Self:
        """nn.Module's, but a frozen trunk stays in evaluation mode."""
        super().train(mode)
        if self.trunk_frozen:
            for module in self.trunk_modules():
                module.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stem and each block in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the layers behind the last index, and the heads and what only they use if `prune_head`."""
        take, last = self._take_indices(indices)
        self._prune(last)
        self.feature_info = self.feature_info[: last + 1]
        if prune_head:
            self.reset_classifier(0, "")
            self._drop_neck()
            self.num_features = self.head_hidden_size = self.heads.in_features = self.feature_info[-1]["num_chs"]
        return take

    def _take_indices(self, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
        listed = list(indices) if isinstance(indices, Sequence) else indices
        try:
            take, last = feature_take_indices(len(self.feature_info), listed)
        except AssertionError as error:
            raise ValueError(str(error)) from None
        return list(take), last


def _list_heads(sizes: HeadSizes) -> str:
    listed = {pathway: ", ".join(f"{task} ({n})" for task, n in tasks.items()) for pathway, tasks in sizes.items()}
    return "; ".join(f"{pathway}: {tasks}" for pathway, tasks in listed.items()) or "none"


def _check_global_pool(global_pool: str, with_heads: set[str]) -> None:
    check_known("global_pool", global_pool, GLOBAL_POOLS)
    if global_pool == "" and with_heads:
        heads = ", ".join(sorted(with_heads))
        raise ValueError(f"global_pool='' gives unpooled features and needs num_classes=0, got heads of {heads}")


@contextlib.contextmanager
def _statistics_kept(block: Sequence[Any]) -> Iterator[None]:
    """While a checkpointed block is recomputed the BatchNorms in its layers must not count the same batch again."""
    layers = [layer for part in block if isinstance(part, nn.Module) for layer in part.modules()]
    norms = [layer for layer in layers if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, counted in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None if counted is None else counted.clone()
    try:
        yield
    finally:
        for norm, momentum, counted in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counted
