"""What has been found so far: lines of JSON that are only ever added to, so that a check that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unidual_zoo.data.checking.examine import Finding

VERSION = 1  # of what a finding says; others are found again


def read_state(path: Path) -> dict[tuple[str, int, int], Finding]:
    """The latest finding about each file as it was. A line that is cut or of another version says nothing."""
    found = {}
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    if row.pop("version") == VERSION:
                        finding = Finding.from_dict(row)
                        found[finding.key] = finding
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue
    return found


@contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """The file of the state, to be written with `write_finding`; it begins on a line of its own."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # it was ended while it wrote
                file.write(b"\n")
    with path.open("a", encoding="utf-8") as file:
        yield file


def write_finding(file: IO[str], finding: Finding) -> None:
    """Adds a line. Names that are no text are escaped, as JSON does."""
    file.write(json.dumps({"version": VERSION, **finding.to_dict()}) + "\n")
    file.flush()
