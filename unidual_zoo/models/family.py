"""What a family declares: its class, its variants, its checkpoints, and how it reads their formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.models import generate_default_cfgs
from torch import Tensor

from unidual_zoo.models.heads import assign_heads, primary_task
from unidual_zoo.spec import IMAGE, InputSpec, parse_tasks
from unidual_zoo.weights import HEADS, Checkpoint

if TYPE_CHECKING:
    from unidual_zoo.models.base import TaskModel

Arguments = Mapping[str, Any]
_FAMILIES: dict[str, Family] = {}  # of each registered architecture


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family, as `build` needs it.

    Args:
        model_class: the TaskModel that all variants are instances of.
        architectures: constructor arguments by registered name.
        checkpoints: rows by "architecture.tag"; the default tag is that with `*`, else the first with weights.
        filter_fn: (state dict of any format the family reads, model, task=, fresh_heads=) -> exactly the weights of the
            model (see `weights.fit_to_model`). Another code base's classifier becomes the head of `task`.
        first_conv: the layer that sees the input, as timm's PretrainedCfg names it.
        reduction: constructor arguments -> pixels of the input per position of the last features, for its pool_size.
    """

    model_class: type[TaskModel]
    architectures: Mapping[str, Arguments]
    checkpoints: Mapping[str, Checkpoint]
    filter_fn: Callable[..., dict[str, Tensor]]
    first_conv: str
    reduction: Callable[[Arguments], int]

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
        tasks, reduction = parse_tasks(arguments["tasks"]), self.reduction(arguments)
        primary = primary_task(tasks)
        return dict(
            input_size=(3, *spec.crop),
            pool_size=tuple(-(-side // reduction) for side in spec.crop),
            crop_pct=min(spec.crop) / spec.short_side,
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
            num_classes=tasks[primary].num_classes if primary else 0,
            first_conv=self.first_conv,
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


def tag_with_heads(architecture: str, sizes: Mapping[str, Mapping[str, int]]) -> str | None:
    """The tag of a registered architecture whose network has heads of these sizes, `{pathway: {task: classes}}`."""
    family = _FAMILIES.get(architecture)
    if family is None:
        return None
    for tag, row in family.tags(architecture).items():
        arguments = {**family.architectures[architecture], **row.arguments}
        tasks = parse_tasks(arguments["tasks"])
        rule = assign_heads(tasks, arguments["pathways"], auxiliary=arguments.get("auxiliary", False))
        assigned = arguments.get("heads") or rule
        expected = {pathway: {task: tasks[task].num_classes for task in hung} for pathway, hung in assigned.items()}
        if {pathway: hung for pathway, hung in expected.items() if hung} == sizes:
            return tag
    return None
