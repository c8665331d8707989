"""Files within files, in shards (`data/shards.py`) and Parquet (`data/parquet.py`): their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from io import BytesIO

from unidual_zoo.data.frame_text import from_text
from unidual_zoo.data.media import PathLike, check_file
from unidual_zoo.data.packets import FrameIndex
from unidual_zoo.data.parquet import is_in_table, read_row
from unidual_zoo.data.shards import find_packed, is_packed, read_packed


def is_member(path: PathLike) -> bool:
    """Whether the path is that of a file within another."""
    return is_packed(path) or is_in_table(path)


def read_member(path: PathLike) -> bytes:
    """The bytes of a file within another. Raises MediaError of it, or of the shard that holds it."""
    return read_packed(path) if is_packed(path) else read_row(path)


def member_facts(path: PathLike) -> tuple[int, bytes]:
    """The size and the SHA-256 of a file within another: a shard's index has them, a row of Parquet is read.

    Raises MediaError of it, or of the shard that holds it.
    """
    if is_packed(path):
        span = find_packed(path)
        return span.size, span.digest
    data = read_row(path)
    return len(data), hashlib.sha256(data).digest()


def file_size(path: PathLike) -> int:
    """The bytes of a file, wherever it lies. Raises MediaError of one within another that cannot be read."""
    return member_facts(path)[0] if is_member(path) else os.path.getsize(path)


def known_frames(path: PathLike) -> FrameIndex | None:
    """The index of frames that a shard has of a video in it; None where there is none that can be right."""
    text = find_packed(path).frames if is_packed(path) else None
    with contextlib.suppress(ValueError):
        return from_text(text) if text else None
    return None


def read_file(path: PathLike) -> bytes:
    """The bytes of a file, wherever it lies. Raises MediaError if there are none."""
    if is_member(path):
        return read_member(path)
    check_file(path)
    with open(path, "rb") as file:
        return file.read()


class NamedBytes(BytesIO):
    """Bytes as an open file; FFmpeg knows some formats by the name's ending alone."""

    def __init__(self, path: PathLike, data: bytes) -> None:
        super().__init__(data)
        self.name = os.path.basename(os.fspath(path))
