"""Which files a network has learnt from: a fingerprint of each beside its weights, by which it knows them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from unidual_zoo.data.media import MediaError, check_file
from unidual_zoo.data.members import is_member, read_member
from unidual_zoo.data.shards import is_remote
from unidual_zoo.names import counted

LEARNT = "learnt_from.json"  # beside config.json; what is published on the Hub is without it
MOST = 50_000  # files of a training that are remembered; of more as many, from the first to the last in equal steps
_PART = 1 << 16  # bytes
_DIGITS = 16


def fingerprint(file: str) -> str | None:
    """What tells a file wherever it lies and whatever it is called: of its size and its first and last 64 KiB.

    None of what cannot be read, is an entry of a stack, or would have to be fetched.
    """
    try:
        if is_remote(file):
            return None
        if is_member(file):
            data = read_member(file)
            size, ends = len(data), data[:_PART] + data[-_PART:]
        else:
            check_file(file)
            with open(file, "rb") as stream:
                size, first = os.fstat(stream.fileno()).st_size, stream.read(_PART)
                stream.seek(max(0, size - _PART))
                ends = first + stream.read(_PART)
    except (OSError, ValueError, MediaError):
        return None
    return hashlib.sha256(f"{size} ".encode() + ends).hexdigest()[:_DIGITS]


def learnt_place(model: str) -> Path | None:
    """Where the list of a saved network lies, by the name that loads it; None of other networks."""
    source, _, folder = model.partition(":")
    return Path(folder, LEARNT) if source == "local-dir" else None


def learnt_line(count: int, files: int, *, figures: str = "figures") -> str:
    """That so many of the files that `figures` are of were in the training of their network, for a reader."""
    of = f"{count} of these {counted(files, 'file')}"
    return f"this network was trained on {of}: the {figures} do not show how it does on files that are new to it"


def write_learnt(files: Sequence[str], path: Path, *, before: Collection[str] = ()) -> None:
    """Writes what knows these files again, and the fingerprints of those that were learnt from `before`."""
    count = min(len(files), MOST)
    found = [fingerprint(files[number * len(files) // count]) for number in range(count)]
    known = sorted({*filter(None, found), *before})
    path.write_text(json.dumps({"files": len(files), "fingerprints": known}) + "\n")


def read_learnt(path: Path) -> frozenset[str]:
    """The fingerprints that `write_learnt` wrote; none where it wrote none, and nothing else that may stand there."""
    try:
        found = json.loads(path.read_bytes())["fingerprints"]
        return frozenset(each for each in found if isinstance(each, str) and len(each) == _DIGITS)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return frozenset()


def count_learnt(files: Sequence[str], path: Path) -> int:
    """How many of the files are, byte by byte at both ends, among those of `write_learnt`; 0 where it wrote none."""
    known = read_learnt(path)
    return sum(fingerprint(file) in known for file in files) if known else 0
