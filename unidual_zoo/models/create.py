"""How a name and a tag become a model: the one function between timm's factory and a family's class.

timm knows one classifier of `num_classes`, these models have tasks. `build` resolves the arguments in the order
architecture < tag < explicit `tasks` < explicit `num_classes` and hands the class plain data alone. timm builds; the
weights are read and fitted here, strictly, since timm loads loosely as soon as the number of classes differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg
from timm.models._pretrained import PretrainedCfg
from timm.models._registry import generate_default_cfgs
from torch import Tensor, nn

from unidual_zoo.models.heads import first_task, primary_task
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec, Task, parse_tasks
from unidual_zoo.weights import (
    CONFIG,
    EXPORT,
    WEIGHTS_FILE,
    Checkpoint,
    CheckpointError,
    check_config,
    check_plain,
    check_saved,
    check_size,
    fetch,
    fetch_from_hub,
    fetch_url,
    read_config,
    read_weights,
)

_SOURCES = ("state_dict", "file", "hf_hub_id", "url")  # of weights, as timm prefers them
_HEAD_ARGUMENTS = ("tasks", "heads", "auxiliary", "num_classes", "num_video_classes")
_HUB, _FOLDER = "hf-hub", "local-dir"


@dataclass(frozen=True)
class Family:
    """What `build` needs to know of a model family: its class, its checkpoints, and how it reads their formats."""

    model_class: type[nn.Module]
    architectures: Mapping[str, Mapping[str, Any]]  # name -> constructor arguments
    checkpoints: Mapping[str, Checkpoint]  # "architecture.tag" -> row; a tag ending in * is the default
    filter_fn: Callable[..., dict[str, Tensor]]  # (state dict of any format, model, task=, fresh_heads=) -> its weights
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


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """`timm.create_model`, with clear errors for what it does before it calls `build`: reading a saved config.json.

    Raises:
        CheckpointError: what a "hf-hub:…" or "local-dir:…" name stands for cannot be had or is not registered here.
    """
    source, _, where = name.partition(":")
    if source in (_HUB, _FOLDER):
        cache_dir = kwargs.get("cache_dir")
        path = fetch_from_hub(where, CONFIG, cache_dir=cache_dir) if source == _HUB else Path(where, CONFIG)
        try:
            config = read_config(path)
            architecture = config["architecture"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            meant = local_dir(where) if source == _FOLDER else name
            hint = f"; did you mean {meant}?" if meant != name else ""
            raise CheckpointError(f"{name} has no {CONFIG} that names an architecture: {error!r}{hint}") from error
        check_config(config, what=f"{CONFIG} of {where}")
        if not timm.is_model(architecture):
            raise CheckpointError(f"{name} is a {architecture!r}, which nothing imported here has registered")
    return timm.create_model(name, **kwargs)


def local_dir(folder: str) -> str:
    """The name "local-dir:…" of the network in a folder or, if the folder is a run directory, in its `export`."""
    exported = Path(folder, EXPORT)
    return f"{_FOLDER}:{exported if (exported / CONFIG).is_file() else folder}"


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
        pretrained_cfg_overlay: other fields of it; weights it names go before those of the tag or the saved model.
        pretrained_model_args: the arguments of a saved model, as timm hands them on; `explicit` holds them too.
        features_only: a timm feature extractor over one pathway, `modality` if the model has two.
        explicit: constructor arguments, `num_classes` (of the primary task) and `num_video_classes`.

    Raises:
        ValueError: the arguments contradict each other.
        TypeError: there is no argument of that name.
        RuntimeError: the tag is unknown, or (CheckpointError) has no weights, or they cannot be had or do not fit.
    """
    if isinstance(pretrained_cfg, PretrainedCfg):
        pretrained_cfg = pretrained_cfg.to_dict()
    saved, saved_cfg = pretrained_model_args or {}, {}
    if isinstance(pretrained_cfg, dict):
        pretrained_cfg = saved_cfg = check_saved(pretrained_cfg, saved, family.model_class)
    tag = pretrained_cfg if isinstance(pretrained_cfg, str) else saved_cfg.get("tag")
    name, row = family.row(variant, tag) if tag or (pretrained and not saved_cfg) else (variant, None)
    if row is None and isinstance(pretrained_cfg, str) and pretrained_cfg:
        raise RuntimeError(f"{variant} has no tag {tag!r}, allowed: {', '.join(family.tags(variant)) or 'none'}")
    architecture = family.architectures[variant]
    asked = {key: value for key, value in explicit.items() if key not in saved or saved[key] != value}
    own = saved or ({**row.arguments, "spec": row.spec} if row else {})
    arguments = _resolve_arguments(architecture, own, asked)
    if features_only:
        arguments |= {"pathways": (_one_pathway(variant, arguments["pathways"], modality),), "heads": {}}
    elif modality is not None:
        raise ValueError(
            f"modality={modality!r} chooses the pathway of features_only=True; for a call, give it to forward"
        )

    overlay = dict(pretrained_cfg_overlay or {})
    described = family.timm_cfg(**arguments)
    if not pretrained_cfg:  # a tag, or the bare architecture, which is not to be described by its default tag
        pretrained_cfg = name.removeprefix(f"{variant}.") if row else dict(architecture=variant, **described)

    def make(**arguments: Any) -> nn.Module:
        where, weights = "", None
        if pretrained:
            where, weights = _find_weights(name, row, (overlay, saved_cfg), cache_dir=cache_dir)
        if saved:
            own_weights = None if overlay else weights
            check_size(family.model_class, {**architecture, **saved}, cfg=saved_cfg, weights=own_weights)
        model = family.model_class(**arguments)
        if weights is not None:
            # Another code base's classifier belongs to the first video task of the tag, not of the caller.
            task = first_task(parse_tasks({**architecture, **(row.arguments if row else {})}["tasks"]), VIDEO)
            try:
                fresh_heads = any(key in asked for key in _HEAD_ARGUMENTS)
                model.load_state_dict(family.filter_fn(weights, model, task=task, fresh_heads=fresh_heads))
            except CheckpointError as error:
                raise CheckpointError(f"{where}: {error}") from None
        return model

    return build_model_with_cfg(
        make,
        variant,
        pretrained=False,  # `make` has loaded the weights
        pretrained_cfg=pretrained_cfg,  # type: ignore[arg-type]  # a tag is allowed too
        pretrained_cfg_overlay={
            **{key: value for key, value in overlay.items() if key != "state_dict"},  # which timm would copy
            **{key: described[key] for key in ("num_classes", "classifier")},
        },
        kwargs_filter=("num_classes",),
        feature_cfg=dict(feature_cls="getter"),
        features_only=features_only,
        **({"out_indices": out_indices} if out_indices is not None else {}),
        **arguments,
    )


def _find_weights(
    name: str, row: Checkpoint | None, places: Sequence[Mapping[str, Any]], *, cache_dir: str | None
) -> tuple[str, dict[str, Tensor]]:
    """Where the weights come from and the weights: of the first place that names some not in the row, else the row's.

    The places are fields of timm's PretrainedCfg, the caller's before a saved model's.
    """
    published = row.sources() if row else {}
    for given in places:
        kind = next((key for key in _SOURCES if given.get(key) and given[key] != published.get(key)), None)
        if kind == "state_dict":
            return kind, check_plain(given[kind], what=kind)
        if kind == "file":
            return str(given[kind]), read_weights(given[kind])
        if kind == "hf_hub_id":
            filename = given.get("hf_hub_filename") or WEIGHTS_FILE
            path = fetch_from_hub(given[kind], filename, cache_dir=cache_dir)
            what = f"{filename} of {given[kind]}, {path},"
            return what, read_weights(path, what=what)
        if kind == "url":
            return given[kind], read_weights(fetch_url(given[kind], cache_dir=cache_dir))
    path = fetch(name, row, cache_dir=cache_dir)
    return str(path), read_weights(path)


def _resolve_arguments(
    architecture: Mapping[str, Any], own: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The constructor arguments: the architecture's, those of its tag or of a saved model, and what was asked for.

    `num_classes` sizes the primary task (the first image task, if the architecture has one, also where a tag does
    without), `num_video_classes` the first video task. `heads` hold for the tasks that they were written for alone.
    """
    arguments = {**architecture, **own, **asked}
    for key in ("num_classes", "num_video_classes"):
        arguments.pop(key, None)
    num_classes, num_video_classes = asked.get("num_classes"), asked.get("num_video_classes")
    if isinstance(arguments["spec"], Mapping):  # as JSON has it
        arguments["spec"] = InputSpec.from_dict(arguments["spec"])
    tasks = parse_tasks(arguments["tasks"])
    if num_classes and "tasks" not in asked:
        tasks = _with_image_task(architecture, tasks)
    if num_classes is not None:
        tasks = _sized(tasks, num_classes)
    if num_video_classes is not None:
        video = first_task(tasks, VIDEO)
        if video is None:
            raise ValueError(f"num_video_classes={num_video_classes} needs a video task, got {list(tasks) or 'none'}")
        tasks[video] = dataclasses.replace(tasks[video], num_classes=num_video_classes)
    if "heads" not in asked and set(tasks) != set({**architecture, **own}["tasks"]):
        arguments.pop("heads", None)
    return {**arguments, "tasks": tasks}


def _with_image_task(architecture: Mapping[str, Any], tasks: dict[str, Task]) -> dict[str, Task]:
    """The tasks, led by the architecture's image task if there is none among them."""
    if first_task(tasks, IMAGE):
        return tasks
    return {name: task for name, task in parse_tasks(architecture["tasks"]).items() if task.modality == IMAGE} | tasks


def _sized(tasks: dict[str, Task], num_classes: int) -> dict[str, Task]:
    """The tasks, the primary one of `num_classes`; with 0, where that is news, none has a head."""
    primary = primary_task(tasks)
    if primary is not None and num_classes == tasks[primary].num_classes:
        return tasks
    if num_classes == 0:
        return {name: dataclasses.replace(task, num_classes=0) for name, task in tasks.items()}
    if primary is None:
        raise ValueError(f"num_classes={num_classes} sizes the primary task, but the model has no tasks")
    return {**tasks, primary: dataclasses.replace(tasks[primary], num_classes=num_classes)}


def _one_pathway(variant: str, pathways: tuple[str, ...], modality: str | None) -> str:
    if modality is None and len(pathways) > 1:
        choice = " or ".join(f"modality={name!r}" for name in pathways)
        raise ValueError(f"features_only=True needs one pathway of {variant}: add {choice}")
    pathway = modality or next(iter(pathways))
    if pathway not in pathways:
        allowed = "none of them" if pathway in MODALITIES else "not a modality"
        raise ValueError(f"modality {pathway!r} is {allowed} {variant} has; its pathways: {', '.join(pathways)}")
    return pathway
