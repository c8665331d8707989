"""UCF101 and HMDB51: class folders of videos, and three divisions into training and test files by lists.

UCF101   trainlist01.txt `Class/v_Class_g08_c01.avi 1`, testlist01.txt without numbers, in ucfTrainTestlist/
HMDB51   brush_hair_test_split1.txt `file.avi 1` (1: training, 2: test, 0: neither), in testTrainMulti_7030_splits/
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from unidual_zoo.data.layouts.reading import PLACES, Format, Labelled, Row, by_folder, text_lines, there
from unidual_zoo.names import tidy

UCF101_PLACES = (*PLACES, "ucfTrainTestlist")
HMDB51_PLACES = (*PLACES, "testTrainMulti_7030_splits", "test_train_splits", "splits")
HMDB51_SPLITS = {"train": "1", "test": "2"}
_GROUP = re.compile(r"(v_.+_g\d+)_c\d+")  # clips of one recording


def ucf101(division: int) -> Format:
    """UCF101 by its lists of that number."""
    needs = f"there is no trainlist{division:02d}.txt"
    return Format("UCF101", partial(_ucf101_lists, division), _read_ucf101, UCF101_PLACES, needs=needs)


def hmdb51(division: int) -> Format:
    """HMDB51 by its lists of that number."""
    needs = f"there are no lists CLASS_test_split{division}.txt"
    return Format(
        "HMDB51", partial(_hmdb51_lists, division), partial(_read_hmdb51, division), HMDB51_PLACES, needs=needs
    )


def _ucf101_lists(division: int, place: Path) -> dict[str, Path]:
    lists = {split: place / f"{split}list{division:02d}.txt" for split in ("train", "test")}
    return {split: path for split, path in lists.items() if path.is_file()}


def _read_ucf101(folder: Path, split: str, path: Path) -> Labelled:
    listed = []
    for line in text_lines(path):
        name = line.split()[0]
        label, slash, file = name.partition("/")
        if not slash:
            raise ValueError(f"{path}: a line must begin with Class/file.avi, got {line!r}")
        match = _GROUP.fullmatch(Path(file).stem)
        listed.append(Row(name, tidy(label), match[1] if match else ""))
    index = path.with_name("classInd.txt")  # `1 ApplyEyeMakeup`
    classes = sorted({row.label for row in listed})
    if index.is_file():
        classes = [line.split()[-1] for line in text_lines(index)]
    return there(path, listed, by_folder(folder), classes=classes)


def _hmdb51_lists(division: int, place: Path) -> dict[str, Path]:
    there = any(place.glob(f"*_test_split{division}.txt"))
    return dict.fromkeys(HMDB51_SPLITS, place) if there else {}


def _read_hmdb51(division: int, folder: Path, split: str, place: Path) -> Labelled:
    ending = f"_test_split{division}.txt"
    lists = {path.name.removesuffix(ending): path for path in sorted(place.glob(f"*{ending}"))}
    listed = []
    for name, path in lists.items():
        for line in text_lines(path):
            file, _, number = line.rpartition(" ")
            if number not in ("0", "1", "2") or not file:
                raise ValueError(f"{path}: a line must be a file and 0, 1 or 2, got {line!r}")
            if number == HMDB51_SPLITS[split]:
                listed.append(Row(f"{name}/{file.strip()}", tidy(name.replace("_", " "))))
    return there(
        place, listed, by_folder(folder), classes=sorted(tidy(name.replace("_", " ")) for name in lists)
    )  # fmt: skip
