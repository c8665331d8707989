"""Something-Something V2: labels.json, train.json and validation.json of templates; the videos ID.webm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unidual_zoo.data.layouts.reading import PLACES, Format, Labelled, Row, by_stem, json_file, there
from unidual_zoo.names import tidy

PREFIXES = ("", "something-something-v2-")  # of the lists' names, in the present hand-out and the first
LABELS = "labels.json"
_BRACKETS = re.compile(r"[\[\]]")


def find(place: Path) -> dict[str, Path]:
    """The list of each split in a folder."""
    for prefix in PREFIXES:
        lists = {split: place / f"{prefix}{split}.json" for split in ("train", "validation")}
        if (place / f"{prefix}{LABELS}").is_file():
            return {
                split: path for split, path in lists.items() if path.is_file() and not path.with_suffix("").is_dir()
            }
    return {}


def read(folder: Path, split: str, path: Path) -> Labelled:
    """A template `Holding [something]` is the class `Holding something`."""
    labels = path.with_name(path.name.removesuffix(f"{split}.json") + LABELS)
    numbers, entries = json_file(labels, dict), json_file(path, list)
    if wrong := [label for label in numbers if not str(numbers[label]).isdecimal()]:
        raise ValueError(f"{labels}: {wrong[0]!r:.80} needs a number, got {numbers[wrong[0]]!r:.80}")
    if strange := [entry for entry in entries if not _is_entry(entry)]:
        raise ValueError(f"{path}: an entry needs an id and a template, got {strange[0]!r:.80}")
    classes = tuple(map(tidy, sorted(numbers, key=lambda label: int(numbers[label]))))
    listed = [Row(str(entry["id"]), tidy(_BRACKETS.sub("", entry["template"]))) for entry in entries]
    return there(path, listed, by_stem(folder), classes=classes)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str | int) and isinstance(entry.get("template"), str)


FORMAT = Format("Something-Something V2", find, read, PLACES, needs=f"there are no {LABELS} and train.json")
