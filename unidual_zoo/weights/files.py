"""The files of a saved network: how they are called, their hashes, and what is found in their place."""

from __future__ import annotations

import hashlib
from pathlib import Path

WEIGHTS_FILE, CONFIG = "model.safetensors", "config.json"  # as timm names them; no other weights are read from the Hub
EXPORT = "export"  # the folder of a run directory that holds the two


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_PAGE = (b"<!doctype html", b"<html")
_POINTER = b"version https://git-lfs.github.com/spec/"


def found_in_place(path: Path) -> str | None:
    """What a server or git left in the place of a file, as the end of a sentence: None if it may be the file."""
    with path.open("rb") as file:
        beginning = file.read(256).lstrip().lower()
    if beginning.startswith(_PAGE):
        return "a web page, as servers give in the place of a file (to log in, to confirm, to say what is wrong)"
    if beginning.startswith(_POINTER):
        return "a pointer of Git LFS to a file that was not fetched: `git lfs pull` puts it there"
    return None
