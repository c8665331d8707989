"""Labelled files, and single files as tensors ready for a batch."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.checks import check_known, nearest
from unidual_zoo.data.decode import open_video, read_clips
from unidual_zoo.data.identity import check_one_label, identities
from unidual_zoo.data.images import read_sized_image
from unidual_zoo.data.layouts import Labelled, Row, find_layout
from unidual_zoo.data.layouts.reading import check_columns
from unidual_zoo.data.listing import files_below, look_into, warn_of_left_out
from unidual_zoo.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, PathLike, is_image, is_media, is_video
from unidual_zoo.data.shards import is_remote
from unidual_zoo.data.skipping import base_folder, read_skip_list
from unidual_zoo.data.transforms import Framing, RandomFraming
from unidual_zoo.names import counted, from_csv_cell, tidy, tidy_all
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO

PATH, LABEL, SPLIT, GROUP = "path", "label", "split", "group"  # columns of a list
TRAIN, TESTS = ("train",), ("val", "validation", "test")  # names of splits, the first that is there counts

Clips = Sequence[Sequence[int]]


@dataclass(frozen=True)
class MediaSet:
    """Files of one modality with their labels: `classes[labels[i]]` is the class of `files[i]`.

    `groups`, if there are any, names what each file is a part of ("": nothing), such as a recording or a patient: a set
    is parted between groups and never within one. `others`, if there are any, are the further labels of each file, of
    which any is right. `missing` counts the files that a list names and that are not there.
    """

    modality: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...] = ()
    others: tuple[tuple[int, ...], ...] = ()
    missing: int = 0

    def __post_init__(self) -> None:
        check_known("modality", self.modality, MODALITIES)
        if len(self.files) != len(self.labels):
            raise ValueError(f"{len(self.files)} files have {len(self.labels)} labels")
        for name, column in (("groups", self.groups), ("further labels", self.others)):
            if column and len(column) != len(self.files):
                raise ValueError(f"{len(self.files)} files have {len(column)} {name}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("class names must differ")

    def __len__(self) -> int:
        return len(self.files)

    def labels_of(self, index: int) -> tuple[int, ...]:
        """All labels of a file, the first of them first."""
        return (self.labels[index], *(self.others[index] if self.others else ()))

    def take(self, indices: Sequence[int]) -> MediaSet:
        """The files of these numbers, in this order."""
        columns = {name: getattr(self, name) for name in ("files", "labels", "groups", "others")}
        return dataclasses.replace(self, **{name: tuple(c[i] for i in indices) for name, c in columns.items() if c})

    def fingerprint(self) -> str:
        """What tells these files from others, wherever they lie: numbers, and a digest of classes, names and labels."""
        names = ["/".join(Path(file).parts[-2:]) for file in self.files]
        told = [self.classes, names, self.labels, *([self.others] if self.others else [])]
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return f"{len(self.files)} files of {len(self.classes)} classes, {digest[:12]}"


def read_media(
    source: PathLike,
    *,
    modality: str,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    mixed: bool = False,
    skip: PathLike | None = None,
) -> MediaSet:
    """A folder `split/class/file` (or `class/file` without a split), or a CSV list `path,label` -> its MediaSet.

    Files in folders within a class folder belong to the class; several folders without a file beside them look like a
    split, and are refused. In a folder with a split, `split.csv` serves as well as a folder `split`. A CSV file may
    begin with a header, which may name further columns; with a column `split` the argument of that name chooses rows,
    and a column `group` names the recording, patient or customer of which a file is a part. Its paths are relative to
    its own folder, its labels are class names. `classes` fixes which classes there are and their order; without it they
    are those found, sorted. With `mixed`, a list's rows of the other modality are left out, not refused. `skip` is a
    list of files to leave out (`data/skipping.py`); their classes stay. Files are not opened here: a damaged or missing
    one is found when it is read.

    A folder may also have a layout of `data/layouts`, which then says what its splits and classes are, and files of
    which have several labels or are missing; `kinetics:FOLDER` names it. Shards may lie at an address http(s)://….

    Names of classes, splits and groups are compared as they look (`names.tidy`). Hidden files and those that systems
    leave behind are left out, and so is what cannot be listed; all but hidden ones are told in a warning.

    Raises ValueError for a source or split that is not there, for no media of the modality, for a class folder without
    any, for malformed rows, for labels outside `classes`, and for a file that has two labels.
    """
    check_known("modality", modality, MODALITIES)
    place, found = _rows(source, split, modality)
    rows = [row for row in found.rows if _belongs(row.file, modality)] if mixed else found.rows
    classes = (found.classes or None) if classes is None else classes
    if skip is not None:
        classes = sorted({row.label for row in rows}) if classes is None else classes
        rows = _without_skipped(source, split, rows, skip_list_of(source, skip))
    media = _labelled(place, rows, modality, classes)
    return dataclasses.replace(media, missing=found.missing)


def skip_list_of(source: PathLike, skip: PathLike) -> dict[str, str]:
    """The absolute paths of the files that a skip list leaves out of a source, each with its reason.

    Raises:
        ValueError: there is no such list.
    """
    layout = find_layout(source)
    return read_skip_list(skip, base_folder(layout.folder if layout else source))


def _without_skipped(source: PathLike, split: str | None, rows: Sequence[Row], skipped: Mapping[str, str]) -> list[Row]:
    """The rows of a split whose files are not to be skipped; a warning tells how many are not there."""
    kept = [row for row in rows if os.path.abspath(row.file) not in skipped]
    of = counted(len(rows), "file") + (f" of its split {split!r}" if split else "")
    warnings.warn(f"{source}: the skip list leaves out {len(rows) - len(kept):,} of {of}", stacklevel=3)
    return kept


def read_splits(source: PathLike, *, modality: str | None = None) -> dict[str, MediaSet]:
    """The files of each split of a source with the classes of its training files; "" is the split of one without any.

    Raises:
        ValueError: it has images and videos, and no modality is named; and what `read_media` raises.
    """
    names = [name for name in splits(source) if name]
    if find_layout(source) is None and Path(source).is_dir():
        names = [name for name in names if name in (*TRAIN, *TESTS)]  # the others may be class folders
    first = find_split(source, TRAIN) or (names[0] if names else None)
    kinds = (modality,) if modality else modalities_in(source, first)
    if len(kinds) != 1:
        said = f" has {' and '.join(kinds)} files: say which are meant" if kinds else ": no image or video files"
        raise ValueError(f"{source}{said}")
    found = {first or "": read_media(source, modality=kinds[0], split=first, mixed=True)}
    for name in names:
        if name not in found:
            classes = found[first or ""].classes
            found[name] = read_media(source, modality=kinds[0], split=name, classes=classes, mixed=True)
    return found


def modalities_in(source: PathLike, split: str | None = None) -> tuple[str, ...]:
    """The modalities of the files in a folder or a CSV list, by their extensions: none, one or both.

    A listed file with an unknown extension may be of either; one in a folder is of none.

    Raises:
        ValueError: there is no such split or list.
    """
    has_folders = find_layout(source) is None and Path(source).is_dir()
    folders = _split_folders(Path(source), split) if has_folders else []
    files = [file for folder in folders for file in files_below(folder).files if is_media(file)]
    if not folders:
        files = [row.file for row in _rows(source, split, IMAGE)[1].rows]
    return tuple(modality for modality in MODALITIES if any(_belongs(file, modality) for file in files))


def _rows(source: PathLike, split: str | None, modality: str) -> tuple[PathLike, Labelled]:
    """What is really read for a source, and its rows; with classes only where a layout of its own tells them."""
    if layout := find_layout(source):
        found = layout.read(split)
        _check_labels(source, found.rows)
        return source, found
    source = Path(source)
    folders = _split_folders(source, split) if source.is_dir() else []
    if source.is_dir() and not folders and (source / f"{split}.csv").is_file():
        source, split = source / f"{split}.csv", None
    if source.is_file() and is_media(source):
        raise ValueError(f"{source}: one {'image' if is_image(source) else 'video'}; labelled files are a folder "
                         f"class/file, or a list of {PATH},{LABEL}")  # fmt: skip
    if source.is_file():
        rows = _csv_rows(source, split)
    elif folders:
        rows = _folder_rows(folders, modality)
    elif source.is_dir():
        raise ValueError(f"{source}: no split {split!r}, there is: {', '.join(splits(source)) or 'nothing'}")
    else:
        raise ValueError(f"{source}: no such file or folder")
    return source, Labelled(rows, ())


def _belongs(file: str, modality: str) -> bool:
    """Whether a file is of the modality by its extension; one with an unknown extension may be of either."""
    belongs, other = (is_image, is_video) if modality == IMAGE else (is_video, is_image)
    return belongs(file) or not other(file)


def find_split(source: PathLike, names: Sequence[str]) -> str | None:
    """The first of the names that is a split of the source as `read_media` reads it, None if none is.

    Raises:
        ValueError: the source is a CSV list that cannot be read.
    """
    there = splits(source)
    return next((name for name in names if name in there), None)


def splits(source: PathLike) -> list[str]:
    """The splits of a folder (a folder or list in it) or of a CSV list (in its column `split`), sorted."""
    if layout := find_layout(source):
        return sorted(layout.splits())
    source = Path(source)
    if source.is_dir():
        inside = look_into(source)
        lists = {Path(entry).stem for entry in inside.files if Path(entry).suffix == ".csv"}
        return sorted({tidy(entry.name) for entry in inside.folders} | lists)
    if not source.is_file():
        return []
    header, rows = _csv_table(source)
    return sorted({tidy(row[header.index(SPLIT)]) for _, row in rows}) if SPLIT in header else []


class Loaded(NamedTuple):
    """What `load_image` or `load_clips` give, and the file's own (width, height) as it is displayed."""

    pixels: Tensor
    shown: tuple[int, int]


def load_image(path: PathLike, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """An image file -> (C, H, W) uint8 as the transform makes it; with several crops (crops, C, H, W).

    Where the transform begins with a resize that makes a JPEG smaller by half or more, its decoder does a part of it.
    """
    return load_sized_image(path, transform).pixels


def load_sized_image(path: PathLike, transform: Callable[[Tensor], Tensor]) -> Loaded:
    """As `load_image`, with the size of the file."""
    if isinstance(transform, RandomFraming):
        transform = transform.draw()
    picture, shown = read_sized_image(path, fit=transform.size if isinstance(transform, Framing) else None)
    return Loaded(transform(torch.from_numpy(picture).permute(2, 0, 1)), shown)  # (H, W, C) -> (C, H, W)


def load_clips(
    path: PathLike, clips: Clips | Callable[[int, float], Clips], transform: Callable[[Tensor], Tensor]
) -> Tensor:
    """Clips of one video -> (num_clips, C, T, H, W) uint8. The file is opened once and each of its frames decoded once.

    `clips` are lists of frame numbers, all of one length, or a function that makes them of the video's number of frames
    and rate. With several crops the result is (num_clips * crops, C, T, H, W), all crops of a clip together. The
    transform sees each frame once, all of them at once; where it begins with a bilinear resize of its own, the decoder
    scales instead, in the pass that makes RGB. In memory the channels are last, as decoded and as models use them.
    """
    return load_sized_clips(path, clips, transform).pixels


def load_sized_clips(
    path: PathLike, clips: Clips | Callable[[int, float], Clips], transform: Callable[[Tensor], Tensor]
) -> Loaded:
    """As `load_clips`, with the size of the file."""
    if isinstance(transform, RandomFraming):
        transform = transform.draw()
    size = transform.size if isinstance(transform, Framing) and transform.interpolation == "bilinear" else None
    with open_video(path) as video:
        clips, numbers, pictures = read_clips(video, clips, size=size)
        shown = (video.size[1], video.size[0])
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
    return Loaded(views.flatten(0, 1).movedim(-1, 1), shown)  # (K, crops, T, h, w, C) -> (K * crops, C, T, h, w)


def stream_clips(path: PathLike, clips: Callable[[int, float], Clips], transform: Framing) -> Iterator[Tensor]:
    """Clips of one video in turn, each (C, T, H, W) uint8, as `load_clips` has them; for videos of any length.

    A frame is decoded once, and kept, as the transform frames it, as long as a clip that is to come needs it. Neither
    the first nor the last frame of a clip may lie before that of an earlier one. A clip with frames that the file turns
    out not to have ends the clips.
    """
    size = transform.size if transform.interpolation == "bilinear" else None
    with open_video(path) as video:
        waiting = deque(clips(video.frames, video.rate))
        frames: dict[int, Tensor] = {}
        for number, picture in video.stream(sorted(set(chain.from_iterable(waiting))), size=size):
            (view,) = transform.views(torch.from_numpy(picture).permute(2, 0, 1))  # (H, W, C) -> (C, h, w)
            frames[number] = view.clone(memory_format=torch.contiguous_format)  # without what was cropped
            while waiting and max(waiting[0]) <= number:
                yield torch.stack([frames[i] for i in waiting.popleft()], 1)
            first = min(waiting[0]) if waiting else number + 1
            for old in [i for i in frames if i < first]:
                del frames[old]


def _split_folders(source: Path, split: str | None) -> list[Path]:
    """The folder of a split, and others whose names look the same; the source itself where no split is asked for."""
    if split is None:
        return [source]
    alike = [
        Path(entry) for entry in look_into(source).folders if tidy(entry.name) == tidy(split) and entry.name != split
    ]
    return [source / split, *alike] if os.path.isdir(source / split) else alike


def _folder_rows(folders: Sequence[Path], modality: str) -> list[Row]:
    """The rows of `class/file`, classes and files sorted by name."""
    if len(folders) > 1:
        tidy_all((folder.name for folder in folders), where=folders[0].parent, what="folders")
    rows = [row for folder in folders for row in _class_rows(folder, modality)]
    _check_labels(folders[0], rows)
    return rows


def _class_rows(folder: Path, modality: str) -> list[Row]:
    belongs = is_image if modality == IMAGE else is_video
    inside = look_into(folder)
    names = [entry.name for entry in inside.folders]
    everything = {name: files_below(folder / name) for name in names}
    files = {name: list(filter(belongs, everything[name].files)) for name in names}
    if not names:
        raise ValueError(f"{folder}: no class folders with {modality} files ({_extensions(modality)})")
    if empty := [name for name in names if not files[name] or _is_split(name, files[name])]:
        within = everything[empty[0]].files
        other = VIDEO if modality == IMAGE else IMAGE
        hint = f"; it holds {other} files" if any(is_media(file) and not belongs(file) for file in within) else ""
        hint = "; is it a split?" if any("/" in file for file in within) else hint
        raise ValueError(f"{folder}: no {modality} files in class folder {empty[0]!r} ({_extensions(modality)}){hint}")
    if unseen := [name for name in names if not tidy(name)]:
        raise ValueError(f"{folder}: class folder {unseen[0]!a} has no name that one sees")
    others = [file for name in names for file in everything[name].files if not belongs(file)]
    machine_made = Counter(entry.name for entry in inside.machine_made)
    warn_of_left_out(folder, others, sum((found.machine_made for found in everything.values()), machine_made))
    classes = tidy_all(names, where=folder, what="class folders")
    return [Row(str(folder / name / file), classes[name]) for name in names for file in files[name]]


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
    header = [tidy(cell).lower() for cell in rows[0][1]] if rows else []
    if PATH in header and LABEL in header:
        check_columns(path, header, (PATH, LABEL, SPLIT, GROUP))
        rows = rows[1:]
    elif rows and not {"/", "\\", "."} & set(rows[0][1][0]) and not os.path.exists(path.parent / rows[0][1][0]):
        raise ValueError(f"{path}: {','.join(rows[0][1])!r} is no file, nor does a header name {PATH} and {LABEL}")
    else:
        header = [PATH, LABEL]
    for line, row in rows:
        if len(row) != len(header) or not tidy(row[header.index(PATH)]) or not tidy(row[header.index(LABEL)]):
            raise ValueError(f"{path}, line {line}: a row must give {','.join(header)}, got {','.join(row)!r}")
    return header, rows


def _csv_rows(path: Path, split: str | None) -> list[Row]:
    """Every row, or those of the split."""
    header, table = _csv_table(path)
    if split is not None and SPLIT not in header:
        raise ValueError(f"{path}: no column {SPLIT!r} to take {split!r} from, its columns are {','.join(header)}")

    def column(name: str, *, what: str) -> list[str]:
        cells = [from_csv_cell(row[header.index(name)]) for _, row in table] if name in header else [""] * len(table)
        tidied = tidy_all(cells, where=path, what=what)
        return [tidied[cell] for cell in cells]

    files = [_as_on_disk(path.parent, row[header.index(PATH)]) for _, row in table]
    labels, groups = column(LABEL, what="labels"), column(GROUP, what="groups")
    rows = [Row(*row) for row in zip(files, labels, groups, strict=True)]
    _check_labels(path, rows)
    if split is None:
        return rows
    parts, wanted = column(SPLIT, what="splits"), tidy(split)
    if wanted not in parts:
        raise ValueError(f"{path}: no split {split!r}, there is: {', '.join(sorted(set(parts))) or 'nothing'}")
    _warn_of_lost_rows(path, [part for part in parts if part != wanted])
    return [row for row, part in zip(rows, parts, strict=True) if part == wanted]


def _as_on_disk(folder: Path, cell: str) -> str:
    """The path that a cell names: as it stands or, where nothing is there, without blanks around it or in NFC or NFD.

    File names are what they are; lists have often been through other programs.
    """
    if is_remote(cell):
        return cell
    path = str(folder / cell)
    if (cell.isascii() and cell == cell.strip()) or os.path.lexists(path):
        return path
    trimmed = cell.strip()
    forms = [str(folder / form) for form in (trimmed, *(unicodedata.normalize(f, trimmed) for f in ("NFC", "NFD")))]
    return next(filter(os.path.lexists, forms), forms[0])


def _warn_of_lost_rows(path: Path, parts: Sequence[str]) -> None:
    """Warns of rows that no command will take: of no split, or of one that differs from a known one in capitals."""
    known = {*TRAIN, *TESTS}
    lost = Counter(part for part in parts if not part or (part not in known and part.lower() in known))
    if lost:
        listed = ", ".join(f"{part!r} {count}" for part, count in sorted(lost.items()))
        warnings.warn(
            f"{path}: rows whose split is none of {', '.join(sorted(known))} are left out: {listed}", stacklevel=2
        )


def _check_labels(source: PathLike, rows: Sequence[Row]) -> None:
    files = [row.file for row in rows]
    check_one_label(source, files, [row.label for row in rows], identities(files))


def _labelled(source: PathLike, rows: Sequence[Row], modality: str, classes: Sequence[str] | None) -> MediaSet:
    """Rows with the names of their classes turned into numbers."""
    if not rows:
        raise ValueError(f"{source}: it lists no {modality} files")
    if strange := [row.file for row in rows if not _belongs(row.file, modality)]:
        raise ValueError(f"{source}: {strange[0]} is no {modality} file ({_extensions(modality)})")
    found = sorted({name for row in rows for name in (row.label, *row.others)})
    classes = tuple(found if classes is None else classes)
    number = {tidy(name): i for i, name in enumerate(classes)}
    if len(number) < len(classes):
        raise ValueError(f"{source}: of the {len(classes)} classes some look the same, {len(number)} do not")
    if unknown := [name for name in found if name not in number]:
        near = ", ".join(nearest(unknown[0], classes, least=0)) or "none"
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(
            f"{source}: label {unknown[0]!r}{more} is not among the {counted(len(classes), 'class')}; "
            f"the nearest: {near}"
        )
    files, labels, groups, others = zip(*rows, strict=True)
    return MediaSet(
        modality,
        classes,
        files,
        tuple(number[name] for name in labels),
        groups if any(groups) else (),
        tuple(tuple(number[name] for name in names) for names in others) if any(others) else (),
    )
