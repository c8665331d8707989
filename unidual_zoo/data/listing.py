"""What lies in folders: every file once whatever links there are, without what systems leave behind.

A folder or an entry that cannot be looked at is named in a warning, and the others are listed all the same.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from unidual_zoo.data.media import PathLike, is_media

# What network storage, recycle bins, archives, file systems, indexers and notebooks put beside people's files, some of
# it copies of them. Capitals do not matter.
MACHINE_MADE = frozenset(
    name.casefold()
    for name in (
        "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb", "@tmp", "@sharebin",
        "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "ehthumbs.db", "desktop.ini", "found.000",
        ".Trashes", ".Trash", ".Spotlight-V100", ".fseventsd", ".TemporaryItems", ".AppleDouble", "__MACOSX",
        "Network Trash Folder", "Temporary Items", "Icon\r", "lost+found", ".thumbnails", ".ipynb_checkpoints",
        "__pycache__",
    )
)  # fmt: skip
_TRASH_OF_USER = ".trash-"  # .Trash-1000
_MAGIC = re.compile(r"[*?[]")  # makes a path a pattern
_ANY_FOLDERS = "**"


class Found(NamedTuple):
    """Files, sorted, and how often each kind of what systems leave behind was skipped."""

    files: list[str]
    machine_made: Counter[str]


class Folder(NamedTuple):
    """What one folder holds, sorted by name; hidden things are left out."""

    folders: list[os.DirEntry[str]]
    files: list[os.DirEntry[str]]
    machine_made: list[os.DirEntry[str]]


def is_machine_made(name: str) -> bool:
    """Whether a file or folder of this name was made by a system and not by people."""
    plain = name.casefold()
    return plain in MACHINE_MADE or plain.startswith(_TRASH_OF_USER)


def is_pattern(path: str) -> bool:
    """Whether the path has characters that stand for others, and there is no file of that very name."""
    return bool(_MAGIC.search(path)) and not os.path.exists(path)


def look_into(folder: PathLike) -> Folder:
    """The folders (and links to folders), the files and the machine-made things in one folder."""
    inside = Folder([], [], [])
    for entry in _entries(folder):
        if is_machine_made(entry.name):
            inside.machine_made.append(entry)
        elif not entry.name.startswith("."):
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                warnings.warn(
                    f"{entry.path}: left out, it cannot be looked at ({error.strerror or error})", stacklevel=1
                )
                continue
            if not is_folder and not is_media(entry.name) and entry.is_symlink() and not os.path.exists(entry.path):
                warnings.warn(f"{entry.path}: left out, the link leads nowhere", stacklevel=1)
                continue
            (inside.folders if is_folder else inside.files).append(entry)
    return inside


def files_below(folder: PathLike) -> Found:
    """The files in a folder and in all folders and links to folders in it, relative to it; no hidden ones."""
    files: list[str] = []
    machine_made = Counter[str]()
    for place, inside in _walk(folder):
        files += [os.path.join(place, entry.name) for entry in inside.files]
        machine_made.update(entry.name for entry in inside.machine_made)
    return Found(sorted(files), machine_made)


def files_matching(pattern: str) -> Found:
    """The files that match a pattern and those below folders that do; each path begins as the pattern does.

    `*`, `?` and `[…]` stand for parts of a name as in a shell, `**` for any folders. None of them stands for a hidden
    or machine-made name, and links that lead round in circles are followed once.
    """
    pattern = pattern.replace(os.altsep or os.sep, os.sep)  # Windows has two
    start = pattern.rfind(os.sep, 0, _first_magic(pattern)) + 1
    machine_made: set[str] = set()
    files: set[str] = set()
    for match in set(_expand(os.path.dirname(pattern[:start]), pattern[start:].split(os.sep), machine_made)):
        if not os.path.isdir(match or os.curdir):
            files.add(match)
            continue
        for place, inside in _walk(match or os.curdir):
            files |= {os.path.join(match, place, entry.name) for entry in inside.files}
            machine_made |= {entry.path for entry in inside.machine_made}
    return Found(sorted(files), Counter(map(os.path.basename, machine_made)))


def warn_of_left_out(place: PathLike, files: Sequence[PathLike], machine_made: Counter[str]) -> None:
    """Warns of files that are neither images nor videos by their extensions, and of what systems leave behind."""
    kinds = Counter(os.path.splitext(file)[1].lower() or "with none" for file in files if not is_media(file))
    parts = {
        "files that are neither images nor videos by extension": kinds,
        "what systems leave behind": machine_made,
    }
    if said := [f"{what}: {_counts(counts)}" for what, counts in parts.items() if counts]:
        warnings.warn(f"{place}: left out {'; and '.join(said)}", stacklevel=2)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _first_magic(pattern: str) -> int:
    found = _MAGIC.search(pattern)
    return found.start() if found else len(pattern)


def _entries(folder: PathLike) -> list[os.DirEntry[str]]:
    """Everything in a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        warnings.warn(
            f"{folder}: its files are left out, it cannot be listed ({error.strerror or error})", stacklevel=1
        )
        return []


def _walk(folder: PathLike) -> Iterator[tuple[str, Folder]]:
    """(path relative to the folder, what is there) of the folder and of all below it, each real folder once.

    Links come after all that is reached without them, so that a file's path is its own where it has one.
    """
    seen: set[str] = set()
    folders, links = [""], deque[str]()
    while folders or links:
        place = folders.pop() if folders else links.popleft()
        path = os.path.join(folder, place)
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        inside = look_into(path)
        for entry in inside.folders:
            (links if entry.is_symlink() else folders).append(os.path.join(place, entry.name))
        yield place, inside


def _expand(folder: str, parts: Sequence[str], machine_made: set[str]) -> Iterator[str]:
    """What the parts of a pattern match in a folder, "" being the current one; adds what was skipped."""
    if not parts:
        yield folder
        return
    if not os.path.isdir(folder or os.curdir):
        return
    part, rest = parts[0], parts[1:]
    if part == _ANY_FOLDERS and not rest:
        yield folder  # with all that is below it
    elif part == _ANY_FOLDERS == rest[0]:
        yield from _expand(folder, rest, machine_made)
    elif part == _ANY_FOLDERS:
        for place, inside in _walk(folder or os.curdir):
            machine_made |= {entry.path for entry in inside.machine_made if os.path.isdir(entry.path)}
            yield from _expand(os.path.join(folder, place), rest, machine_made)
    elif not _MAGIC.search(part):
        if os.path.lexists(path := os.path.join(folder, part)):
            yield from _expand(path, rest, machine_made)
    else:
        for entry in _entries(folder or os.curdir):
            if not fnmatch(entry.name, part) or (entry.name.startswith(".") and not part.startswith(".")):
                continue
            if is_machine_made(entry.name):
                machine_made.add(entry.path)
            elif not rest or os.path.isdir(entry.path):
                yield from _expand(os.path.join(folder, entry.name), rest, machine_made)
