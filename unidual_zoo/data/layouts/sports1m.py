"""Sports-1M: train_partition.txt and test_partition.txt of `URL 168,169`, labels.txt; the videos ID.mp4.

A video has one label or several; a prediction is right if it is any of them (Karpathy et al. 2014, hit@k).
"""

from __future__ import annotations

import re
from pathlib import Path

from unidual_zoo.data.layouts.reading import PLACES, Format, Labelled, Row, by_stem, text_lines, there
from unidual_zoo.names import tidy

LISTS = {"train": "train_partition.txt", "test": "test_partition.txt"}
LABELS = "labels.txt"
_LINE = re.compile(r"\S*[=/](?P<name>[\w-]+)\s+(?P<numbers>\d+(,\d+)*)")


def find(place: Path) -> dict[str, Path]:
    """The list of each split in a folder."""
    lists = {split: place / name for split, name in LISTS.items()}
    return {split: path for split, path in lists.items() if path.is_file()}


def read(folder: Path, split: str, path: Path) -> Labelled:
    """The videos of a list; labels.txt, one class a line from number 0, lies beside it or one folder higher."""
    labels = next((place / LABELS for place in (path.parent, path.parent.parent) if (place / LABELS).is_file()), None)
    if labels is None:
        raise ValueError(f"{path}: needs {LABELS} beside it, or one folder higher")
    classes = tuple(map(tidy, text_lines(labels)))
    listed = []
    for line in text_lines(path):
        match = _LINE.fullmatch(line)
        numbers = [int(number) for number in match["numbers"].split(",")] if match else []
        if match is None or max(numbers) >= len(classes):
            raise ValueError(f"{path}: a line must be a URL and numbers below {len(classes)}, got {line!r}")
        first, *others = dict.fromkeys(classes[number] for number in numbers)
        listed.append(Row(match["name"], first, others=tuple(others)))
    return there(path, listed, by_stem(folder), classes=classes)


PLACES_1M = (*PLACES, "original", "sports-1m-dataset/original")  # as its repository has them
FORMAT = Format("Sports-1M", find, read, PLACES_1M, needs="there is no train_partition.txt and no test_partition.txt")
