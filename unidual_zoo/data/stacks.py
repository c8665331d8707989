"""Small images or clips of one size in one .npy file, each of which is addressed like a file: `train.npy/00017`.

A stack is an array (N, H, W, 3) or (N, T, H, W, 3), uint8. Such a path stands wherever that of an image or a video
does, in CSV lists too, so that data made by a program needs no files of its own: `write_stack` makes a folder that
`read_media` reads. Reading an entry costs a copy of it and no more.
"""

from __future__ import annotations

import csv
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from unidual_zoo.data.limits import MAX_READ_BYTES
from unidual_zoo.data.media import MediaError, PathLike, VideoInfo, file_boundary
from unidual_zoo.names import counted, csv_cell

SUFFIX = ".npy"
RATE = 25.0  # frames per second of every stacked clip
REASON_LETTERS = 100  # of what numpy says, which may quote a whole header


def is_stacked(path: PathLike) -> bool:
    """Whether the path is that of an entry of a stack."""
    return os.path.dirname(os.fspath(path)).endswith(SUFFIX)


def read_stacked(path: PathLike, *, ndim: int) -> np.ndarray:
    """An entry of a stack, read-only: an image (H, W, 3) with `ndim` 3, a clip (T, H, W, 3) with 4.

    Raises:
        MediaError: there is no such stack or entry, or it is of the other kind.
    """
    file, name = os.path.split(os.fspath(path))
    with file_boundary(path):
        stack = _open(file)
        if stack.dtype != np.uint8 or stack.ndim != ndim + 1 or stack.shape[-1] != 3 or 0 in stack.shape[1:]:
            kind = "images (N, H, W, 3)" if ndim == 3 else "clips (N, T, H, W, 3)"
            raise MediaError(path, f"the stack must hold {kind} uint8, it is {stack.shape} {stack.dtype}")
        if not name.isdecimal() or int(name) >= len(stack):
            raise MediaError(path, f"the stack has {f'entries 0 to {len(stack) - 1}' if len(stack) else 'no entries'}")
        return stack[int(name)]


class StackedClip:
    """A clip of a stack, with what `decode.Video` has."""

    rate = RATE

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        self._clip = read_stacked(path, ndim=4)

    def __enter__(self) -> StackedClip:
        return self

    def __exit__(self, *_) -> None:
        pass

    @property
    def frames(self) -> int:
        """The number of frames."""
        return len(self._clip)

    def info(self) -> VideoInfo:
        """See `decode.probe`."""
        (height, width), frames = self.size, self.frames
        return VideoInfo(frames, self.rate, width, height, rotation=0, duration=frames / self.rate)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._clip.shape[1], self._clip.shape[2]

    def read(self, indices: Iterable[int], *, size: Callable[[int, int], tuple[int, int]] | None = None) -> np.ndarray:
        """Frames by number -> (T, H, W, 3) uint8, scaled to what `size` makes of (height, width)."""
        numbers = [operator.index(i) for i in indices]
        if strange := [number for number in numbers if not 0 <= number < self.frames]:
            raise IndexError(f"{self._path}: no frame {strange[0]}, the clip has 0 to {self.frames - 1}")
        if (held := len(numbers) * self._clip[0].size) > MAX_READ_BYTES:
            raise MediaError(
                self._path,
                f"{counted(len(numbers), 'frame')} would take {held:,} bytes, at most {MAX_READ_BYTES:,} are read",
            )
        frames = self._clip[numbers]
        wanted = size(*self.size) if size else self.size
        if wanted == self.size:
            return frames
        scaled = F.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), list(wanted), antialias=True)
        return scaled.permute(0, 2, 3, 1).numpy()

    def stream(
        self, numbers: Sequence[int], *, size: Callable[[int, int], tuple[int, int]] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(number, frame) of ascending numbers, see `decode.Video.stream`."""
        for number in numbers:
            yield number, self.read([number], size=size)[0]


def write_stack(
    folder: Path, split: str, *, shape: Sequence[int], labels: Sequence[str], make: Callable[[int], np.ndarray]
) -> None:
    """`make(i)` for every label -> `folder`/split.npy and the list `folder`/split.csv, which is written last.

    `shape` is that of one entry, (H, W, 3) or (T, H, W, 3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{split}-", dir=folder) as scratch:
        unfinished = Path(scratch) / f"{split}{SUFFIX}"
        stack = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(len(labels), *shape))
        for number in range(len(labels)):
            stack[number] = make(number)
        stack.flush()
        rows = Path(scratch) / f"{split}.csv"
        with rows.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label"))
            writer.writerows((f"{split}{SUFFIX}/{number:05d}", csv_cell(label)) for number, label in enumerate(labels))
        os.replace(unfinished, folder / unfinished.name)
        os.replace(rows, folder / rows.name)


def is_whole(folder: Path, split: str, *, shape: Sequence[int]) -> bool:
    """Whether `write_stack` has written this split, of entries of this shape, and nothing of it was lost since."""
    try:
        with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            num_rows = sum(1 for _ in csv.reader(file)) - 1
        stack = np.load(folder / f"{split}{SUFFIX}", mmap_mode="r", allow_pickle=False)  # its size is checked
    except (OSError, ValueError, csv.Error):
        return False
    return stack.dtype == np.uint8 and stack.shape == (num_rows, *shape)


@lru_cache(maxsize=16)
def _open(file: str) -> np.ndarray:
    try:
        return np.lib.format.open_memmap(file, mode="r")  # np.load would try pickles and archives, too
    except (ValueError, MemoryError) as error:  # a header is parsed as Python, which calls deep nesting a MemoryError
        raise ValueError(f"it is no stack: {shorten(str(error) or 'a strange header', REASON_LETTERS)}") from None
