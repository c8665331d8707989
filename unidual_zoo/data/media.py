"""What counts as an image or a video file, and the error of a file that cannot be read."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PathLike = str | os.PathLike[str]

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm")
)
VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp")
    + (".ogv", ".vob")
)


class MediaError(Exception):
    """A file that cannot be read as the image or video it should be: `path` and `reason`, in one sentence."""

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # the arguments make it survive pickling between processes
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def file_boundary(path: PathLike) -> Iterator[None]:
    """Whatever reading the file raises becomes a MediaError that names it; only a lack of memory stays what it is.

    Decoders raise errors of their own for files that nobody foresaw, and one file must not end a batch of others.
    """
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MediaError(path, f"it cannot be read ({type(error).__name__}: {reason[0]})") from error


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a file's first video stream.

    `frames`: the number of frames a full decode gives. `rate`: their average number per second. `width`, `height`:
    pixels of the first frame as displayed, after rotation. `rotation`: 0, 90, 180 or 270 degrees clockwise from the
    stored frame to the displayed one. `duration`: seconds, `frames / rate`.
    """

    frames: int
    rate: float
    width: int
    height: int
    rotation: int
    duration: float


def is_image(path: PathLike) -> bool:
    """Whether the file's extension is one of IMAGE_EXTENSIONS."""
    return _extension(path) in IMAGE_EXTENSIONS


def is_video(path: PathLike) -> bool:
    """Whether the file's extension is one of VIDEO_EXTENSIONS."""
    return _extension(path) in VIDEO_EXTENSIONS


def is_media(path: PathLike) -> bool:
    """Whether the file's extension is that of an image or a video."""
    return is_image(path) or is_video(path)


def files_below(folder: PathLike) -> list[str]:
    """The files in a folder and in all folders and links to folders in it, sorted, relative to it; no hidden ones."""
    found, seen = [], {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(parent, name)) for name in folders if name[0] != "."}
        folders[:] = [name for name, place in places.items() if place not in seen]  # links may go round in circles
        seen |= set(places.values())
        found += [os.path.relpath(os.path.join(parent, name), folder) for name in names if name[0] != "."]
    return sorted(found)


def warn_of_other_files(place: PathLike, files: Iterable[PathLike]) -> None:
    """Warns of files that are neither images nor videos by their extensions, and so are left out."""
    kinds = Counter(_extension(file) or "none" for file in files if not is_media(file))
    if kinds:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        warnings.warn(f"{place}: left out what is no image or video by its extension: {listed}", stacklevel=2)


def check_file(path: PathLike) -> None:
    """Raise MediaError unless the path is a file of at least one byte."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        raise MediaError(path, f"it cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if os.path.isdir(path):
        raise MediaError(path, "it is a folder, not a file")
    if size == 0:
        raise MediaError(path, "it is empty (0 bytes)")


def _extension(path: PathLike) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()


class MediaWarning(UserWarning):
    """A file was read, but not all of it as it should be: `path` and `reason`, in one sentence."""

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # the arguments make it survive pickling between processes
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
