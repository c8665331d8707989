"""Which samples are one: a file under several names, and the rows of one recording, patient or customer."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Hashable, Iterable, Sequence

from unidual_zoo.data.media import MediaError
from unidual_zoo.data.members import is_member, member_facts
from unidual_zoo.data.stacks import is_stacked


def identities(files: Iterable[str]) -> list[Hashable]:
    """What each path leads to, equal where links of either kind, or other spellings of a path, lead to one file.

    Files are not opened and need not exist. An entry of a stack is itself by its number.
    """
    folders: dict[str, str] = {}
    return [_identity(file, folders) for file in files]


def check_one_label(where: object, files: Sequence[str], labels: Sequence[str], ids: Sequence[Hashable]) -> None:
    """Raises a ValueError if a file has two labels: it names the file, and both."""
    first: dict[Hashable, int] = {}
    pairs = [(first.setdefault(key, number), number) for number, key in enumerate(ids)]
    pairs = {ids[a]: (a, b) for a, b in reversed(pairs) if labels[a] != labels[b]}
    if pairs:
        a, b = min(pairs.values())
        one = f"{files[a]} has" if files[a] == files[b] else f"{files[a]} and {files[b]} are one file with"
        more = f"; {len(pairs) - 1} more have two" if len(pairs) > 1 else ""
        raise ValueError(f"{where}: {one} the labels {labels[a]!r} and {labels[b]!r}{more}")


def bundles(files: Sequence[str], groups: Sequence[str] = ()) -> list[int]:
    """The number of each file's bundle, from 0: what is of one file or of one group ("": none), and all that is joined.

    Two files of a group are in one bundle, and so is a third that shares another group with either.
    """
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (parent := parents.setdefault(key, key)) != key:
            parents[key] = key = parents[parent]  # halves the way
        return key

    ids = identities(files)
    for key, group in zip(ids, groups, strict=bool(groups)):
        if group:
            parents[root(key)] = root(("group", group))
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(key), len(numbers)) for key in ids]


def copies(first: Iterable[str], second: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a file of the second list and one of the first that has the same bytes, in the second list's order.

    Only files whose sizes agree are read; those in shards never, for their indices tell, and those in Parquet always.
    Entries of stacks, and files that cannot be read, are copies of nothing.
    """
    digests: dict[str, bytes] = {}

    def size_of(file: str) -> int:
        if not is_member(file):
            return _size(file)
        with contextlib.suppress(MediaError):
            size, digests[file] = member_facts(file)
            return size
        return -1

    by_size: dict[int, list[str]] = {}
    for file in first:
        by_size.setdefault(size_of(file), []).append(file)
    by_size.pop(0, None)  # empty ones are copies in no sense that matters
    by_size.pop(-1, None)
    pairs = []
    for file in second:
        alike = by_size.get(size_of(file), [])
        for other in (*alike, file) if alike else ():
            if other not in digests:
                digests[other] = _digest(other)
        twin = next((other for other in alike if digests[other] and digests[other] == digests[file]), None)
        if twin is not None:
            pairs.append((file, twin))
    return pairs


def _size(file: str) -> int:
    """Bytes of a file, -1 of what is none."""
    with contextlib.suppress(OSError, ValueError):
        return -1 if is_stacked(file) else os.stat(file).st_size
    return -1


def _digest(file: str) -> bytes:
    with contextlib.suppress(OSError), open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
    return b""


def _identity(file: str, folders: dict[str, str]) -> Hashable:
    """As `identities`; `folders` keeps where folders really are."""
    parent, name = os.path.split(file)
    if is_stacked(file):
        return _identity(parent, folders), int(name) if name.isdecimal() else name
    if parent not in folders:
        folders[parent] = os.path.realpath(parent)
    place = os.path.join(folders[parent], name)
    try:
        facts = os.lstat(place)
        if stat.S_ISLNK(facts.st_mode):
            place = os.path.realpath(place)
            facts = os.lstat(place)
    except (OSError, ValueError):
        return place
    return (facts.st_dev, facts.st_ino) if facts.st_nlink > 1 and facts.st_ino else place  # hard links
