"""A saved configuration, config.json of a repository or a folder: anybody's until it is checked.

It says what a network is, in plain data within limits, and not where weights lie: those are where it was found. What
does not fit, perhaps because a newer version wrote it, is a CheckpointError, one sentence that names the fields.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import threading
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
from timm.models._pretrained import PretrainedCfg
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unidual_zoo.checks import first_line, short_repr, shorten
from unidual_zoo.spec import MAX_CHANNELS, MAX_CLASSES, MAX_SIDE, InputSpec, parse_tasks
from unidual_zoo.weights.files import CONFIG
from unidual_zoo.weights.rows import CheckpointError

MAX_CONFIG = 1 << 26  # bytes of a config.json
MAX_WEIGHTS, MAX_TENSORS = 3_000_000_000, 5_000  # of a saved network
_MORE, _MORE_WEIGHTS, _MORE_TENSORS = 2, 10_000_000, 500  # than its file holds: so often, and so many
MAX_TOTAL = 1_000_000  # of all numbers in one argument, such as the depths of a network's stages

_OWN = {
    "hf-hub": "hf_hub_id",
    "local-dir": "file",
}  # timm's source of a configuration -> where timm says its weights are
_PLACES = ("state_dict", "file", "hf_hub_id", "hf_hub_filename", "url")
_TIMMS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # arguments that timm gives itself
_NOT_BUILT = ("num_classes", "num_video_classes")  # arguments that size tasks, and not the class's own
_LEGACY = ("architecture", "num_features", "labels")  # beside the fields, before timm parted them


def read_config(path: Path) -> Any:
    """What a config.json holds.

    Raises:
        OSError: it cannot be read. ValueError: it is no JSON, or far too large.
    """
    if (size := path.stat().st_size) > MAX_CONFIG:
        raise ValueError(f"{size:,} bytes, at most {MAX_CONFIG:,} are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_config(config: Any, *, what: str) -> None:
    """Raises a CheckpointError if timm could not make an architecture, fields and arguments of a config.json."""
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{what} must be fields and their values, got {short_repr(config)}")
    legacy = {key: value for key, value in config.items() if key not in _LEGACY}
    parts = {"pretrained_cfg": config.get("pretrained_cfg", legacy), "model_args": config.get("model_args", {})}
    problems = [] if isinstance(config.get("architecture"), str) else ["architecture must be a name"]
    problems += [f"{part} must be fields and their values" for part, value in parts.items() if not _is_plain(value)]
    if not problems:
        given = [f"model_args.{name}" for name in _TIMMS if name in parts["model_args"]]
        problems = _unknown(given) + _cfg_problems(parts["pretrained_cfg"])
    _refuse(problems, what)


def check_saved(cfg: Mapping[str, Any], arguments: Mapping[str, Any], network: type[nn.Module]) -> dict[str, Any]:
    """The fields of a saved network's configuration, as timm read them, naming no weights but its own.

    `arguments` are those that rebuild it: the class must know them, by the types with which it declares them. Fields
    that the caller gave, and not a file, are handed back as they are.

    Raises:
        CheckpointError: an unknown field or argument, or one of another type or beyond all limits.
    """
    if cfg.get("source") not in _OWN:
        return dict(cfg)
    own, what, declared = _OWN[cfg["source"]], _name(cfg), _declared(network)
    problems = _cfg_problems(cfg) + _argument_problems(arguments, declared)
    if cfg.get("fixed_input_size") and "img_size" not in declared:  # timm would give it one
        problems.append("pretrained_cfg.fixed_input_size is for networks that have an img_size")
    _refuse(problems, what)
    if others := [place for place in _PLACES if place != own and cfg.get(place)]:
        warnings.warn(f"{what} names other weights ({', '.join(others)}), which are not read", stacklevel=3)
    return {key: value for key, value in cfg.items() if key == own or key not in _PLACES}


def check_size(
    network: type[nn.Module],
    arguments: Mapping[str, Any],
    *,
    cfg: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Raises a CheckpointError if a saved network's arguments build none, or one far larger than its weights.

    It is built on the "meta" device, which takes no memory, and stops as soon as too much of it is seen. Without the
    weights the limits are those of any network.
    """
    most, tensors, held = MAX_WEIGHTS, MAX_TENSORS, ""
    if weights is not None:
        stored = sum(value.numel() for value in weights.values())
        most, tensors = min(most, _MORE * stored + _MORE_WEIGHTS), min(tensors, _MORE * len(weights) + _MORE_TENSORS)
        held = f", and its file holds {stored:,} in {len(weights):,}"
    built = {name: value for name, value in arguments.items() if name not in _NOT_BUILT}
    try:
        with _limited(most, tensors), torch.device("meta"):
            network(**built)
    except Exception as error:  # of a class that was given what it does not expect
        held = held if isinstance(error, _TooLargeError) else ""
        message = f"{_name(cfg)} describes no network that can be built: {first_line(error)}{held}"
        raise CheckpointError(message) from error


def _name(cfg: Mapping[str, Any]) -> str:
    return f"{CONFIG} of {cfg.get(_OWN.get(cfg.get('source', ''), ''))}"


def _refuse(problems: list[str], what: str) -> None:
    if problems:
        raise CheckpointError(f"{what} does not fit this version of unidual_zoo: {'; '.join(problems)}")


def _unknown(fields: list[str]) -> list[str]:
    return [f"unknown fields {shorten(fields)}"] if fields else []


def _is_plain(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _cfg_problems(cfg: Mapping[str, Any]) -> list[str]:
    """What is wrong with fields of timm's PretrainedCfg."""
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    unknown = [f"pretrained_cfg.{name}" for name in cfg if name not in known]
    return _unknown(unknown) + [*_mistyped("pretrained_cfg", cfg, _cfg_types())]


def _argument_problems(arguments: Mapping[str, Any], declared: Mapping[str, Any]) -> list[str]:
    """What is wrong with the constructor arguments of a saved network."""
    unknown = [f"model_args.{name}" for name in arguments if name not in declared]
    if problems := _unknown(unknown) + [*_mistyped("model_args", arguments, declared)]:
        return problems
    try:
        InputSpec.from_dict(arguments.get("spec") or {})
        parse_tasks(arguments.get("tasks") or {})
    except ValueError as error:
        return [first_line(error)]
    large = [name for name, value in arguments.items() if name != "spec" and not _total(value) <= MAX_TOTAL]
    return [f"model_args.{name} is too large: its numbers add up to more than {MAX_TOTAL:,}" for name in large]


def _mistyped(part: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each value that JSON would not give for its type."""
    from pydantic import (
        ConfigDict,
        TypeAdapter,
        ValidationError,
    )  # when there is something to check, not with the package

    for name, value in values.items():
        adapter = TypeAdapter(types.get(name, Any), config=ConfigDict(arbitrary_types_allowed=True))
        try:
            # Names of classes may hold bytes that are no text (lone surrogates), which pydantic's JSON does not know.
            adapter.validate_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Input ")
            yield f"{part}.{name} {said[0].lower()}{said[1:]}, got {short_repr(value)}"
        except (TypeError, ValueError, RecursionError):
            yield f"{part}.{name} must be plain data, got {short_repr(value)}"


@cache
def _cfg_types() -> dict[str, Any]:
    """The types of those fields of timm's PretrainedCfg that are computed with; its own annotations are loose."""
    from pydantic import Field

    side, number = Annotated[int, Field(ge=1, le=MAX_SIDE)], Annotated[float, Field(allow_inf_nan=False)]
    positive, name = Annotated[float, Field(gt=0, allow_inf_nan=False)], str | tuple[str, ...] | None
    size = tuple[Annotated[int, Field(ge=1, le=MAX_CHANNELS)], side, side]
    return {
        "architecture": str | None,
        "tag": str | None,
        "fixed_input_size": bool,
        "input_size": size,
        "test_input_size": size | None,
        "min_input_size": size | None,
        "pool_size": tuple[side, ...] | None,
        "interpolation": str,
        "crop_pct": positive,
        "mean": tuple[number, ...],
        "std": tuple[positive, ...],
        "num_classes": Annotated[int, Field(ge=0, le=MAX_CLASSES)],
        "first_conv": name,
        "classifier": name,
    }


def _declared(network: type[nn.Module]) -> dict[str, Any]:
    """The arguments of a network's class and their types: its own, and those that it hands on to its base."""
    declared: dict[str, Any] = dict.fromkeys(_NOT_BUILT, int)
    for owner in inspect.getmro(network):
        if "__init__" not in vars(owner):
            continue
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        hints = typing.get_type_hints(owner.__init__)
        for parameter in parameters:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                declared.setdefault(parameter.name, hints.get(parameter.name, Any))
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            break
    return declared | {"spec": Mapping[str, Any] | None}


def _total(value: Any) -> float:
    """All numbers in plain data added up, without their signs."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return sum(map(_total, value))
    return abs(value) if isinstance(value, int | float) else 0


class _TooLargeError(ValueError):
    """A network goes beyond what it was allowed."""


_LIMITS = threading.local()


@contextmanager
def _limited(most_weights: int, most_tensors: int) -> Iterator[None]:
    """Within it, this thread cannot give modules more weights and tensors than so many."""
    weights = tensors = 0

    def count(parameter: nn.Parameter) -> None:
        nonlocal weights, tensors
        weights, tensors = weights + parameter.numel(), tensors + 1
        if weights > most_weights or tensors > most_tensors:
            raise _TooLargeError(f"it would have over {most_weights:,} weights, or over {most_tensors:,} tensors")

    _LIMITS.count = count
    try:
        yield
    finally:
        _LIMITS.count = None


def _count_where_limited(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    if count := getattr(_LIMITS, "count", None):
        count(parameter)


# Once and for good: torch goes through its hooks without a lock, so that one more or less while another thread builds
# a network ends that thread.
register_module_parameter_registration_hook(_count_where_limited)
