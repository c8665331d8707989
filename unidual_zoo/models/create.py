"""How a name and a tag become a model: the functions between timm's factory and a family's class.

The arguments are resolved (`arguments.py`), the class is built, and the weights are read and fitted here, strictly,
since timm loads loosely as soon as the number of classes differs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, build_model_with_cfg
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models import arguments as resolution
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.family import Family, name_with_heads
from unidual_zoo.models.heads import HeadSizes, head_sizes, primary_task
from unidual_zoo.spec import IMAGE
from unidual_zoo.weights import (
    CONFIG,
    EXPORT,
    HEADS,
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
    is_noncommercial,
    read_config,
    read_weights,
    unwrap,
)

_SOURCES = ("state_dict", "file", "hf_hub_id", "url")  # of weights, as timm prefers them
_HUB, _FOLDER = "hf-hub", "local-dir"
_GETTER, _HOOK = "getter", "hook"  # of timm's feature extractors


def create_model(name: str, **kwargs: Any) -> TaskModel:
    """`timm.create_model`, with clear errors for what it does before it calls `build`: reading a saved config.json.

    Raises:
        CheckpointError: what a "hf-hub:…" or "local-dir:…" name stands for cannot be had or is not registered here.
        ValueError: the name is registered by somebody whose models have no tasks.
    """
    source, _, where = name.partition(":")
    if source in (_HUB, _FOLDER):
        cache_dir = kwargs.get("cache_dir")
        path = fetch_from_hub(where, CONFIG, cache_dir=cache_dir) if source == _HUB else Path(where, CONFIG)
        try:
            config = read_config(path)
            architecture = config["architecture"]
        except FileNotFoundError as error:
            meant = local_dir(where)
            hint = f"; did you mean {meant}?" if meant != name else ""
            lacking = f"network in {where}, no {CONFIG}{hint}" if Path(where).is_dir() else f"folder {where}"
            raise CheckpointError(f"{name}: there is no {lacking}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{name} has no {CONFIG} that names an architecture: {error!r}") from error
        check_config(config, what=f"{CONFIG} of {where}")
        if not timm.is_model(architecture):
            raise CheckpointError(f"{name} is a {architecture!r}, which nothing imported here has registered")
    model = timm.create_model(name, **kwargs)
    if not isinstance(model, TaskModel):
        raise ValueError(f"{name} is a {type(model).__name__}, which is none of this package's models")
    return model


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
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    features_only: bool = False,
    **explicit: Any,
) -> nn.Module:
    """A model of the family, with its weights if `pretrained`.

    Args:
        pretrained_cfg: a tag, or on reloading a saved model the dict that timm read from its config.json.
        pretrained_cfg_overlay: other fields of it; weights it names go before those of the tag or the saved model.
        pretrained_model_args: the arguments of a saved model, as timm hands them on; `explicit` holds them too.
        device, dtype: of the weights.
        features_only: a timm feature extractor over one pathway: `modality`, by default the image pathway, with
            timm's `out_indices` (by default all) and `feature_cls`, "getter" or (on images) "hook". What no output
            needs is removed.
        explicit: constructor arguments, `num_classes` (of the primary task) and `num_video_classes`.

    Raises:
        ValueError: the arguments contradict each other.
        TypeError: there is no argument of that name.
        RuntimeError: the tag is unknown, or (CheckpointError) has no weights, or they cannot be had or do not fit.
    """
    tag, saved_cfg = resolution.split_cfg(pretrained_cfg)
    saved = pretrained_model_args or {}
    if saved_cfg:
        pretrained_cfg = saved_cfg = check_saved(saved_cfg, saved, family.model_class)
    name, row = family.choose(variant, tag, default=pretrained and not saved_cfg)
    if row is None and tag and not saved_cfg:
        raise RuntimeError(f"{variant} has no tag {tag!r}, allowed: {', '.join(family.tags(variant)) or 'none'}")
    architecture, overlay = family.architectures[variant], dict(pretrained_cfg_overlay or {})
    pathways = {**architecture, **(saved or (row.arguments if row else {})), **explicit}["pathways"]
    features = _take_feature_arguments(
        variant, pathways, explicit, features_only=features_only, model_class=family.model_class
    )
    asked = resolution.asked_arguments(explicit, saved)
    if features:
        asked["num_classes"] = 0
    arguments = resolution.resolve(architecture, row, saved, asked)
    weights, where = _find_weights(name, row, (overlay, saved_cfg), cache_dir=cache_dir) if pretrained else (None, "")
    if weights is not None:
        arguments |= _implied(family, weights, arguments, asked, where=where)
    if saved:
        own_weights = None if overlay else weights
        check_size(family.model_class, {**architecture, **saved}, cfg=saved_cfg, weights=own_weights)
    with contextlib.nullcontext() if device is None else torch.device(device):
        model = family.model_class(**arguments)
    if dtype is not None:
        model.to(dtype)
    if weights is not None:
        task = resolution.classifier_task(architecture, row, family.classifier_of)
        fresh = resolution.tasks_of_other_classes(asked, arguments["tasks"])
        _load(family, variant, model, weights, where=where, task=task, fresh=fresh)
        _warn_of_licence(name, overlay.get("license") or saved_cfg.get("license") or (row.license if row else None))
    if features:
        model.keep_pathway(features.pop("pathway"))
        features["out_indices"] = model.prune_intermediate_layers(features.get("out_indices"))
    described = family.timm_cfg(arguments)
    cfg = pretrained_cfg or (name.removeprefix(f"{variant}.") if row else dict(architecture=variant, **described))
    return _hand_to_timm(model, variant, cfg=cfg, overlay=overlay, described=described, features=features)


def _implied(
    family: Family, weights: Mapping[str, Tensor], arguments: Mapping[str, Any], asked: Collection[str], *, where: str
) -> dict[str, Any]:
    """What the weights make of a network that nobody asked to be otherwise; a warning says so."""
    implied = family.implied_arguments(weights, arguments)
    implied = {key: value for key, value in implied.items() if key not in asked and arguments.get(key) != value}
    if implied:
        taken = ", ".join(f"{key}={value!r}" for key, value in implied.items())
        warnings.warn(
            f"{where} is of a network of {taken}, and so this one becomes: its preprocessing stays that of the tag",
            stacklevel=4,
        )
    return implied


def _take_feature_arguments(
    variant: str,
    pathways: Sequence[str],
    explicit: dict[str, Any],
    *,
    features_only: bool,
    model_class: type[TaskModel],
) -> dict[str, Any]:
    """Takes what only a feature extractor knows out of the explicit arguments; empty for a whole model."""
    modality = explicit.pop("modality", None)
    given = {key: explicit.pop(key) for key in ("out_indices", "feature_cls") if key in explicit}
    if not features_only:
        if modality is not None:
            raise ValueError(
                f"modality={modality!r} chooses the pathway of features_only=True; for a call, give it to forward"
            )
        return {}
    pathway = resolution.features_pathway(variant, pathways, modality)
    given.setdefault("feature_cls", _GETTER)
    check_known("feature_cls", given["feature_cls"], (_GETTER, _HOOK))
    if given["feature_cls"] == _HOOK and pathway != IMAGE:
        raise ValueError(
            f"feature_cls='hook' sees the frames of a clip as images; use {_GETTER!r} on the video pathway"
        )
    if given["feature_cls"] == _HOOK and not model_class.hooks_see_maps:
        raise ValueError(f"feature_cls='hook' does not see the feature maps of {variant}: use {_GETTER!r}")
    return {**given, "pathway": pathway}


def _load(
    family: Family,
    variant: str,
    model: TaskModel,
    weights: Mapping[str, Tensor],
    *,
    where: str,
    task: str | None,
    fresh: Collection[str],
) -> None:
    """Fits weights of any format the family reads to the model, strictly but for heads of the `fresh` tasks."""
    there, here = head_sizes(weights), head_sizes(model.state_dict())
    try:
        if fresh and there and (lost := _lost_heads(there, here, fresh)):
            raise CheckpointError(f"the checkpoint has no weights for {', '.join(lost)}")
        weights = {key: _computable(value) for key, value in weights.items()}
        model.load_state_dict(family.filter_fn(weights, model, task=task, fresh_heads=bool(fresh)))
    except (CheckpointError, ValueError) as error:  # a ValueError of `adopt`: there is nothing to start from
        name = name_with_heads(variant, there) if there != here else None
        loaded = " and the file as checkpoint_path" if name and "pretrained=False" in name else ""
        hint = f"; the heads in it fit {name}{loaded}" if name else ""
        raise CheckpointError(f"{where}: {error}{hint}") from None


def _computable(value: Tensor) -> Tensor:
    """A weight as it is computed with on the way to a model: of 16 bits it would be rounded at each step."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _warn_of_licence(name: str, license: str | None) -> None:
    if is_noncommercial(license):
        message = (
            f"the weights of {name} are under {license}: neither they nor what is made of them may be used commercially"
        )
        warnings.warn(message, stacklevel=4)


def _lost_heads(there: HeadSizes, here: HeadSizes, fresh: Collection[str]) -> list[str]:
    """Heads of the model that the weights lack, or have for other classes, though nobody asked for other ones."""
    return [
        f"{HEADS}{pathway}.{task}"
        for pathway, own in here.items()
        for task, number in own.items()
        if task not in fresh and there.get(pathway, {}).get(task) != number
    ]


def _hand_to_timm(
    model: Any, variant: str, *, cfg: Any, overlay: dict[str, Any], described: dict[str, Any], features: dict
) -> nn.Module:
    """The model as timm's factory returns one: with its pretrained_cfg and, for `features`, in timm's extractor."""
    primary = primary_task(model.tasks)
    return build_model_with_cfg(
        lambda **_: model,
        variant,
        pretrained=False,  # its weights are loaded
        pretrained_cfg=cfg,
        pretrained_cfg_overlay={
            **{key: value for key, value in overlay.items() if key != "state_dict"},  # which timm would copy
            **{key: described[key] for key in ("num_classes", "classifier")},
            "label_names": model.spec.class_names(primary) if primary else None,
        },
        features_only=bool(features),
        **features,
    )


def _find_weights(
    name: str, row: Checkpoint | None, places: Sequence[Mapping[str, Any]], *, cache_dir: str | None
) -> tuple[dict[str, Tensor], str]:
    """The weights and where they come from: of the first place that names some not in the row, else the row's.

    The places are fields of timm's PretrainedCfg, the caller's before a saved model's.
    """
    published = row.sources() if row else {}
    for given in places:
        kind = next((key for key in _SOURCES if given.get(key) and given[key] != published.get(key)), None)
        if kind == "state_dict":
            return check_plain(unwrap(given[kind]), what=kind), kind
        if kind == "file":
            return read_weights(given[kind]), str(given[kind])
        if kind == "hf_hub_id":
            filename = given.get("hf_hub_filename") or WEIGHTS_FILE
            path = fetch_from_hub(given[kind], filename, cache_dir=cache_dir)
            what = f"{filename} of {given[kind]}, {path},"
            return read_weights(path, what=what), what
        if kind == "url":
            return read_weights(fetch_url(given[kind], cache_dir=cache_dir)), given[kind]
    path = fetch(name, row, cache_dir=cache_dir)
    return read_weights(path), str(path)
