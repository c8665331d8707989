"""Data sets of videos as their makers hand them out: lists of labels beside folders of files.

    Something-Something V2   labels.json, train.json, validation.json; the videos ID.webm
    Moments in Time          trainingSet.csv, validationSet.csv, moments_categories.txt; training/, validation/
    Kinetics                 train.csv, val.csv, test.csv of youtube_id, time_start, time_end; ID_000010_000020.mp4

A folder is known by its lists, which may lie in a folder `labels` or `annotations` of it. Where they name a video by an
identifier it may lie anywhere in the folder, and have any ending of a video. Videos that are listed and not there are
counted in a warning: of Kinetics nobody has all.
"""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_video
from unidual_zoo.names import tidy

PLACES = ("", "labels", "annotations")  # of the lists
SSV2_PREFIXES = ("", "something-something-v2-")  # of the lists' names, in the present hand-out and the first
LABELS, CATEGORIES = "labels.json", "moments_categories.txt"
MOMENTS = {"train": ("trainingSet.csv", "training"), "validation": ("validationSet.csv", "validation")}
KINETICS = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_BRACKETS = re.compile(r"[\[\]]")


class Labelled(NamedTuple):
    """The files of a split with their labels, and all classes in the order of the data set's own numbers."""

    rows: list[tuple[str, str]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A folder with the files of a data set: the list of each split, and what reads one."""

    name: str
    folder: Path
    lists: Mapping[str, Path]
    reader: Callable[[Path, str, Path], Labelled]

    def read(self, split: str | None) -> Labelled:
        """The files of a split that are there.

        Raises:
            ValueError: there is no such split, its list is not what it should be, or none of its videos is there.
        """
        if split is None or split not in self.lists:
            asked = "say which split is meant" if split is None else f"no split {split!r}"
            raise ValueError(f"{self.folder} is {self.name}: {asked}, there is: {', '.join(self.lists)}")
        return self.reader(self.folder, split, self.lists[split])


def find_layout(folder: Path) -> Layout | None:
    """The layout whose lists lie in a folder, None for a folder without any."""
    for name, (find, reader) in LAYOUTS.items():
        for place in PLACES:
            if lists := find(folder / place):
                return Layout(name, folder, lists, reader)
    return None


# ---- Something-Something V2 -----------------------------------------------------------------------------------------


def _ssv2_lists(place: Path) -> dict[str, Path]:
    for prefix in SSV2_PREFIXES:
        lists = {split: place / f"{prefix}{split}.json" for split in ("train", "validation")}
        if (place / f"{prefix}{LABELS}").is_file():
            return {
                split: path for split, path in lists.items() if path.is_file() and not path.with_suffix("").is_dir()
            }
    return {}


def _read_ssv2(folder: Path, split: str, path: Path) -> Labelled:
    """A template `Holding [something]` is the class `Holding something`."""
    labels = path.with_name(path.name.removesuffix(f"{split}.json") + LABELS)
    numbers, entries = _json(labels, dict), _json(path, list)
    try:
        classes = tuple(map(tidy, sorted(numbers, key=lambda label: int(numbers[label]))))
        listed = [(str(entry["id"]), tidy(_BRACKETS.sub("", entry["template"]))) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: needs an id and a template each, {labels.name} a number: {error!r}") from None
    return Labelled(_there(path, listed, _by_stem(folder)), classes)


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: needs a {kind.__name__}, got a {type(found).__name__}")
    return found


# ---- Moments in Time ------------------------------------------------------------------------------------------------


def _moments_lists(place: Path) -> dict[str, Path]:
    lists = {split: place / name for split, (name, _) in MOMENTS.items()}
    return {split: path for split, path in lists.items() if path.is_file()}


def _read_moments(folder: Path, split: str, path: Path) -> Labelled:
    """Rows `class/file.mp4,label,…` without a header; the categories `label,number`, if they are there."""
    listed = [(row[0], tidy(row[1])) for row in _csv(path, least=2)]
    categories = path.with_name(CATEGORIES)
    classes = sorted({label for _, label in listed})
    if categories.is_file():
        rows = _csv(categories, least=2)
        if wrong := [row for row in rows if not row[-1].strip().isdecimal()]:
            raise ValueError(f"{categories}: needs label,number, got {','.join(wrong[0])!r}")
        classes = [tidy(row[0]) for row in sorted(rows, key=lambda row: int(row[-1]))]
    videos = folder / MOMENTS[split][1]
    files = {file.replace(os.sep, "/"): str(videos / file) for file in files_below(videos).files}
    return Labelled(_there(path, listed, files), tuple(classes))


# ---- Kinetics -------------------------------------------------------------------------------------------------------


def _kinetics_lists(place: Path) -> dict[str, Path]:
    found = {split: [place / name for name in names if _is_kinetics(place / name)] for split, names in KINETICS.items()}
    return {split: paths[0] for split, paths in found.items() if paths}


def _is_kinetics(path: Path) -> bool:
    """Whether a list has the columns of Kinetics'; one without labels is of no use."""
    if not path.is_file():
        return False
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return set(KINETICS_COLUMNS) <= set(next(csv.reader([file.readline()]), []))


def _read_kinetics(folder: Path, split: str, path: Path) -> Labelled:
    header, *rows = _csv(path)
    columns = [header.index(name) for name in KINETICS_COLUMNS]
    listed = []
    for row in rows:
        try:
            label, name, start, end = (row[column] for column in columns)
            listed.append((f"{name}_{int(start):06d}_{int(end):06d}", tidy(label)))
        except (IndexError, ValueError):
            raise ValueError(f"{path}: a row must give {','.join(header)}, got {','.join(row)!r}") from None
    return Labelled(_there(path, listed, _by_stem(folder)), tuple(sorted({label for _, label in listed})))


# ---- what they share ------------------------------------------------------------------------------------------------


def _csv(path: Path, *, least: int = 1) -> list[list[str]]:
    """The rows of a list, each with `least` columns or more."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if short := [row for row in rows if len(row) < least]:
        raise ValueError(f"{path}: a row must have {least} columns or more, got {','.join(short[0])!r}")
    return rows


def _by_stem(folder: Path) -> dict[str, str]:
    """The videos in a folder and all below it by their names without the ending."""
    return {Path(file).stem: str(folder / file) for file in filter(is_video, files_below(folder).files)}


def _there(path: Path, listed: Iterable[tuple[str, str]], files: Mapping[str, str]) -> list[tuple[str, str]]:
    """(file, label) of the listed (name, label) whose file is there; warns of how many are not."""
    listed = list(listed)
    rows = [(files[name], label) for name, label in listed if name in files]
    missing = (name for name, _ in listed if name not in files)
    if not rows:
        raise ValueError(f"{path}: none of its {len(listed):,} videos is there{_such_as(missing)}")
    if len(rows) < len(listed):
        lost = len(listed) - len(rows)
        warnings.warn(f"{path}: {lost:,} of its {len(listed):,} videos are not there{_such_as(missing)}", stacklevel=2)
    return rows


def _such_as(missing: Iterator[str]) -> str:
    first = next(missing, None)
    return f", such as {first}" if first else ""


LAYOUTS: Mapping[str, tuple[Callable[[Path], dict[str, Path]], Callable[[Path, str, Path], Labelled]]] = {
    "Something-Something V2": (_ssv2_lists, _read_ssv2),
    "Moments in Time": (_moments_lists, _read_moments),
    "Kinetics": (_kinetics_lists, _read_kinetics),
}
