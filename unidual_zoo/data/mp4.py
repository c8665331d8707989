"""How many samples an MP4 or QuickTime file states, counted without FFmpeg.

FFmpeg makes an index of them all as it opens such a file, 70 bytes a sample, and a file of a kilobyte can state a
billion of them.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import BinaryIO

from unidual_zoo.data.media import PathLike

FOLDERS = frozenset(
    (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"dinf", b"mvex", b"udta", b"wave")
    + (b"meta", b"sinf", b"schi", b"tref", b"ilst")
)
DEPTH = 8  # of folders in folders
PCM_CHUNK = 1024  # of sound whose every sample lasts one tick FFmpeg indexes so many at once


def stated_samples(path: PathLike) -> int:
    """The samples that FFmpeg indexes: of all tracks and fragments. 0 of a file of another kind."""
    with open(path, "rb", buffering=0) as file:  # a buffer would be filled anew for every box
        return samples_in(file)


def samples_in(file: BinaryIO) -> int:
    """`stated_samples` of an open file, which is at its beginning again afterwards."""
    total = _samples(file, 0, file.seek(0, os.SEEK_END), DEPTH)
    file.seek(0)
    return total


def _samples(file: BinaryIO, start: int, stop: int, depth: int) -> int:
    total = 0
    for kind, at, end in _boxes(file, start, stop):
        if kind == b"trak":
            total += _track_samples(file, at, end)
        elif kind == b"trun":
            total += _number(file, at + 4)
        elif kind in FOLDERS and depth:
            total += _samples(file, at, end, depth - 1)
    return total


def _track_samples(file: BinaryIO, start: int, stop: int) -> int:
    """What the tables of a track state (ISO/IEC 14496-12, 8.7)."""
    tables: dict[bytes, list[tuple[int, int]]] = defaultdict(list)  # kind -> where those of the kind begin and end
    for kind, at, end in _leaves(file, start, stop, DEPTH):
        tables[kind].append((at, end))
    handlers = {_number(file, at + 8).to_bytes(4, "big") for at, _ in tables[b"hdlr"]}
    one_tick = any(_number(file, at + 4) == _number(file, at + 12) == 1 for at, _ in tables[b"stts"])
    if b"soun" in handlers and b"vide" not in handlers and one_tick:
        chunks = sum(_number(file, at + 4) for at, _ in tables[b"stco"] + tables[b"co64"])
        largest = max((_largest_chunk(file, at, end) for at, end in tables[b"stsc"]), default=0)
        return chunks * (1 + largest // PCM_CHUNK)
    return sum(_number(file, at + 8) for at, _ in tables[b"stsz"] + tables[b"stz2"])


def _largest_chunk(file: BinaryIO, at: int, end: int) -> int:
    """The most samples in a chunk, by a table of (first chunk, samples, description)."""
    file.seek(at + 8)
    rows = file.read(max(0, end - at - 8) // 12 * 12)
    return max((samples for _, samples, _ in struct.iter_unpack(">III", rows[: len(rows) // 12 * 12])), default=0)


def _leaves(file: BinaryIO, start: int, stop: int, depth: int) -> Iterator[tuple[bytes, int, int]]:
    for kind, at, end in _boxes(file, start, stop):
        if kind in FOLDERS and depth:
            yield from _leaves(file, at, end, depth - 1)
        else:
            yield kind, at, end


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of the boxes between two positions (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= stop:
        file.seek(start)
        header = file.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        content = 8
        if size == 0:
            size = stop - start
        elif size == 1:
            size, content = int.from_bytes(header[8:], "big"), 16
        if size < content:
            return
        yield kind, start + content, min(start + size, stop)
        start += size


def _number(file: BinaryIO, at: int) -> int:
    """The four bytes at a position; 0 beyond the end."""
    file.seek(at)
    return int.from_bytes(file.read(4), "big")
