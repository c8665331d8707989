"""What counts as an image or a video file, and the error of a file that cannot be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
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
SPECIAL_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class MediaError(Exception):
    """A file that cannot be read as the image or video it should be: `path` and `reason`, in one sentence."""

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # the arguments make it survive pickling between processes
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class MediaWarning(UserWarning):
    """A file that was read although something is wrong with it: `path` and `reason`, in one sentence."""

    def __init__(self, path: PathLike, reason: str) -> None:
        super().__init__(os.fspath(path), reason)
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
    """Facts of a file's video stream; of several, that which ffmpeg chooses.

    `frames`: the number of frames a full decode gives; where damage inside a packet shows only in decoding, and that
    was not needed, those that the packets promise. `rate`: frames per second, on average, without jumps in time.
    `width`, `height`: stored pixels of the first frame, turned for display; pixels that are not square are not
    stretched. `rotation`: 0, 90, 180 or 270 degrees clockwise from the stored frame to the displayed one. `duration`:
    seconds, `frames / rate`.
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


def check_file(path: PathLike) -> None:
    """Raise MediaError unless the path is a regular file, or a link to one, of at least one byte."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(path, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise MediaError(path, f"it cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = SPECIAL_FILES.get(stat.S_IFMT(status.st_mode), "something else")
        raise MediaError(path, f"it is {kind}, not a file")
    if status.st_size == 0:
        raise MediaError(path, "it is empty (0 bytes)")


def _extension(path: PathLike) -> str:
    return os.path.splitext(os.fspath(path))[1].lower()
