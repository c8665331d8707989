"""Settings as text, `name=value`, and what pydantic finds wrong with their values as one sentence.

A group of settings is a pydantic dataclass with the configuration STRICT, whose fields have descriptions. Its JSON
schema says what a setting may be; a type that needs other words than its own has them `in_words`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from unidual_zoo.checks import check_known

# No number for a text, no infinity, no unknown name; a whole number is a number, too.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
_TYPES = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text", "null": "null",
    "object": "pairs such as a:1,b:2", "array": "a list such as [1,2]",
}  # fmt: skip
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_WORDS = "words"
Group = TypeVar("Group")
Schema = Mapping[str, Any]


class Setting(NamedTuple):
    """What a reader needs to know of a setting; `example` is a value as the command line takes it."""

    name: str
    meaning: str
    allowed: str
    value: Any
    example: str | None


def in_words(words: str) -> Any:
    """What a type allows, where its JSON schema has no good words."""
    return Field(json_schema_extra={_WORDS: words})


def described(group: Any) -> list[Setting]:
    """The settings of a group, with the values that it has."""
    schemas = _schemas(type(group))
    return [
        Setting(
            name,
            schema["description"],
            _allowed(schema),
            getattr(group, name),
            next(iter(schema.get("examples", ())), None),
        )
        for name, schema in schemas.items()
    ]


def parse_settings(
    settings: Sequence[str], groups: Sequence[type], *, renamed: Mapping[str, str], listed: str = ""
) -> dict[str, Any]:
    """`["lr=0.1", "tasks=in1k:image", "crop=[64,64]"]` -> `{"lr": 0.1, "tasks": {"in1k": "image"}, ...}`.

    A value is JSON, a plain text or, where the setting is a mapping, `key:value,key:value`. Names that settings once
    had, and have no more, are `renamed`; `listed` says where all are explained.

    Raises:
        ValueError: no `=`, or no group has such a setting; it names the nearest one.
    """
    known = {name: schema for group in groups for name, schema in _schemas(group).items()}
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting is name=value, got {setting!r}")
        name = renamed.get(name, name)
        check_known("setting", name, known, listed=listed)
        pairs = "object" in _types(known[name]) and ":" in text and not text.startswith("{")
        values[name] = dict(map(_parse_pair, text.split(","))) if pairs else _parse(text)
    return values


def replace_settings(group: Group, values: Mapping[str, Any]) -> Group:
    """The group with other values of some settings.

    Raises:
        ValueError: a value is not allowed; it says what is.
    """
    try:
        return dataclasses.replace(group, **values)  # type: ignore[type-var]  # pydantic's dataclasses are dataclasses
    except ValidationError as error:
        raise ValueError(_sentence(error, _schemas(type(group)), values)) from None


def _sentence(error: ValidationError, schemas: Mapping[str, Schema], values: Mapping[str, Any]) -> str:
    """What is wrong with the first setting that is."""
    first = error.errors()[0]
    if cause := first.get("ctx", {}).get("error"):  # of a check of the group's own
        return str(cause)
    name = str(first["loc"][0])
    schema, value = schemas[name], values[name]
    if "enum" in schema and isinstance(value, str):
        try:
            check_known(name, value, schema["enum"])
        except ValueError as unknown:
            return str(unknown)
    return f"{name} must be {_allowed(schema)}, got {value!r}"


def _allowed(schema: Schema) -> str:
    """What a setting may be, in words."""
    if _WORDS in schema:
        return schema[_WORDS]
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " or ".join(schema["enum"])
    bounds = [f"{word} {schema[bound]:g}" for bound, word in _BOUNDS.items() if bound in schema]
    return " ".join([_TYPES[schema["type"]], *bounds])


def _types(schema: Schema) -> set[str]:
    """The JSON types that a setting may have."""
    return {part.get("type", "") for part in (schema, *schema.get("anyOf", ()))}


@functools.cache
def _schemas(group: type) -> dict[str, Schema]:
    """The JSON schema of each setting of a group."""
    return TypeAdapter(group).json_schema()["properties"]


def _parse_pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition(":")
    return key.strip(), _parse(value.strip())


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
