"""What the readers of layouts share: their rows, lists in CSV, and which of the listed files are there."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import PathLike, is_video
from unidual_zoo.names import counted, tidy

PLACES = ("", "labels", "annotations")  # of the lists
Place = Path | str  # a folder, or an address
Lists = Mapping[str, Place]  # of each split


class Row(NamedTuple):
    """A file, its class name, the name of its group or "", and the names of further classes that it also is of."""

    file: str
    label: str
    group: str = ""
    others: tuple[str, ...] = ()


class Labelled(NamedTuple):
    """The files of a split, all classes in the order of the data set's own numbers, and how many files are missing."""

    rows: list[Row]
    classes: tuple[str, ...]
    missing: int = 0


@dataclass(frozen=True)
class Format:
    """A layout: what finds the lists of each split in one of its `places`, and what reads one.

    `find_named` does so where the layout is named, if that makes a difference; `needs` says what a folder lacks that
    has none.
    """

    title: str
    find: Callable[[Any], Lists]
    read: Callable[[Any, str, Any], Labelled]  # folder, split, its list
    places: tuple[str, ...] = ("",)
    find_named: Callable[[Any], Lists] | None = None
    needs: str = ""

    def lists(self, folder: Place, *, named: bool = False) -> Lists:
        """The list of each split in a folder, empty for one of another layout."""
        places = [folder] if isinstance(folder, str) else [folder / place for place in self.places]
        find = self.find_named if named and self.find_named is not None else self.find
        return next(filter(None, map(find, places)), {})


@dataclass(frozen=True)
class Layout:
    """A folder with the files of a data set, the list of each split, and the format of both."""

    format: Format
    folder: Place
    lists: Lists

    def read(self, split: str | None) -> Labelled:
        """The files of a split that are there; without one those of a set that has no splits, whose one list is "".

        Raises:
            ValueError: there is no such split, its list is not what it should be, or none of its files is there.
        """
        if (split or "") not in self.lists:
            asked = "say which split is meant" if split is None else f"no split {split!r}"
            there = ", ".join(self.splits()) or "no split"
            raise ValueError(f"{self.folder} is {self.format.title}: {asked}, there is: {there}")
        return self.format.read(self.folder, split or "", self.lists[split or ""])

    def splits(self) -> list[str]:
        """The names of the splits."""
        return [name for name in self.lists if name]


def there(
    path: Place, listed: Iterable[Row], files: Mapping[str, str], *, classes: Iterable[str], what: str = "video"
) -> Labelled:
    """The listed rows, whose `file` is a name, with the file of that name; warns of how many are not there.

    Raises:
        ValueError: none of them is, one has no label, or there are no rows or classes.
    """
    listed, classes = list(listed), tuple(classes)
    if not listed:
        raise ValueError(f"{path}: it lists no {what}s")
    if nameless := [row.file for row in listed if not row.label]:
        raise ValueError(f"{path}: {nameless[0]!r:.200} has no label")
    if not classes:
        raise ValueError(f"{path}: no classes are listed beside its {counted(len(listed), what)}")
    rows = [row._replace(file=files[row.file]) for row in listed if row.file in files]
    first = next((f", such as {row.file:.200}" for row in listed if row.file not in files), "")
    missing = len(listed) - len(rows)
    if not rows:
        raise ValueError(f"{path}: none of its {counted(len(listed), what)} is there{first}")
    if missing:
        warnings.warn(f"{path}: {missing:,} of its {counted(len(listed), what)} are not there{first}", stacklevel=2)
    return Labelled(rows, classes, missing)


def csv_rows(path: Path, *, least: int = 1) -> list[list[str]]:
    """The rows of a list, each with `least` columns or more."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if short := [row for row in rows if len(row) < least]:
        raise ValueError(f"{path}: a row must have {least} columns or more, got {','.join(short[0])!r}")
    return rows


def csv_header(path: Path) -> list[str]:
    """The names of the columns of a list; none where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader([file.readline()]), [])


def check_columns(path: PathLike, header: Sequence[str], names: Iterable[str]) -> None:
    """Raises a ValueError if a header has one of the columns of these names twice: which is meant nobody knows."""
    if twice := [name for name in names if header.count(name) > 1]:
        raise ValueError(f"{path}: its header {','.join(header)} names the column {twice[0]!r} more than once")


def json_file(path: Path, kind: type) -> Any:
    """What a JSON file holds, which must be of that kind."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, kind):
        raise ValueError(f"{path}: needs a {kind.__name__}, got a {type(found).__name__}")
    return found


def text_lines(path: Path) -> list[str]:
    """The lines of a text that are not empty, without blanks around them."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from None


def by_stem(folder: Path) -> dict[str, str]:
    """The videos in a folder and all below it by their names without the ending."""
    return {Path(file).stem: str(folder / file) for file in filter(is_video, files_below(folder).files)}


def by_folder(folder: Path) -> dict[str, str]:
    """The videos in a folder and all below it by their last folder and their name, `class/file.avi`."""
    files = filter(is_video, files_below(folder).files)
    return {"/".join(Path(file).parts[-2:]): str(folder / file) for file in files}


def class_rows(folder: Path, belongs: Callable[[str], bool], names: Mapping[str, str] | None = None) -> list[Row]:
    """The files of `folder`/class/file, with the tidy name of the folder or its name in `names` as their class."""
    found = ((*file.split(os.sep, 1), file) for file in files_below(folder).files if os.sep in file and belongs(file))
    return [Row(str(folder / file), names[name] if names else tidy(name)) for name, _, file in found]
