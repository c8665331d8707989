"""The files of a saved network: how they are called, and their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

WEIGHTS_FILE, CONFIG = "model.safetensors", "config.json"  # as timm names them; no other weights are read from the Hub
EXPORT = "export"  # the folder of a run directory that holds the two


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
