"""Labelled files, and single files as tensors ready for a batch."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.checks import check_known
from unidual_zoo.data.decode import open_video, read_clips
from unidual_zoo.data.images import read_image
from unidual_zoo.data.media import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    PathLike,
    files_below,
    is_image,
    is_video,
    warn_of_other_files,
)
from unidual_zoo.data.transforms import Framing, RandomFraming
from unidual_zoo.spec import IMAGE, MODALITIES

PATH, LABEL, SPLIT = "path", "label", "split"  # columns of a list
TRAIN, TESTS = ("train",), ("val", "validation", "test")  # names of splits, the first that is there counts

Clips = Sequence[Sequence[int]]


@dataclass(frozen=True)
class MediaSet:
    """Files of one modality with their labels: `classes[labels[i]]` is the class of `files[i]`."""

    modality: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        check_known("modality", self.modality, MODALITIES)
        if len(self.files) != len(self.labels):
            raise ValueError(f"{len(self.files)} files have {len(self.labels)} labels")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("class names must differ")

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """What tells these files from others, wherever they lie: numbers, and a digest of classes, names and labels."""
        names = ["/".join(Path(file).parts[-2:]) for file in self.files]
        digest = hashlib.sha256(json.dumps([self.classes, names, self.labels]).encode()).hexdigest()
        return f"{len(self.files)} files of {len(self.classes)} classes, {digest[:12]}"


def read_media(
    source: PathLike, *, modality: str, split: str | None = None, classes: Sequence[str] | None = None
) -> MediaSet:
    """A folder `split/class/file` (or `class/file` without a split), or a CSV list `path,label` -> its MediaSet.

    Files in folders within a class folder belong to the class; several folders without a file beside them look like a
    split, and are refused. In a folder with a split, `split.csv` serves as well as a folder `split`. A CSV file may
    begin with a header, which may name further columns; with a column `split` the argument of that name chooses rows.
    Its paths are relative to its own folder, its labels are class names. `classes` fixes which classes there are and
    their order; without it they are those found, sorted. Files are not opened here: a damaged or missing one is found
    when it is read.

    Raises ValueError for a source or split that is not there, for no media of the modality, for a class folder without
    any, for malformed rows, and for labels outside `classes`.
    """
    check_known("modality", modality, MODALITIES)
    source = Path(source)
    if split is not None and source.is_dir() and not (source / split).is_dir() and (source / f"{split}.csv").is_file():
        source, split = source / f"{split}.csv", None
    if source.is_file():
        rows = _csv_rows(source, split)
    elif source.is_dir():
        rows = _folder_rows(_split_folder(source, split), modality)
    else:
        raise ValueError(f"{source}: no such file or folder")
    return _labelled(source, rows, modality, classes)


def find_split(source: PathLike, names: Sequence[str]) -> str | None:
    """The first of the names that is a split of the source as `read_media` reads it, None if none is.

    Raises:
        ValueError: the source is a CSV list that cannot be read.
    """
    there = splits(source)
    return next((name for name in names if name in there), None)


def splits(source: PathLike) -> list[str]:
    """The splits of a folder (a folder or list in it) or of a CSV list (in its column `split`), sorted."""
    source = Path(source)
    if source.is_dir():
        folders = {entry.name for entry in source.iterdir() if entry.is_dir()}
        return sorted(folders | {file.stem for file in source.glob("*.csv")})
    if not source.is_file():
        return []
    return _csv_splits(*_csv_table(source))


def load_image(path: PathLike, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """An image file -> (C, H, W) uint8 as the transform makes it; with several crops (crops, C, H, W)."""
    picture = torch.from_numpy(read_image(path))
    return transform(picture.permute(2, 0, 1))  # (H, W, C) -> (C, H, W)


def load_clips(
    path: PathLike, clips: Clips | Callable[[int, float], Clips], transform: Callable[[Tensor], Tensor]
) -> Tensor:
    """Clips of one video -> (num_clips, C, T, H, W) uint8. The file is opened once and each of its frames decoded once.

    `clips` are lists of frame numbers, all of one length, or a function that makes them of the video's number of frames
    and rate. With several crops the result is (num_clips * crops, C, T, H, W), all crops of a clip together. The
    transform sees each frame once, all of them at once; where it begins with a bilinear resize of its own, the decoder
    scales instead, in the pass that makes RGB. In memory the channels are last, as decoded and as models use them.
    """
    if isinstance(transform, RandomFraming):
        transform = transform.draw()
    size = transform.size if isinstance(transform, Framing) and transform.interpolation == "bilinear" else None
    with open_video(path) as video:
        clips, numbers, pictures = read_clips(video, clips, size=size)
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    if isinstance(transform, Framing):
        crops = transform.views(frames)
    else:
        frames = transform(frames)  # ([crops,] N, C, h, w)
        crops = list(frames) if frames.dim() == 5 else [frames]
    place = {number: i for i, number in enumerate(numbers)}
    channels, height, width = crops[0].shape[1:]
    # numpy's memory, because it comes in huge pages: fresh small ones cost more than what is written to them.
    views = torch.from_numpy(np.empty((len(clips), len(crops), len(clips[0]), height, width, channels), np.uint8))
    for k, clip in enumerate(clips):
        rows = torch.tensor([place[number] for number in clip])
        for c, crop in enumerate(crops):
            torch.index_select(crop.movedim(1, -1), 0, rows, out=views[k, c])  # (N, h, w, C) -> (T, h, w, C)
    return views.flatten(0, 1).movedim(-1, 1)  # (K, crops, T, h, w, C) -> (K * crops, C, T, h, w)


def _split_folder(source: Path, split: str | None) -> Path:
    if split is None:
        return source
    if not (source / split).is_dir():
        there = sorted(entry.name for entry in source.iterdir() if entry.is_dir() or entry.suffix == ".csv")
        raise ValueError(f"{source}: no split {split!r}, there is: {', '.join(there) or 'nothing'}")
    return source / split


def _folder_rows(folder: Path, modality: str) -> list[tuple[str, str]]:
    """(file, class name) of `class/file`, classes and files sorted by name."""
    belongs = is_image if modality == IMAGE else is_video
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    everything = {name: files_below(folder / name) for name in names}
    files = {name: list(filter(belongs, everything[name])) for name in names}
    if not names:
        raise ValueError(f"{folder}: no class folders with {modality} files ({_extensions(modality)})")
    if empty := [name for name in names if not files[name] or _is_split(name, files[name])]:
        hint = "; is it a split?" if any(entry.is_dir() for entry in (folder / empty[0]).iterdir()) else ""
        raise ValueError(f"{folder}: no {modality} files in class folder {empty[0]!r} ({_extensions(modality)}){hint}")
    warn_of_other_files(folder, chain.from_iterable(set(everything[name]).difference(files[name]) for name in names))
    return [(str(folder / name / file), name) for name in names for file in files[name]]


def _is_split(name: str, files: Sequence[str]) -> bool:
    """Whether a folder looks like a split: its files lie in folders in it, which are several, or its name is one."""
    within = {file.partition("/")[0] for file in files if "/" in file}
    return all("/" in file for file in files) and (len(within) > 1 or name in (*TRAIN, *TESTS))


def _extensions(modality: str) -> str:
    return " ".join(sorted(IMAGE_EXTENSIONS if modality == IMAGE else VIDEO_EXTENSIONS))


def _csv_table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns and (line, cells) of every row of a CSV list, each with a path and a label."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if PATH in header and LABEL in header:
        rows = rows[1:]
    elif rows and not {"/", "\\", "."} & set(rows[0][1][0]) and not (path.parent / rows[0][1][0]).exists():
        raise ValueError(f"{path}: {','.join(rows[0][1])!r} is no file; a header must name {PATH} and {LABEL}")
    else:
        header = [PATH, LABEL]
    for line, row in rows:
        if len(row) != len(header) or not row[header.index(PATH)] or not row[header.index(LABEL)]:
            raise ValueError(f"{path}, line {line}: a row must give {','.join(header)}, got {','.join(row)!r}")
    return header, rows


def _csv_splits(header: list[str], rows: list[tuple[int, list[str]]]) -> list[str]:
    """What the column `split` holds, sorted."""
    return sorted({row[header.index(SPLIT)] for _, row in rows}) if SPLIT in header else []


def _csv_rows(path: Path, split: str | None) -> list[tuple[str, str]]:
    """(file, class name) of every row, or of those of the split."""
    header, rows = _csv_table(path)
    if split is not None:
        if SPLIT not in header:
            raise ValueError(f"{path}: no column {SPLIT!r} to take {split!r} from, its columns are {','.join(header)}")
        there = _csv_splits(header, rows)
        rows = [(line, row) for line, row in rows if row[header.index(SPLIT)] == split]
        if not rows:
            raise ValueError(f"{path}: no split {split!r}, there is: {', '.join(there) or 'nothing'}")
    return [(str(path.parent / row[header.index(PATH)]), row[header.index(LABEL)]) for _, row in rows]


def _labelled(source: Path, rows: Iterable[tuple[str, str]], modality: str, classes: Sequence[str] | None) -> MediaSet:
    """Rows of (file, class name) with the names turned into numbers."""
    rows = list(rows)
    if not rows:
        raise ValueError(f"{source}: it lists no {modality} files")
    belongs, other = (is_image, is_video) if modality == IMAGE else (is_video, is_image)
    if strange := [file for file, _ in rows if other(file) and not belongs(file)]:
        raise ValueError(f"{source}: {strange[0]} is no {modality} file ({_extensions(modality)})")
    found = sorted({name for _, name in rows})
    classes = tuple(found if classes is None else classes)
    number = {name: i for i, name in enumerate(classes)}
    if unknown := [name for name in found if name not in number]:
        nearest = ", ".join(get_close_matches(unknown[0], classes, cutoff=0.0)) or "none"
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{source}: label {unknown[0]!r}{more} is not among the {len(classes)} classes; the nearest: {nearest}"
        )
    return MediaSet(modality, classes, tuple(file for file, _ in rows), tuple(number[name] for _, name in rows))
