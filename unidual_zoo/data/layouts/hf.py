"""Hugging Face `datasets`: folders of images or videos with metadata, and Parquet files with the files in them.

    train/metadata.csv, .jsonl             file_name, relative to the folder of the metadata, and label
    data/train-00000-of-00002.parquet      a column of Image or Video (bytes, path), and one of labels

A label is a text, or a number whose name the file's own features give; a list of them are several labels.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from unidual_zoo.data.layouts.reading import Format, Labelled, Place, Row, check_columns, csv_header, there
from unidual_zoo.data.parquet import Table, UnreadableTable, is_table
from unidual_zoo.names import counted, tidy

METADATA = ("metadata.csv", "metadata.jsonl")
SPLITS = ("", "train", "validation", "val", "valid", "dev", "test")  # folders with metadata of their own
FILE, LABEL = "file_name", "label"
_PARQUET = re.compile(r"(?P<split>\w+?)(-\d+-of-\d+.*)?\.parquet")


def find(folder: Path, *, named: bool = False) -> dict[str, Place]:
    """The metadata or the folder of Parquet files of each split; "" is the split of a folder without any.

    Raises:
        ValueError, RuntimeError: see `_tables`.
    """
    metadata = {name: _metadata(folder / name) for name in SPLITS}
    found: dict[str, Place] = {split: path for split, path in metadata.items() if path is not None}
    return found or dict.fromkeys(_tables(folder, named=named), folder)


def read(folder: Path, split: str, path: Path) -> Labelled:
    """The files of a split."""
    if path.is_dir():
        return _read_tables(_tables(folder, named=True)[split])
    if path.suffix == ".csv":
        check_columns(path, csv_header(path), (FILE, LABEL))
    found = list(_metadata_rows(path))
    if longer := [number for number, row in enumerate(found, 1) if None in row]:  # where csv puts what is too much
        raise ValueError(f"{path}, row {longer[0]}: it has more columns than the header names")
    rows = [(row.get(FILE), row.get(LABEL)) for row in found]
    if wrong := [name for name, label in rows if not name or label in (None, "", [])]:
        raise ValueError(f"{path}: every row needs {FILE} and {LABEL}, {wrong[0] or 'one'} has not both")
    listed = [_row(f"{path}, row {number}", name, label) for number, (name, label) in enumerate(rows, 1)]
    places = {row.file: os.path.join(path.parent, row.file) for row in listed}
    files = {name: place for name, place in places.items() if os.path.isfile(place)}
    return there(path, listed, files, classes=_classes(listed), what="file")


def _metadata(folder: Path) -> Path | None:
    return next((path for name in METADATA if (path := folder / name).is_file() and _names_files(path)), None)


def _names_files(path: Path) -> bool:
    try:
        return FILE in next(_metadata_rows(path), {})
    except ValueError:  # other people's metadata
        return False


def _metadata_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, filter(str.strip, file))
            for number, row in enumerate(rows, 1):
                if not isinstance(row, dict):
                    raise TypeError(f"row {number} is no object")
                yield row
    except (csv.Error, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not {path.suffix[1:].upper()} in UTF-8 ({error})") from None


def _row(where: str, file: Any, label: Any) -> Row:
    if not isinstance(file, str):
        raise ValueError(f"{where}: {FILE} must be a text, got {file!r:.80}")
    labels = label if isinstance(label, list) else [label]
    names = list(dict.fromkeys(tidy(str(name)) for name in labels if _is_label(name)))
    if not labels or not all(map(_is_label, labels)) or not all(names):
        raise ValueError(f"{where}: a label must be a text or a number, or a list of them, got {label!r:.80}")
    return Row(file, names[0], others=tuple(names[1:]))


def _is_label(label: Any) -> bool:
    return isinstance(label, str | int) or (isinstance(label, float) and math.isfinite(label))


def _classes(rows: Iterable[Row]) -> list[str]:
    return sorted({name for row in rows for name in (row.label, *row.others)})


def _tables(folder: Path, *, named: bool) -> dict[str, list[Path]]:
    """The Parquet files of each split, in a folder or in its folder `data`.

    Raises:
        ValueError: the metadata of one are wrong, or it cannot be read.
        RuntimeError: what reads them is not installed.

    One that cannot be read is no more than a warning where nothing says that it is of a data set of this layout,
    neither that the layout is `named` nor another one beside it.
    """
    for place in (folder / "data", folder):
        found: dict[str, list[Path]] = {}
        errors: list[Exception] = []
        for path in sorted(place.glob("*.parquet")):
            try:
                if (match := _PARQUET.fullmatch(path.name)) and path.is_file() and is_table(path):
                    found.setdefault(match["split"], []).append(path)
            except (RuntimeError, UnreadableTable) as error:  # RuntimeError: what reads it is not installed
                errors.append(error)
        if errors and (named or found):
            raise errors[0]
        if errors:
            warnings.warn(f"{place}: Parquet files that cannot be read are left out: {errors[0]}", stacklevel=2)
        if found:
            return found
    return {}


def _read_tables(paths: list[Path]) -> Labelled:
    tables = [Table(path) for path in paths]
    names = tables[0].class_names
    if other := next((table for table in tables if table.class_names != names), None):
        raise ValueError(f"{other.path}: its features name other classes than those of {tables[0].path}")
    listed = [(table.path, number, *row) for table in tables for number, row in enumerate(table.rows())]
    rows = [
        _row(where := f"{path}, row {number} from 0", file, _named(where, label, names))
        for path, number, file, label in listed
        if file is not None
    ]
    missing = len(listed) - len(rows)
    first = next((f", such as row {number} from 0 of {path}" for path, number, file, _ in listed if file is None), "")
    if not rows:
        raise ValueError(
            f"{tables[0].path}: there is no image or video in any of the {counted(len(listed), 'row')} of its split"
        )
    if missing:
        of = f"{missing:,} of the {counted(len(listed), 'row')} of its split"
        warnings.warn(f"{tables[0].path}: {of} hold no image or video{first}", stacklevel=2)
    return Labelled(rows, tuple(map(tidy, names)) if names else tuple(_classes(rows)), missing)


def _named(where: str, label: Any, names: list[str] | None) -> Any:
    """The label, or each of a list, by name."""
    if names is None or label is None:
        return label
    if isinstance(label, list):
        return [_named(where, number, names) for number in label]
    if not isinstance(label, int) or not 0 <= label < len(names):  # Hugging Face's -1: it has none
        raise ValueError(f"{where}: label {label!r:.80} is none of the {len(names)} that its features name")
    return names[label]


FORMAT = Format(
    "Hugging Face's", find, read, find_named=partial(find, named=True),
    needs=f"there is no {' or '.join(METADATA)} with {FILE}, and no Parquet file of media",
)  # fmt: skip
