"""Which constructor arguments a call of `timm.create_model` means. Plain data in, plain data out; nothing is built.

timm knows one classifier of `num_classes`, these models have tasks, which are resolved in the order architecture < tag
or saved model < explicit `tasks` < explicit `num_classes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import PretrainedCfg

from unidual_zoo.models.family import Arguments
from unidual_zoo.models.heads import first_task, primary_task
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec, Task, parse_tasks
from unidual_zoo.weights import Checkpoint


def split_cfg(pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None) -> tuple[str | None, dict[str, Any]]:
    """timm's `pretrained_cfg` -> the tag it names, and the fields of a saved model's configuration."""
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = pretrained_cfg.to_dict()
    if isinstance(pretrained_cfg, Mapping):
        return pretrained_cfg.get("tag") or None, dict(pretrained_cfg)
    return pretrained_cfg or None, {}


def asked_arguments(explicit: Arguments, saved: Arguments) -> dict[str, Any]:
    """What the caller asked for: timm's factory mixes a saved model's arguments into the explicit ones."""
    return {key: value for key, value in explicit.items() if key not in saved or saved[key] != value}


def resolve(architecture: Arguments, row: Checkpoint | None, saved: Arguments, asked: Arguments) -> dict[str, Any]:
    """The constructor arguments: the architecture's, those of its tag or of a saved model, and what was asked for.

    `num_classes` sizes the primary task (the first image task, if the architecture has one, also where a tag does
    without), `num_video_classes` the first video task. `heads` hold for the tasks that they were written for alone.

    Raises:
        ValueError: there is no task to be sized.
    """
    own = saved or ({**row.arguments, "spec": row.spec} if row else {})
    arguments = {**architecture, **own, **asked}
    for key in ("num_classes", "num_video_classes"):
        arguments.pop(key, None)
    if isinstance(arguments["spec"], Mapping):  # as JSON has it
        arguments["spec"] = InputSpec.from_dict(arguments["spec"])
    tasks = _resolve_tasks(architecture, parse_tasks(arguments["tasks"]), asked)
    if "heads" not in asked and set(tasks) != set({**architecture, **own}["tasks"]):
        arguments.pop("heads", None)
    return {**arguments, "tasks": tasks}


def tasks_of_other_classes(asked: Mapping[str, Any], tasks: Mapping[str, Task]) -> set[str]:
    """The tasks whose heads the caller asked for, so that those of a checkpoint need not fit."""
    if not asked.keys().isdisjoint(("tasks", "heads", "auxiliary")):
        return set(tasks)
    sized = {"num_classes": primary_task(tasks), "num_video_classes": first_task(tasks, VIDEO)}
    return {task for argument, task in sized.items() if argument in asked and task}


def classifier_task(architecture: Arguments, row: Checkpoint | None, modality: str) -> str | None:
    """The task that another code base's classifier belongs to: the tag's first of a modality, not the caller's.

    Of a tag without one it is the first task.
    """
    tasks = parse_tasks({**architecture, **(row.arguments if row else {})}["tasks"])
    return first_task(tasks, modality) or next(iter(tasks), None)


def _resolve_tasks(architecture: Arguments, tasks: dict[str, Task], asked: Arguments) -> dict[str, Task]:
    num_classes, num_video_classes = asked.get("num_classes"), asked.get("num_video_classes")
    if num_classes and "tasks" not in asked:
        tasks = _with_image_task(architecture, tasks)
    if num_classes is not None:
        tasks = _sized(tasks, num_classes)
    if num_video_classes is not None:
        video = first_task(tasks, VIDEO)
        if video is None:
            raise ValueError(f"num_video_classes={num_video_classes} needs a video task, got {list(tasks) or 'none'}")
        tasks[video] = dataclasses.replace(tasks[video], num_classes=num_video_classes)
    return tasks


def _with_image_task(architecture: Arguments, tasks: dict[str, Task]) -> dict[str, Task]:
    """The tasks, led by the architecture's image task if there is none among them."""
    if first_task(tasks, IMAGE):
        return tasks
    return {name: task for name, task in parse_tasks(architecture["tasks"]).items() if task.modality == IMAGE} | tasks


def _sized(tasks: dict[str, Task], num_classes: int) -> dict[str, Task]:
    """The tasks, the primary one of `num_classes`; 0 takes the heads of all tasks, unless the primary one has none."""
    primary = primary_task(tasks)
    if primary is not None and num_classes == tasks[primary].num_classes:
        return tasks
    if num_classes == 0:
        return {name: dataclasses.replace(task, num_classes=0) for name, task in tasks.items()}
    if primary is None:
        raise ValueError(f"num_classes={num_classes} sizes the primary task, but the model has no tasks")
    return {**tasks, primary: dataclasses.replace(tasks[primary], num_classes=num_classes)}


def features_pathway(variant: str, pathways: Sequence[str], modality: str | None) -> str:
    """The pathway of a feature extractor: that asked for, by default the image pathway, which timm's users expect.

    Raises:
        ValueError: the network has no such pathway.
    """
    pathway = modality or (IMAGE if IMAGE in pathways else next(iter(pathways), IMAGE))
    if pathway not in pathways:
        allowed = "none of them" if pathway in MODALITIES else "not a modality"
        raise ValueError(f"modality {pathway!r} is {allowed} {variant} has; its pathways: {', '.join(pathways)}")
    return pathway
