"""ImageNet-1k: class folders named by synset, n01440764, whose classes get their human names.

The validation images lie in class folders, too, or flat, as they are handed out, with a file that says what they show:

    LOC_val_solution.csv                          ImageId,PredictionString: `ILSVRC2012_val_00000001,n01751748 …`
    imagenet_2012_validation_synset_labels.txt    a synset a line, in the order of the images
    ILSVRC2012_validation_ground_truth.txt        a number a line, named by map_clsloc.txt or meta.mat
    val.txt                                       `ILSVRC2012_val_00000001.JPEG 65`, the synset's number in their order
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from unidual_zoo.data.layouts.reading import Format, Labelled, Row, class_rows, csv_rows, text_lines, there
from unidual_zoo.data.media import is_image
from unidual_zoo.spec import packaged_classes

CLS_LOC = "CLS-LOC"
IMAGES = ("", f"ILSVRC/Data/{CLS_LOC}", f"Data/{CLS_LOC}")  # where the folders train and val may lie
TRUTH_PLACES = ("", "val", "devkit/data", "ILSVRC2012_devkit_t12/data", "ILSVRC/devkit/data")
SYNSET = re.compile(r"n\d{8}")
CLASSES = 1000
MAT_HEADER = 128  # bytes of a MATLAB file before its first part, which has a tag of 8


@lru_cache(maxsize=1)
def synsets() -> tuple[str, ...]:
    """The 1000 synsets in the order of the classes' numbers, which is their own."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


def find(folder: Path) -> dict[str, Path]:
    """The folder of each split: with class folders of ImageNet's synsets, or val with a file of its truth."""
    lists = {split: folder / split for split in ("train", "val") if (folder / split).is_dir()}
    flat = {"val": folder / "val"} if _is_flat(folder / "val") and _truth(folder) else {}
    known = [split for split, path in lists.items() if split in flat or _is_of_synsets(path)]
    return lists if len(known) == len(lists) else {}  # a split of other classes makes it another data set


def _is_of_synsets(folder: Path) -> bool:
    names = _folders(folder)
    return bool(names) and all(map(SYNSET.fullmatch, names)) and set(names) <= set(synsets())


def _is_flat(folder: Path) -> bool:
    return folder.is_dir() and any(map(is_image, os.listdir(folder)))


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir()]


def read(folder: Path, split: str, path: Path) -> Labelled:
    """The images of a split. Its classes are those of all class folders, or all 1000 of a flat folder."""
    names = dict(zip(synsets(), packaged_classes("imagenet1k"), strict=True))
    if _is_of_synsets(path):
        folders = [place for name in ("train", "val") if _is_of_synsets(place := path.with_name(name))]
        found = {synset for place in folders for synset in _folders(place)}
        rows = class_rows(path, is_image, names)
        if not rows:
            raise ValueError(f"{path}: there is no image in class folders")
        return Labelled(rows, tuple(names[synset] for synset in sorted(found)))
    truth = _truth(path.parent)
    assert truth is not None  # else `find` had not found the folder
    files = {Path(name).stem: str(path / name) for name in filter(is_image, os.listdir(path))}
    listed = truth[1](truth[0], sorted(files))
    if strange := [synset for _, synset in listed if synset not in names]:
        raise ValueError(f"{truth[0]}: {strange[0]!r} is none of ImageNet's {CLASSES} synsets")
    rows = [Row(stem, names[synset]) for stem, synset in listed]
    return there(truth[0], rows, files, classes=names.values(), what="image")


Truth = Callable[[Path, list[str]], list[tuple[str, str]]]  # file, the images' names without ending -> (name, synset)


def _truth(folder: Path) -> tuple[Path, Truth] | None:
    """The file that says what flat validation images show, near the folder of the images, and its reader."""
    bases = (folder, *folder.parents[:3]) if folder.name == CLS_LOC else (folder,)
    places = [base / place for base in bases for place in TRUTH_PLACES]
    found = ((place / name, reader) for place in places for name, reader in TRUTHS.items() if (place / name).is_file())
    return next(found, None)


def _read_solution(path: Path, _: list[str]) -> list[tuple[str, str]]:
    header, *rows = csv_rows(path, least=2) or [[]]
    if header[:2] != ["ImageId", "PredictionString"]:
        raise ValueError(f"{path}: must begin with ImageId,PredictionString, got {','.join(header)!r}")
    return [(row[0], row[1].split(" ", 1)[0]) for row in rows]


def _read_synsets(path: Path, stems: list[str]) -> list[tuple[str, str]]:
    return _in_order(path, text_lines(path), stems)


def _read_numbers(path: Path, stems: list[str]) -> list[tuple[str, str]]:
    """Numbers from 1 in the order of ILSVRC, which is not that of the synsets."""
    lines, order = text_lines(path), _ilsvrc_order(path.parent)
    if wrong := [line for line in lines if not line.isdecimal() or not 1 <= int(line) <= len(order)]:
        raise ValueError(f"{path}: a line must be a number from 1 to {len(order)}, got {wrong[0]!r}")
    return _in_order(path, [order[int(line) - 1] for line in lines], stems)


def _in_order(path: Path, found: list[str], stems: list[str]) -> list[tuple[str, str]]:
    if len(found) != len(stems):
        raise ValueError(f"{path}: {len(found):,} lines for {len(stems):,} images, which it gives in their order")
    return list(zip(stems, found, strict=True))


def _read_pairs(path: Path, _: list[str]) -> list[tuple[str, str]]:
    pairs = [line.rpartition(" ") for line in text_lines(path)]
    if wrong := [pair for pair in pairs if not pair[2].isdecimal() or int(pair[2]) >= CLASSES]:
        raise ValueError(f"{path}: a line must be a file and a number below {CLASSES}, got {''.join(wrong[0])!r}")
    return [(Path(name.strip()).stem, synsets()[int(number)]) for name, _, number in pairs]


def _ilsvrc_order(folder: Path) -> list[str]:
    """The synsets by ILSVRC's numbers: `n02119789 1 kit_fox` of map_clsloc.txt, or those of the older meta.mat."""
    if (table := folder / "map_clsloc.txt").is_file():
        rows = [line.split() for line in text_lines(table)]
        if wrong := [row for row in rows if len(row) < 2 or not row[1].isdecimal()]:
            raise ValueError(f"{table}: a line must begin with a synset and its number, got {' '.join(wrong[0])!r}")
        order = [row[0] for row in sorted(rows, key=lambda row: int(row[1]))]
    elif (table := folder / "meta.mat").is_file():
        order = _synsets_of_matlab(table.read_bytes())[:CLASSES]  # the leaves come first, by their numbers
    else:
        raise ValueError(f"{folder}: needs map_clsloc.txt or meta.mat, which say what the numbers are")
    if set(order) != set(synsets()):
        raise ValueError(f"{table}: does not list ImageNet's {CLASSES} synsets")
    return order


def _synsets_of_matlab(data: bytes) -> list[str]:
    """The synsets in a MATLAB file (level 5), in their order: nothing else in it looks like one."""
    body = data[MAT_HEADER + 8 :]
    try:
        body = zlib.decompressobj().decompress(body)
    except zlib.error:
        body = data  # not compressed
    found = re.findall(SYNSET.pattern.encode(), body.replace(b"\0", b""))  # letters may have two bytes
    return list(dict.fromkeys(synset.decode() for synset in found))


TRUTHS: dict[str, Truth] = {
    "LOC_val_solution.csv": _read_solution,
    "imagenet_2012_validation_synset_labels.txt": _read_synsets,
    "ILSVRC2012_validation_ground_truth.txt": _read_numbers,
    "val.txt": _read_pairs,
}
FORMAT = Format(
    "ImageNet-1k", find, read, IMAGES, needs="there is no folder train or val of synsets, nor a flat val with a file "
    f"of its truth ({', '.join(TRUTHS)})"
)  # fmt: skip
