"""How a name and a tag become a model: the one function between timm's factory and a family's class.

timm knows one classifier of `num_classes`, these models have tasks. `build` resolves the arguments in the order
architecture < tag < explicit `tasks` < explicit `num_classes` and hands the class plain data alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models import build_model_with_cfg
from timm.models._pretrained import PretrainedCfg
from timm.models._registry import generate_default_cfgs
from torch import nn

from unidual_zoo.models.heads import primary_task
from unidual_zoo.spec import MODALITIES, VIDEO, Task, parse_tasks
from unidual_zoo.weights import Checkpoint, fetch

_SOURCES = ("state_dict", "file", "hf_hub_id", "url")


@dataclass(frozen=True)
class Family:
    """What `build` needs to know of a model family: its class, its checkpoints, and how it reads their formats."""

    model_class: type[nn.Module]
    architectures: Mapping[str, Mapping[str, Any]]  # name -> constructor arguments
    checkpoints: Mapping[str, Checkpoint]  # "architecture.tag" -> row; a tag ending in * is the default
    filter_fn: Callable
    timm_cfg: Callable[..., dict[str, Any]]  # constructor arguments -> fields of timm's PretrainedCfg

    def default_cfgs(self) -> dict:
        """timm's `default_cfgs` of the family, to be set in its module before the models are registered."""
        rows: dict[str, Any] = {
            name: {
                **self.timm_cfg(**{**self.architectures[name.split(".")[0]], **row.arguments, "spec": row.spec}),
                **row.sources(),
                "license": row.license,
                "origin_url": row.source,
            }
            for name, row in self.checkpoints.items()
        }
        return generate_default_cfgs(rows)

    def tags(self, variant: str) -> dict[str, Checkpoint]:
        """The rows of an architecture by tag, the default one first: that with `*`, or the first with weights."""
        named = {name: row for name, row in self.checkpoints.items() if name.split(".")[0] == variant}
        ordered = sorted(named, key=lambda name: (not name.endswith("*"), not named[name].has_weights))
        return {name.split(".", 1)[1].rstrip("*"): named[name] for name in ordered}

    def row(self, variant: str, tag: str | None) -> tuple[str, Checkpoint | None]:
        """The name and the row of a tag, or of the default tag for None."""
        tags = self.tags(variant)
        tag = tag if tag is not None else next(iter(tags), None)
        return (f"{variant}.{tag}", tags.get(tag)) if tag is not None else (variant, None)


def build(
    family: Family,
    variant: str,
    pretrained: bool,
    *,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    features_only: bool = False,
    modality: str | None = None,
    out_indices: tuple[int, ...] | None = None,
    **explicit: Any,
) -> nn.Module:
    """A model of the family, with its weights if `pretrained`.

    Args:
        pretrained_cfg: a tag, or on reloading a saved model the dict that timm read from its config.json.
        pretrained_model_args: the arguments of a saved model, as newer timm hands them on; `explicit` holds them too.
        features_only: a timm feature extractor over one pathway, `modality` if the model has two.
        explicit: constructor arguments, `num_classes` (of the primary task) and `num_video_classes`.

    Raises:
        ValueError: the arguments contradict each other or are not the class's.
        RuntimeError: the tag is unknown or has no weights, or the weights do not fit.
    """
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = pretrained_cfg.to_dict()
    tag = pretrained_cfg.get("tag") if isinstance(pretrained_cfg, dict) else pretrained_cfg
    name, row = family.row(variant, tag) if tag or pretrained else (variant, None)
    if row is None and isinstance(pretrained_cfg, str) and pretrained_cfg:
        raise RuntimeError(f"{variant} has no tag {tag!r}, allowed: {', '.join(family.tags(variant)) or 'none'}")
    arguments = {**family.architectures[variant], **({**row.arguments, "spec": row.spec} if row else {}), **explicit}
    arguments["tasks"] = _resolve_tasks(arguments, saved=pretrained_model_args or {})
    if features_only:
        arguments["pathways"] = (_one_pathway(variant, arguments["pathways"], modality),)
    elif modality is not None:
        raise ValueError(
            f"modality={modality!r} chooses the pathway of features_only=True; for a call, give it to forward"
        )

    overlay = dict(pretrained_cfg_overlay or {})
    given = {**(pretrained_cfg if isinstance(pretrained_cfg, dict) else {}), **overlay}
    if pretrained and row and all(given.get(key) in (None, row.sources().get(key)) for key in _SOURCES):
        path = fetch(name, row, cache_dir=cache_dir)
        overlay |= {"file": str(path)} if path else {}
    if not pretrained_cfg:
        if row:
            pretrained_cfg = name.removeprefix(f"{variant}.")
        else:  # the bare architecture, described by itself and not by its default tag
            pretrained_cfg = dict(architecture=variant, **family.timm_cfg(**arguments))
    return build_model_with_cfg(
        family.model_class,
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,  # type: ignore[arg-type]  # a tag is allowed too
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=family.filter_fn,
        cache_dir=cache_dir,
        kwargs_filter=("num_classes",),
        feature_cfg=dict(feature_cls="getter"),
        features_only=features_only,
        **({"out_indices": out_indices} if out_indices is not None else {}),
        **arguments,
    )


def _resolve_tasks(arguments: dict[str, Any], *, saved: Mapping[str, Any]) -> dict[str, Task]:
    """Takes `num_classes` and `num_video_classes` out of the arguments; returns the tasks as they say."""
    tasks = parse_tasks(arguments["tasks"])
    primary = primary_task(tasks)
    num_classes = arguments.pop("num_classes", None)
    num_video_classes = arguments.pop("num_video_classes", None)
    if saved.get("num_classes") == num_classes and saved.get("tasks") != arguments["tasks"]:
        num_classes = None  # the saved model's, while the tasks are the caller's
    if num_classes is not None and (primary is None or num_classes != tasks[primary].num_classes):
        if num_classes == 0:
            tasks = {name: dataclasses.replace(task, num_classes=0) for name, task in tasks.items()}
        elif primary is None:
            raise ValueError(f"num_classes={num_classes} sizes the primary task, but the model has no tasks")
        else:
            tasks[primary] = dataclasses.replace(tasks[primary], num_classes=num_classes)
    if num_video_classes is not None:
        video = next((name for name, task in tasks.items() if task.modality == VIDEO), None)
        if video is None:
            raise ValueError(f"num_video_classes={num_video_classes} needs a video task, got {list(tasks) or 'none'}")
        tasks[video] = dataclasses.replace(tasks[video], num_classes=num_video_classes)
    return tasks


def _one_pathway(variant: str, pathways: tuple[str, ...], modality: str | None) -> str:
    if modality is None and len(pathways) > 1:
        choice = " or ".join(f"modality={name!r}" for name in pathways)
        raise ValueError(f"features_only=True needs one pathway of {variant}: add {choice}")
    pathway = modality or next(iter(pathways))
    if pathway not in pathways:
        allowed = "none of them" if pathway in MODALITIES else "not a modality"
        raise ValueError(f"modality {pathway!r} is {allowed} {variant} has; its pathways: {', '.join(pathways)}")
    return pathway
