"""Which samples are one: a file under several names, and the rows of one recording, patient or customer."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Iterable, Sequence

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
