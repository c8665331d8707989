"""Skip lists: the files that a data set shall do without, in plain text, a path a line with the reason.

    # what `unidual check-data photos` found; a line begun with # is not read
    train/cat/0017.jpg<TAB>unreadable: image file is truncated (3 bytes not processed)

Paths are relative to the folder that was checked, or to the folder of the list of files. A backslash, tab or line break
in a name stands as \\\\, \\t, \\n or \\r, and a name that begins with # as ./#.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from unidual_zoo.data.media import PathLike
from unidual_zoo.data.shards import is_remote

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPES = {written: letter for letter, written in _ESCAPES.items()}


def base_folder(source: PathLike) -> Path:
    """The folder to which a data set's paths are relative: itself, or that of its list."""
    source = Path(source)
    return source if source.is_dir() else source.parent


def relative_name(file: PathLike, base: Path) -> str:
    """The path of a file as skip lists write it: relative to the base, unless it lies elsewhere or at an address."""
    if is_remote(file):
        return os.fspath(file)
    name = os.path.relpath(file, base)
    return os.path.abspath(file) if name.startswith(os.pardir + os.sep) else name


def write_skip_list(path: Path, skipped: Iterable[tuple[str, str]], *, comments: Iterable[str] = ()) -> None:
    """(name, reason) of each file, behind the comments."""
    lines = [f"# {_one_line(comment)}" for comment in comments]
    lines += [f"{_written(name)}\t{_one_line(reason)}" for name, reason in skipped]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape", newline="\n")


def read_skip_list(path: PathLike, base: Path) -> dict[str, str]:
    """The absolute path of every file that shall be skipped -> the reason.

    Raises:
        ValueError: the list is not there, or is no text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"skip list {path}: it cannot be read ({error.strerror})") from None
    if "\0" in text:
        raise ValueError(f"skip list {path}: it is no text")
    skipped = {}
    for line in text.split("\n"):
        name, _, reason = line.rstrip("\r").partition("\t")
        if name and not name.startswith("#"):
            file = _read(name)
            skipped[os.path.abspath(file if is_remote(file) else base / file)] = reason
    return skipped


def _written(name: str) -> str:
    escaped = "".join(_ESCAPES.get(letter, letter) for letter in name)
    return f"./{escaped}" if escaped.startswith("#") else escaped


def _read(written: str) -> str:
    return re.sub(r"\\[\\tnr]", lambda found: _UNESCAPES[found[0]], written)


def _one_line(text: str) -> str:
    return " ".join(text.split())
