"""What a registered name holds, without its weights: tasks, parameters, multiply-adds, where its weights come from."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import timm
import torch
from timm.utils import natural_key
from torch import nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unidual_zoo.checks import nearest
from unidual_zoo.models.arguments import resolve
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model, local_dir
from unidual_zoo.models.family import Family, families, find_family
from unidual_zoo.models.heads import TaskHeads
from unidual_zoo.spec import IMAGE, MODALITIES, InputSpec, Task, parse_tasks
from unidual_zoo.weights import Checkpoint

# Arguments of a network that change no multiply-add but those of its heads.
_NOT_COUNTED = ("tasks", "heads", "auxiliary", "spec")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row of `unidual models`.

    `multiply_adds` is of one image on the image pathway and of one clip on the video pathway, in the sizes of the
    model's spec, in convolutions, linear layers and attention. `weights` is None, "packaged", or where they are
    fetched.
    """

    name: str
    tag: str | None
    tasks: Mapping[str, Task]
    parameters: int
    multiply_adds: Mapping[str, int]
    weights: str | None
    license: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a line of JSON."""
        tasks = {name: [task.modality, task.num_classes] for name, task in self.tasks.items()}
        return dataclasses.asdict(self) | {"tasks": tasks}

    def short_cells(self) -> tuple[str, ...]:
        """Name with tag, tasks, millions of parameters, billions of multiply-adds of an image and of a clip, where
        weights come from and licence, as short as they can be."""
        billions = (self.multiply_adds.get(pathway) for pathway in MODALITIES)
        return (
            f"{self.name}.{self.tag}" if self.tag else self.name,
            " ".join(self.tasks),
            f"{self.parameters / 1e6:.1f}",
            *("-" if count is None else f"{count / 1e9:.3g}" for count in billions),
            "none" if self.weights is None else "packaged" if self.weights == "packaged" else "fetched",
            self.license or "-",
        )

    def cells(self) -> tuple[str, ...]:
        """Name, tag, tasks, parameters, multiply-adds, weights and licence for a table."""
        host = urlparse(self.weights or "").netloc
        return (
            self.name,
            self.tag or "-",
            ", ".join(f"{task.name} {task.num_classes}" for task in self.tasks.values()),
            f"{self.parameters:,}",
            ", ".join(f"{pathway} {count / 1e9:.3f} G" for pathway, count in self.multiply_adds.items()),
            host or self.weights or "none",
            self.license or "-",
        )


def check_registered(name: str) -> None:
    """Raises a ValueError with the nearest names if a name without "hf-hub:" or "local-dir:" is not registered."""
    if ":" not in name and name not in registered_names():
        if Path(name).is_dir():
            saved = local_dir(name)
            if not (Path(saved.partition(":")[2]) / "config.json").is_file():
                raise ValueError(f"{name} is a folder with neither a saved network's config.json nor export.json")
            raise ValueError(f"{name} is a folder: write {saved}")
        raise ValueError(f"no model {name!r}, {nearest_names(name)}")


def registered_names(pattern: str | None = None) -> list[str]:
    """What `timm.create_model` takes, each name followed by its tags: all of it, or what matches a pattern.

    A pattern without `*`, `?` and `[` matches what it is a part of.

    Raises:
        ValueError: nothing matches; it lists the nearest names.
    """
    known = []
    for family in families():
        for variant in sorted(filter(timm.is_model, family.architectures), key=natural_key):
            known += [variant, *sorted((f"{variant}.{tag}" for tag in family.tags(variant)), key=natural_key)]
    if pattern is None:
        return known
    wanted = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    if matching := fnmatch.filter(known, wanted):
        return matching
    raise ValueError(f"no model matches {pattern!r}, {nearest_names(pattern)}")


def nearest_names(name: str) -> str:
    """The registered names and tags nearest to a wrong one, as the end of an error message."""
    known = registered_names()
    architecture, dot, _ = name.partition(".")
    if dot and architecture in known:
        known = [other for other in known if other.startswith(f"{architecture}.")] or [architecture]
        return f"nearest: {', '.join(nearest(name, known, count=5, least=0))}"
    near = nearest(name, known if dot else [other for other in known if "." not in other], least=0.6)
    listed = "`unidual models` lists all"
    return f"nearest: {', '.join(near)}; {listed}" if near else listed


class _Body(NamedTuple):
    """What is counted of a network without its heads."""

    pathways: tuple[str, ...]
    features: int  # pooled, which a head takes,
    multiples: Mapping[str, int]  # or so many times as many on a pathway
    parameters: int
    multiply_adds: Mapping[str, int]


def summarise(names: Iterable[str]) -> Iterator[Summary]:
    """The rows of registered names or `name.tag`, counted on networks without memory (no weights are fetched).

    Tags often differ in their weights and classes alone: a network is built once, and heads are added to its counts.
    """
    counted: dict[str, _Body] = {}
    for name in names:
        architecture, _, tag = name.partition(".")
        family, spec, arguments = _resolved(architecture, tag or None)
        own = {key: value for key, value in arguments.items() if key not in _NOT_COUNTED}
        clip = (spec.clip.length, spec.image_frames)
        network = repr((family.model_class, sorted(own.items()), spec.crop, clip))
        if network not in counted:
            counted[network] = _count_body(name)
        body = counted[network]
        with torch.device("meta"):
            heads = TaskHeads(
                parse_tasks(arguments["tasks"]), pathways=body.pathways, in_features=body.features,
                multiples=body.multiples, auxiliary=arguments.get("auxiliary", False),
                assignment=arguments.get("heads"),
            )  # fmt: skip
        row = family.tags(architecture).get(tag)
        yield Summary(
            name=architecture,
            tag=tag or None,
            tasks=heads.tasks,
            parameters=body.parameters + _count(heads),
            multiply_adds={
                pathway: number + _head_multiply_adds(heads, pathway) for pathway, number in body.multiply_adds.items()
            },
            weights=_place_of_weights(row) if row else None,
            license=row.license if row else None,
        )


def _resolved(architecture: str, tag: str | None) -> tuple[Family, InputSpec, dict[str, Any]]:
    """The family, the spec and the constructor arguments that `create_model` takes for a registered name."""
    family = find_family(architecture)
    row = family.choose(architecture, tag, default=False)[1]
    arguments = resolve(family.architectures[architecture], row, {}, {})
    return family, arguments["spec"], arguments


def _count_body(name: str) -> _Body:
    with torch.device("meta"), _Counter():  # within which weights that have no memory are not drawn either
        model = create_model(name)
    sizes = {
        pathway: multiply_adds(model, pathway) - _head_multiply_adds(model.heads, pathway) for pathway in model.pathways
    }
    parameters = _count(model) - _count(model.heads)
    return _Body(model.pathways, model.head_hidden_size, model.heads.multiples, parameters, sizes)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _head_multiply_adds(heads: TaskHeads, pathway: str) -> int:
    """Of the head that answers by default."""
    task = heads.default_task(pathway, pathway)
    return 0 if task is None else heads.width(pathway) * heads.tasks[task].num_classes


def _place_of_weights(row: Checkpoint) -> str | None:
    return "packaged" if row.file else f"hf-hub:{row.hf_hub_id}" if row.hf_hub_id else row.url


def multiply_adds(model: TaskModel, pathway: str, modality: str | None = None) -> int:
    """Multiply-adds of one image or clip of the model's spec on a pathway: convolutions, linear layers and attention.

    `modality` is what comes in (default: the pathway's own). One task is counted; other heads add their own few.
    """
    spec = model.spec
    frames = () if (modality or pathway) == IMAGE else (spec.clip.length,)
    sample = next(model.parameters()).new_empty((1, model.in_chans, *frames, *spec.crop))
    return count_multiply_adds(model, sample, modality=pathway)


def count_multiply_adds(model: nn.Module, *inputs: Any, **options: Any) -> int:
    """Multiply-adds of a call of any network, in its convolutions and matrix products.

    It is made in evaluation mode; afterwards every module is in the mode in which it was.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with _Counter() as counter, torch.no_grad():
            model.eval()(*inputs, **options)
    finally:
        for module, training in modes.items():
            module.training = training
    return counter.flops // 2


_LAYER_NORM = torch.ops.aten.native_layer_norm.default
_NORMS = (torch.ops.aten.native_batch_norm.default, _LAYER_NORM)


class _Counter(TorchDispatchMode):
    """Counts what is called within it, by torch's own formulas.

    Where tensors have no memory, norms and what happens in place are left out: they keep shapes, and the Python by
    which torch finds that out takes longer than all else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if formula := flop_registry.get(func._overloadpacket):
            made = func(*args, **kwargs)
            self.flops += formula(*args, **kwargs, out_val=made)
            return made
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta:
            if func in _NORMS:
                layout = torch.contiguous_format if func is _LAYER_NORM else suggest_memory_format(args[0])
                made = torch.empty_like(args[0], memory_format=layout)
                return made, args[0].new_empty(0), args[0].new_empty(0)
            if _keeps_shape_in_place(func):
                return args[0]
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        return func(*args, **kwargs)


@functools.cache
def _is_composite(func: Any) -> bool:
    """Whether a call is made of others; such come whole where there can be no gradients (torch.inference_mode)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@functools.cache
def _keeps_shape_in_place(func: Any) -> bool:
    schema = func._schema
    return schema.is_mutable and schema.name.endswith("_") and torch.Tag.inplace_view not in func.tags
