"""Settings of a dataclass as text: `name=value` -> typed values, checked against the fields' annotations."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from unidual_zoo.checks import check_known


def parse_settings(settings: Sequence[str], owner: type) -> dict[str, Any]:
    """`["rate=0.1", "tasks=in1k:image", "crop=[64,64]"]` -> `{"rate": 0.1, "tasks": {"in1k": "image"}, ...}`.

    A value is JSON, a plain string or, where the field is a mapping, `key:value,key:value`.

    Raises:
        ValueError: no `=`, or the dataclass `owner` has no such field; it names the nearest one.
    """
    hints = typing.get_type_hints(owner)
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting is name=value, got {setting!r}")
        check_known("setting", name, hints)
        kinds = {typing.get_origin(hint) for hint in (hints[name], *typing.get_args(hints[name]))}
        pairs = Mapping in kinds and ":" in text and not text.startswith("{")
        values[name] = dict(map(_parse_pair, text.split(","))) if pairs else _parse(text)
    return values


def check_types(instance: Any) -> None:
    """Raises a ValueError for the first field of a dataclass that does not have the type it is annotated with."""
    for name, hint in typing.get_type_hints(type(instance)).items():
        if not _fits(getattr(instance, name), hint):
            kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")
            raise ValueError(f"{name} must be {kind}, got {getattr(instance, name)!r}")


def _parse_pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition(":")
    return key.strip(), _parse(value.strip())


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type; a whole number is a float, too."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
        return True
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, choice) for choice in arguments)
    if kind is Mapping:
        return isinstance(value, Mapping) and all(_fits(item, arguments[1]) for item in value.values())
    if kind is Sequence:
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
