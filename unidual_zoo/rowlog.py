"""Rows of arrays that are appended to a file as they come and survive a kill: none is lost, none is made twice.

The first line holds, as JSON, the facts that all rows depend on. A row is a line of JSON and behind it the bytes of its
arrays, as they lie in memory.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

_FORMAT = 2  # 1 held the numbers as text


class Row(NamedTuple):
    """Arrays and plain `facts` under a key, made from the file `path`."""

    key: str
    path: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class RowLog:
    """Rows appended to a file, which depend on `facts`.

    What a kill left unfinished is cut off. A row counts as long as its file stays what it was, and of several rows of a
    key the last.

    Raises:
        ValueError: the file holds rows that came about in another way.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            header, self._places, end = _scan(self._file)
            facts = {"format": _FORMAT, **json.loads(json.dumps(facts))}
            if header is not None and header.get("format") == _FORMAT and not self._places:
                header, end = None, 0  # stopped before the first row: nothing is lost by other facts
            self._check(facts if header is None else header, facts)
            self._file.truncate(end)
            if header is None:
                self._write(facts)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RowLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Writes a row; a kill loses none that was written."""
        place = self._file.seek(0, os.SEEK_END)
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in row.arrays.values())
        about = {
            "key": row.key,
            "path": row.path,
            "identity": _identity(row.path),
            "facts": dict(row.facts),
            "arrays": {name: [array.dtype.str, array.shape] for name, array in row.arrays.items()},
            "bytes": len(content),
            "crc": zlib.crc32(content),
        }
        self._write(about, content)
        self._places[row.key] = place

    def holds(self, key: str, path: str) -> bool:
        """Whether there is a row under the key that was made from the file as it is now."""
        if key not in self._places:
            return False
        about = self._about(key)
        return about["path"] == path and about["identity"] == _identity(path)

    def row(self, key: str) -> Row:
        """The row of a key, read from the disk; see `RowTable.row` for errors."""
        about = self._about(key)
        return _row(self.path, about, self._file.read(about["bytes"]))

    def size(self) -> int:
        """Bytes of the file."""
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Ends writing."""
        self._file.close()

    def remove(self) -> None:
        """Closes and removes the file."""
        self._file.close()
        self.path.unlink()

    def _check(self, header: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        if header != facts:
            changed = ", ".join(sorted(key for key in {*facts, *header} if facts.get(key) != header.get(key)))
            raise ValueError(f"{self.path} holds rows made with other settings ({changed}): remove it to begin anew")

    def _about(self, key: str) -> dict[str, Any]:
        """A row's line; its arrays are read next."""
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())

    def _write(self, plain: Mapping[str, Any], content: bytes = b"") -> None:
        self._file.write(json.dumps(plain).encode() + b"\n" + content)
        self._file.flush()


class RowTable:
    """The rows of finished logs, to be read by any process, at any place."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._maps: list[mmap.mmap] = []
        self._places: dict[str, tuple[int, int]] = {}  # key -> which log, where in it
        for number, path in enumerate(self._paths):
            with path.open("rb") as file:
                places = _scan(file)[1]
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self._places |= {key: (number, place) for key, place in places.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._paths,)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def row(self, key: str) -> Row:
        """The row of a key.

        Raises:
            ValueError: it is not what was written, as after a power cut.
        """
        number, place = self._places[key]
        log = self._maps[number]
        end = log.find(b"\n", place) + 1
        about = json.loads(log[place:end])
        return _row(self._paths[number], about, log[end : end + about["bytes"]])

    def close(self) -> None:
        """Lets the files be removed."""
        for log in self._maps:
            log.close()


def _scan(file: IO[bytes]) -> tuple[dict[str, Any] | None, dict[str, int], int]:
    """The facts of a log, the place of each key's last row, and where the last whole row ends."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header: dict[str, Any] | None = None
    places: dict[str, int] = {}
    end = 0
    while (line := file.readline()).endswith(b"\n"):
        about = json.loads(line)
        if header is None:
            header = about
        elif header.get("format") != _FORMAT:  # of an older version, whose facts differ
            break
        else:
            if end + len(line) + about["bytes"] > size:
                break
            places[about["key"]] = end
            file.seek(about["bytes"], os.SEEK_CUR)
        end = file.tell()
    return header, places, end


def _row(path: Path, about: Mapping[str, Any], content: bytes) -> Row:
    if zlib.crc32(content) != about["crc"]:
        raise ValueError(f"{path} is damaged: remove it to have its rows made again")
    arrays, start = {}, 0
    for name, (kind, shape) in about["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, kind, count, start).reshape(shape)
        start += arrays[name].nbytes
    return Row(about["key"], about["path"], about["facts"], arrays)


def _identity(path: str) -> list[int] | None:
    """Tells a file from what it is after a change."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return [facts.st_size, facts.st_mtime_ns]
