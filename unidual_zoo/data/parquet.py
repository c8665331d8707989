"""Images and videos in Parquet files as Hugging Face `datasets` writes them, addressed like files: `x.parquet/17.png`.

A file is a row group's worth of reading away, of which the last one read is kept: good for reading in order, as an
evaluation does. To train on many rows, `unidual pack` makes shards of them first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from unidual_zoo.data.media import MediaError, PathLike, file_boundary, is_media
from unidual_zoo.extras import require
from unidual_zoo.names import counted

SUFFIX = ".parquet"
EXTENSIONS = {"Image": ".png", "Video": ".mp4"}  # of rows whose path says none
LABELS = ("label", "labels")  # columns, where the features name none


def is_in_table(path: PathLike) -> bool:
    """Whether the path is that of a row of a Parquet file."""
    return os.path.dirname(os.fspath(path)).endswith(SUFFIX)


def is_table(path: Path) -> bool:
    """Whether a Parquet file holds images or videos."""
    return Table(path).media is not None


class UnreadableTable(ValueError):
    """A file that is no Parquet, whatever it is called."""


class Table:
    """A Parquet file: its column of media, that of labels, and the names of the labels, if its features give them.

    `untyped`: the column of media has no type, because there is nothing in any of its rows.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)
        try:
            with _open(self.path) as file:
                schema, self.starts = file.schema_arrow, _starts(file.metadata)
        except (OSError, ValueError) as error:
            raise UnreadableTable(f"{self.path}: no Parquet file that can be read ({error})") from None
        types = dict(zip(schema.names, schema.types, strict=True))
        embedded = [name for name in types if _holds_files(types[name])]
        nothing = [name for name in types if _is_null(types[name])]
        metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
        told = _features(metadata, self.path) if embedded or nothing else {}
        embedded += [name for name in nothing if _kind(told.get(name)) in EXTENSIONS]
        self.media = next(iter(embedded), None)
        self.untyped = self.media in nothing or (
            self.media is not None and _is_null(types[self.media].field("bytes").type)
        )
        features = {name: told.get(name) for name in types if self.media is not None}
        self.extension = EXTENSIONS["Video" if _kind(features.get(self.media or "")) == "Video" else "Image"]
        labels = [name for name, feature in features.items() if _class_label(feature)]
        labels += [name for name in LABELS if name in schema.names]
        self.label = next(iter(labels), None)
        if twice := [name for name in (self.media, self.label) if self.media and schema.names.count(name) > 1]:
            raise ValueError(f"{self.path}: it has the column {twice[0]!r} more than once")
        feature = _class_label(features.get(self.label or ""))
        self.class_names: list[str] | None = feature.get("names") if feature else None
        if not (self.class_names is None or _are_names(self.class_names)):
            raise ValueError(f"{self.path}: the names of classes in its features must be texts that differ")

    def rows(self) -> Iterator[tuple[str | None, Any]]:
        """(path, label) of each row; no path of one in which there is nothing, as far as that shows unread.

        Raises:
            ValueError: there is no column of labels.
        """
        if self.label is None:
            raise ValueError(f"{self.path}: no column of labels, which the features or the name {LABELS[0]} tell")
        with _open(self.path) as file:
            columns = file.read([self.label] if self.untyped else [self.label, f"{self.media}.path"])
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        labels = columns[self.label].to_pylist()
        if self.untyped:
            yield from ((None, label) for label in labels)
            return
        held = [holds for group in groups for holds in [not _is_empty(group, f"{self.media}.bytes")] * group.num_rows]
        entries = columns[self.media].to_pylist()
        for number, (entry, label, holds) in enumerate(zip(entries, labels, held, strict=True)):
            yield self._address(number, entry["path"]) if entry is not None and holds else None, label

    def _address(self, number: int, path: str | None) -> str:
        extension = os.path.splitext(path or "")[1]
        return f"{self.path}/{number:06d}{extension if is_media(f'x{extension}') else self.extension}"


def read_row(path: PathLike) -> bytes:
    """The bytes of the file in a row.

    Raises:
        MediaError: the Parquet file cannot be read, or has no such row, or nothing is in it.
    """
    source, name = os.path.split(os.fspath(path))
    number = os.path.splitext(name)[0]
    with file_boundary(path):
        table = _table(source)
        if not number.isdecimal() or int(number) >= table.starts[-1]:
            raise MediaError(path, f"the Parquet file has {counted(table.starts[-1], 'row')}")
        group = next(i for i, start in enumerate(table.starts[1:]) if int(number) < start)
        data = _group(source, group, str(table.media))[int(number) - table.starts[group]].as_py()
        if not data:
            raise MediaError(path, "the row holds no bytes of a file")
        return data


@lru_cache(maxsize=64)
def _table(path: str) -> Table:
    return Table(path)


@lru_cache(maxsize=1)
def _group(path: str, group: int, column: str) -> Any:
    with _open(path) as file:
        return file.read_row_group(group, [f"{column}.bytes"])[column].combine_chunks().field("bytes")


def _open(path: str) -> Any:
    return require("pyarrow.parquet", "scale").ParquetFile(path)


def _starts(metadata: Any) -> list[int]:
    """The number of the first row of each row group, and that of all rows."""
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


def _holds_files(kind: Any) -> bool:
    types = require("pyarrow", "scale").types
    fields = {field.name: field.type for field in kind} if types.is_struct(kind) else {}
    kinds = (types.is_binary, types.is_large_binary, types.is_null)  # the last where all are
    return set(fields) == {"bytes", "path"} and any(kind(fields["bytes"]) for kind in kinds)


def _is_null(kind: Any) -> bool:
    return require("pyarrow", "scale").types.is_null(kind)


def _is_empty(group: Any, column: str) -> bool:
    """Whether the statistics of a row group say that nothing is in the column."""
    found = (group.column(number) for number in range(group.num_columns))
    told = next((about.statistics for about in found if about.path_in_schema == column), None)
    return told is not None and told.has_null_count and told.null_count == group.num_rows


def _kind(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _features(metadata: bytes, path: str) -> dict[str, Any]:
    """What Hugging Face's metadata say of each column; nothing where they say nothing."""
    try:
        told = json.loads(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: its metadata of Hugging Face are no JSON ({error})") from None
    for key in ("info", "features"):
        told = told.get(key, {}) if isinstance(told, dict) else None
    if not isinstance(told, dict):
        raise ValueError(f"{path}: its metadata of Hugging Face must be an object with info and features")
    return told


def _are_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found) and len(set(found)) == len(found)


def _class_label(feature: Any) -> dict[str, Any] | None:
    """The feature ClassLabel, alone or in a list."""
    inner = feature[0] if isinstance(feature, list) and feature else (feature or {})
    inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
    return inner if inner.get("_type") == "ClassLabel" else None
