"""Moments in Time: trainingSet.csv, validationSet.csv and moments_categories.txt; the folders training, validation."""

from __future__ import annotations

import os
from pathlib import Path

from unidual_zoo.data.layouts.reading import PLACES, Format, Labelled, Row, csv_rows, there
from unidual_zoo.data.listing import files_below
from unidual_zoo.names import tidy

CATEGORIES = "moments_categories.txt"
SPLITS = {"train": ("trainingSet.csv", "training"), "validation": ("validationSet.csv", "validation")}


def find(place: Path) -> dict[str, Path]:
    """The list of each split in a folder."""
    lists = {split: place / name for split, (name, _) in SPLITS.items()}
    return {split: path for split, path in lists.items() if path.is_file()}


def read(folder: Path, split: str, path: Path) -> Labelled:
    """Rows `class/file.mp4,label,…` without a header; the categories `label,number`, if they are there."""
    listed = [Row(row[0], tidy(row[1])) for row in csv_rows(path, least=2)]
    categories = path.with_name(CATEGORIES)
    classes = sorted({row.label for row in listed})
    if categories.is_file():
        rows = csv_rows(categories, least=2)
        if wrong := [row for row in rows if not row[-1].strip().isdecimal()]:
            raise ValueError(f"{categories}: needs label,number, got {','.join(wrong[0])!r}")
        classes = [tidy(row[0]) for row in sorted(rows, key=lambda row: int(row[-1]))]
    videos = folder / SPLITS[split][1]
    files = {file.replace(os.sep, "/"): str(videos / file) for file in files_below(videos).files}
    return there(path, listed, files, classes=classes)


FORMAT = Format("Moments in Time", find, read, PLACES, needs="there is no trainingSet.csv and no validationSet.csv")
