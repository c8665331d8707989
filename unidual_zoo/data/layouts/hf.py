"""Hugging Face `datasets`: folders of images or videos with metadata, and Parquet files with the files in them.

    train/metadata.csv, .jsonl             file_name, relative to the folder of the metadata, and label
    data/train-00000-of-00002.parquet      a column of Image or Video (bytes, path), and one of labels

A label is a text, or a number whose name the file's own features give; a list of them are several labels.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unidual_zoo.data.layouts.reading import Format, Labelled, Place, Row, there
from unidual_zoo.data.parquet import Table, is_table
from unidual_zoo.names import tidy

METADATA = ("metadata.csv", "metadata.jsonl")
SPLITS = ("", "train", "validation", "val", "valid", "dev", "test")  # folders with metadata of their own
FILE, LABEL = "file_name", "label"
_PARQUET = re.compile(r"(?P<split>\w+?)(-\d+-of-\d+.*)?\.parquet")


def find(folder: Path) -> dict[str, Place]:
    """The metadata or the folder of Parquet files of each split; "" is the split of a folder without any."""
    metadata = {name: _metadata(folder / name) for name in SPLITS}
    found: dict[str, Place] = {split: path for split, path in metadata.items() if path is not None}
    return found or dict.fromkeys(_tables(folder), folder)


def read(folder: Path, split: str, path: Path) -> Labelled:
    """The files of a split."""
    if path.is_dir():
        return _read_tables(folder, _tables(folder)[split])
    rows = [(str(row.get(FILE) or ""), row.get(LABEL)) for row in _metadata_rows(path)]
    if wrong := [name for name, label in rows if not name or label in (None, "", [])]:
        raise ValueError(f"{path}: every row needs {FILE} and {LABEL}, {wrong[0] or 'one'} has not both")
    listed = [_row(name, label) for name, label in rows]
    files = {name: str(path.parent / name) for name, _ in rows if (path.parent / name).is_file()}
    return there(path, listed, files, classes=_classes(listed), what="files")


def _metadata(folder: Path) -> Path | None:
    return next((path for name in METADATA if (path := folder / name).is_file() and _names_files(path)), None)


def _names_files(path: Path) -> bool:
    try:
        return FILE in next(_metadata_rows(path), {})
    except (ValueError, TypeError):  # other people's metadata
        return False


def _metadata_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield from (
                csv.DictReader(file) if path.suffix == ".csv" else (json.loads(line) for line in file if line.strip())
            )
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{path}: not {path.suffix[1:].upper()} in UTF-8 ({error})") from None


def _row(file: str, label: Any) -> Row:
    names = list(dict.fromkeys(tidy(str(name)) for name in (label if isinstance(label, list) else [label])))
    return Row(file, names[0], others=tuple(names[1:]))


def _classes(rows: Iterable[Row]) -> list[str]:
    return sorted({name for row in rows for name in (row.label, *row.others)})


def _tables(folder: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split, in a folder or in its folder `data`."""
    for place in (folder / "data", folder):
        found: dict[str, list[Path]] = {}
        for path in sorted(place.glob("*.parquet")):
            if (match := _PARQUET.fullmatch(path.name)) and is_table(path):
                found.setdefault(match["split"], []).append(path)
        if found:
            return found
    return {}


def _read_tables(folder: Path, paths: list[Path]) -> Labelled:
    rows, names = [], None
    for path in paths:
        table = Table(path)
        names = table.class_names
        for file, label in table.rows():
            rows.append(_row(file, _named(path, label, names)))
    return Labelled(rows, tuple(map(tidy, names)) if names else tuple(_classes(rows)))


def _named(path: Path, label: Any, names: list[str] | None) -> Any:
    if names is None:
        return label
    try:
        return [names[number] for number in label] if isinstance(label, list) else names[label]
    except (IndexError, TypeError):
        raise ValueError(f"{path}: label {label!r} is none of the {len(names)} that its features name") from None


FORMAT = Format(
    "Hugging Face's", find, read, needs=f"there is no {' or '.join(METADATA)} with {FILE}, and no Parquet file of media"
)  # fmt: skip
