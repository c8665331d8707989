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

BEGINNING = 4096  # bytes; pictures of one size differ in them


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


class Contents:
    """What tells whether files hold the same: sizes, of some how they begin, and of few their digests, each found once.

    Those in shards are never read, for their indices tell, and those in Parquet always. Entries of stacks, and files
    that cannot be read or are empty, are copies of nothing: their size is 0.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._beginnings: dict[str, bytes] = {}
        self._digests: dict[str, bytes] = {}

    def size(self, file: str) -> int:
        """Bytes of a file."""
        if file not in self._sizes:
            self._sizes[file] = 0
            with contextlib.suppress(OSError, ValueError, MediaError):
                if is_member(file):
                    self._sizes[file], self._digests[file] = member_facts(file)
                elif not is_stacked(file):
                    self._sizes[file] = os.stat(file).st_size
        return self._sizes[file]

    def beginning(self, file: str) -> bytes:
        """A digest of a file's first BEGINNING bytes, nothing of one that cannot be read or is a member."""
        if file not in self._beginnings:
            self._beginnings[file] = b""
            with contextlib.suppress(OSError), open(file, "rb", buffering=0) as stream:
                self._beginnings[file] = hashlib.sha256(stream.read(BEGINNING)).digest()[:16]
        return self._beginnings[file]

    def digest(self, file: str) -> bytes:
        """The SHA-256 of a file, nothing of one that cannot be read."""
        if file not in self._digests:
            self._digests[file] = b""
            with contextlib.suppress(OSError), open(file, "rb") as stream:
                self._digests[file] = hashlib.file_digest(stream, "sha256").digest()
        return self._digests[file]


def copies(first: Iterable[str], second: Iterable[str], *, contents: Contents | None = None) -> list[tuple[str, str]]:
    """Pairs of a file of the second list and one of the first that has the same bytes, in the second list's order.

    Only files whose sizes agree are read.
    """
    contents = contents or Contents()
    by_size: dict[int, list[str]] = {}
    for file in first:
        by_size.setdefault(contents.size(file), []).append(file)
    by_size.pop(0, None)
    by_digest: dict[int, dict[bytes, str]] = {}
    pairs = []
    for file in second:
        if (size := contents.size(file)) not in by_size:
            continue
        if size not in by_digest:  # of equal ones the first
            by_digest[size] = {contents.digest(other): other for other in reversed(by_size[size])}
        digest = contents.digest(file)
        if digest and digest in by_digest[size]:
            pairs.append((file, by_digest[size][digest]))
    return pairs


def with_two_labels(
    files: Sequence[str], labels: Sequence[int], *, contents: Contents | None = None
) -> list[tuple[str, str]]:
    """Pairs of a file and the first one that has the same bytes and another label, in the list's order.

    Only files whose size one of another label has are opened, and only those that begin like it, too, are read.
    """
    contents = contents or Contents()
    alike: Sequence[int] = range(len(files))
    # What is in shards has its digest at hand, and not how it begins.
    for look in (contents.size,) if any(map(is_member, files)) else (contents.size, contents.beginning):
        found: dict[Hashable, set[int]] = {}
        for number in alike:
            found.setdefault(look(files[number]), set()).add(labels[number])
        alike = [n for n in alike if look(files[n]) and len(found[look(files[n])]) > 1]
    firsts: dict[bytes, dict[int, str]] = {}  # the first file of each label
    for number in alike:
        firsts.setdefault(contents.digest(files[number]), {}).setdefault(labels[number], files[number])
    firsts.pop(b"", None)
    pairs = []
    for number in alike:
        of_label = firsts.get(contents.digest(files[number]), {})
        other = next((file for label, file in of_label.items() if label != labels[number]), None)
        if other is not None:
            pairs.append((files[number], other))
    return pairs


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
