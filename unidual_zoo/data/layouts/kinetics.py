"""Kinetics-400, -600 and -700: lists of label, youtube_id, time_start and time_end; the videos ID_000010_000020.mp4.

The videos lie in class folders, in one folder of a split, or anywhere else in the folder: their names are unique. Of
many hand-outs nothing is left but the class folders, in whose names blanks have become underscores: these are read
where the layout is named.
"""

from __future__ import annotations

from pathlib import Path

from unidual_zoo.data.layouts.reading import (
    PLACES,
    Format,
    Labelled,
    Row,
    by_stem,
    check_columns,
    class_rows,
    csv_header,
    csv_rows,
    there,
)
from unidual_zoo.data.media import is_video
from unidual_zoo.names import tidy

LISTS = {"train": ("train.csv",), "val": ("val.csv", "validate.csv"), "test": ("test.csv",)}
FOLDERS = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def find(place: Path) -> dict[str, Path]:
    """The list of each split in a folder; one without labels, as that of the test videos may be, is of no use."""
    found = {
        split: [place / name for name in names if set(COLUMNS) <= set(csv_header(place / name))]
        for split, names in LISTS.items()
    }
    return {split: paths[0] for split, paths in found.items() if paths}


def find_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split, where there are no lists."""
    found = {split: [folder / name for name in names if (folder / name).is_dir()] for split, names in FOLDERS.items()}
    return {split: paths[0] for split, paths in found.items() if paths}


def read(folder: Path, split: str, path: Path) -> Labelled:
    """The videos of a list, or those of a folder of class folders."""
    return _read_folders(path) if path.is_dir() else _read_list(folder, path)


def _read_list(folder: Path, path: Path) -> Labelled:
    header, *rows = csv_rows(path)
    check_columns(path, header, COLUMNS)
    columns = [header.index(name) for name in COLUMNS]
    listed = []
    for row in rows:
        try:
            label, name, start, end = (row[column] for column in columns)
            listed.append(Row(f"{name}_{int(start):06d}_{int(end):06d}", tidy(label)))
        except (IndexError, ValueError):
            raise ValueError(f"{path}: a row must give {','.join(header)}, got {','.join(row)!r}") from None
    return there(path, listed, by_stem(folder), classes=sorted({row.label for row in listed}))


def _read_folders(folder: Path) -> Labelled:
    rows = [row._replace(label=tidy(row.label.replace("_", " "))) for row in class_rows(folder, is_video)]
    if not rows:
        raise ValueError(f"{folder}: there is no video in class folders")
    return Labelled(rows, tuple(sorted({row.label for row in rows})))


FORMAT = Format(
    "Kinetics", find, read, PLACES, find_folders, needs=f"there is no train.csv or val.csv of {','.join(COLUMNS)}, "
    "and no folder train or val"
)  # fmt: skip
