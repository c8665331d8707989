"""What commands said, and the classes of the network that they are given."""

import json
from pathlib import Path

TASKS = {"things": ("image", 3), "acts": ("video", 2)}
CLASSES = {"things": ("bird", "cup", "key"), "acts": ("falling", "turning")}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def one_sentence(err: str) -> str:
    """The error that a command ended with: one line from this program and no traceback."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("unidual: ")]
    return line
