"""What a family declares: its class, its variants, its checkpoints, and how it reads their formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs
from torch import Tensor

from unidual_zoo.checks import check_known
from unidual_zoo.models.heads import HeadSizes, assign_heads, primary_task
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec, parse_tasks
from unidual_zoo.weights import HEADS, Checkpoint

if TYPE_CHECKING:
    from unidual_zoo.models.base import TaskModel

Arguments = Mapping[str, Any]
STATED = ("pathways", "tasks", "spec")  # what every architecture says
_FAMILIES: dict[str, Family] = {}  # of each declared architecture


def families() -> list[Family]:
    """The families that were imported, whoever wrote them."""
    return list({id(family): family for family in _FAMILIES.values()}.values())


def find_family(architecture: str) -> Family:
    """The family of a registered architecture.

    Raises:
        ValueError: no family has it; it names the nearest.
    """
    check_known("architecture", architecture, _FAMILIES)
    return _FAMILIES[architecture]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family, as `build` needs it.

    Args:
        model_class: the TaskModel that all variants are instances of.
        architectures: constructor arguments by registered name.
        checkpoints: rows by "architecture.tag"; the default tag is that with `*`, else the first with weights.
        filter_fn: (state dict of any format the family reads, model, task=, fresh_heads=) -> exactly the weights of the
            model (see `weights.fit_to_model`). Another code base's classifier becomes the head of `task`.
        first_conv: the layer that sees the input, as timm's PretrainedCfg names it; it may depend on the arguments.
        reduction: pixels of the input per position of the last features, for its pool_size; it may depend on the
            arguments, too.
        implied_arguments: (state dict of any format the family reads, arguments) -> constructor arguments that the
            network must have to give the outputs of its authors', where these are others. Unless the caller asks for
            others, they go before those of the tag.
        about: what the networks are, as model cards say it: a noun phrase in markdown that links to the paper.
        classifier_of: the modality whose first task another code base's classifier belongs to.

    Raises:
        ValueError: an architecture does not say its pathways, its tasks or its spec.
    """

    model_class: type[TaskModel]
    architectures: Mapping[str, Arguments]
    checkpoints: Mapping[str, Checkpoint]
    filter_fn: Callable[..., dict[str, Tensor]]
    first_conv: str | Callable[[Arguments], str]
    reduction: int | Callable[[Arguments], int]
    implied_arguments: Callable[[Mapping[str, Tensor], Arguments], dict[str, Any]] = lambda weights, arguments: {}
    about: str = ""
    classifier_of: str = VIDEO

    def __post_init__(self) -> None:
        for variant, architecture in self.architectures.items():
            if lacking := [name for name in STATED if name not in architecture]:
                raise ValueError(f"the architecture {variant} must say its {', '.join(STATED)}: no {lacking[0]}")

    def default_cfgs(self) -> dict:
        """timm's `default_cfgs`, to be set in the family's module before its models are registered.

        An architecture without checkpoints has a configuration without a tag.
        """
        _FAMILIES.update(dict.fromkeys(self.architectures, self))
        cfgs: dict[str, Any] = {}
        for variant, architecture in self.architectures.items():
            rows = {name: row for name, row in self.checkpoints.items() if name.split(".")[0] == variant}
            for name, row in rows.items():
                described = self.timm_cfg({**architecture, **row.arguments, "spec": row.spec})
                cfgs[name] = {**described, **row.sources(), "license": row.license, "origin_url": row.source}
            if not rows:
                cfgs[variant] = self.timm_cfg(architecture)
        return generate_default_cfgs(cfgs)

    def timm_cfg(self, arguments: Arguments) -> dict[str, Any]:
        """What timm's PretrainedCfg can say of these arguments. It has no 128×171: `crop_pct` approximates it."""
        spec = arguments["spec"]
        assert isinstance(spec, InputSpec)
        tasks = parse_tasks(arguments["tasks"])
        reduction = self.reduction if isinstance(self.reduction, int) else self.reduction(arguments)
        primary = primary_task(tasks)
        return dict(
            input_size=(3, *spec.crop),
            pool_size=tuple(-(-side // reduction) for side in spec.crop),
            crop_pct=min(spec.crop) / spec.short_side,
            crop_mode="squash" if spec.resize == spec.crop else "center",
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            num_classes=tasks[primary].num_classes if primary else 0,
            first_conv=self.first_conv if isinstance(self.first_conv, str) else self.first_conv(arguments),
            classifier=_classifier(tasks[primary].modality, primary, arguments["pathways"]) if primary else None,
        )

    def tags(self, variant: str) -> dict[str, Checkpoint]:
        """The rows of an architecture by tag, the default one first: that with `*`, or the first with weights."""
        named = {name: row for name, row in self.checkpoints.items() if name.split(".")[0] == variant}
        ordered = sorted(named, key=lambda name: (not name.endswith("*"), not named[name].has_weights))
        return {name.split(".", 1)[1].rstrip("*"): named[name] for name in ordered}

    def choose(self, variant: str, tag: str | None, *, default: bool) -> tuple[str, Checkpoint | None]:
        """The full name and the row of a tag; without a tag those of the default one, if that is wanted."""
        tags = self.tags(variant)
        tag = tag or (next(iter(tags), None) if default else None)
        return (f"{variant}.{tag}", tags.get(tag)) if tag else (variant, None)


def _classifier(modality: str, task: str, pathways: Sequence[str]) -> str:
    home = modality if modality in pathways else next(iter(pathways), IMAGE)
    return f"{HEADS}{home}.{task}"


def name_with_heads(architecture: str, sizes: HeadSizes) -> str | None:
    """How a registered architecture is created so that it has heads of these sizes; None if no tag's tasks are theirs.

    The bare name is tried before the tags, and their own numbers of classes before others.
    """
    family = _FAMILIES.get(architecture)
    if family is None:
        return None
    bare = family.architectures[architecture]
    ways: list[tuple[str, list[str], Arguments]] = [(architecture, ["pretrained=False"], bare)]
    ways += [(f"{architecture}.{tag}", [], {**bare, **row.arguments}) for tag, row in family.tags(architecture).items()]
    for name, options, arguments in ways:
        if _heads_of(arguments) == sizes:
            return _describe(name, options)
    given = {pathway: set(tasks) for pathway, tasks in sizes.items()}
    for name, options, arguments in ways:
        if {pathway: set(tasks) for pathway, tasks in _heads_of(arguments).items()} == given:
            classes = {task: number for tasks in sizes.values() for task, number in tasks.items()}
            tasks = {task: (own.modality, classes[task]) for task, own in parse_tasks(arguments["tasks"]).items()}
            return _describe(name, [*options, f"tasks={tasks}"])
    return None


def _describe(name: str, options: Sequence[str]) -> str:
    return f"{name!r} with {', '.join(options)}" if options else f"{name!r}"


def _heads_of(arguments: Arguments) -> HeadSizes:
    """The heads of a network with these constructor arguments; a pathway without one is left out."""
    tasks = parse_tasks(arguments["tasks"])
    rule = assign_heads(tasks, arguments["pathways"], auxiliary=arguments.get("auxiliary", False))
    assigned = arguments.get("heads") or rule
    sizes = {pathway: {task: tasks[task].num_classes for task in names} for pathway, names in assigned.items()}
    return {pathway: heads for pathway, heads in sizes.items() if heads}
