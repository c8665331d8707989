"""How long one waits before anything happens: the command line's answers and imports, beside those of torch and timm.

    uv run benchmarks/startup.py
        each program five times in turn, after once to warm the disk's cache; some 35 CPU seconds a round
    uv run benchmarks/startup.py --rounds 9 --json startup.json

Each is a process of its own, from its start to its end, on the wall and by CPU time (of all its threads): on a machine
that is shared, CPU time is the figure. `predict` is asked for a file that is not there, so that what it takes is all
that comes before the first file is read: imports, the default network and its weights. `beside` is by CPU time, against
importing torch alone, or torch and timm where the program needs both. To expect: help and complaints in a fraction of
`import torch`, since neither imports it, and `predict` within 1.2 of `import torch, timm`. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import unidual_zoo
from unidual_zoo.tabular import aligned_table

TORCH, TIMM = "import torch", "import torch, timm"
FAILED_FILES, BAD_INPUT = 1, 2  # exit status of the command line


@dataclass(frozen=True)
class Program:
    """A command, its exit status, and the program that it is compared with."""

    arguments: Sequence[str]
    status: int = 0
    beside: str = TORCH


def _command(*arguments: str, **options: Any) -> Program:
    return Program(("-m", "unidual", *arguments), **options)


PROGRAMS: Mapping[str, Program] = {
    TORCH: Program(("-c", TORCH)),
    TIMM: Program(("-c", TIMM)),
    "import unidual_zoo": Program(("-c", "import unidual_zoo"), beside=TIMM),
    "unidual --version": _command("--version"),
    "unidual --help": _command("--help"),
    "unidual predict --help": _command("predict", "--help"),
    "unidual predict --topp 3": _command("predict", "--topp", "3", status=BAD_INPUT),
    "unidual predict, up to the first file": _command("predict", "not-there.jpg", status=FAILED_FILES, beside=TIMM),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {options.rounds}")
    rounds = [{name: measured(program) for name, program in PROGRAMS.items()} for _ in range(options.rounds + 1)]
    found = {name: medians([times[name] for times in rounds[1:]]) for name in PROGRAMS}
    rows = [row(name, found) for name in PROGRAMS]
    header = ("program", "wall s", "CPU s", "beside", "by CPU")
    print(aligned_table(header, [cells(each) for each in rows]), end="")
    text = json.dumps({**versions(), "rounds": options.rounds, "rows": rows})
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


def measured(program: Program) -> tuple[float, float]:
    """(wall, CPU) seconds of a process. A RuntimeError if it ends with another status than it should."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *program.arguments], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode != program.status:
        raise RuntimeError(f"{' '.join(program.arguments)} ended with {done.returncode}: {done.stderr.strip()}")
    used = [getattr(after, part) - getattr(before, part) for part in ("children_user", "children_system")]
    return wall, sum(used)


def medians(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of walls and of CPU times."""
    walls, used = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(used)


def row(name: str, found: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    wall, used = found[name]
    beside = PROGRAMS[name].beside
    return {
        "program": name,
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(used, 3),
        "beside": beside,
        "by_cpu": round(used / found[beside][1], 3),
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    seconds = (f"{row[name]:.2f}" for name in ("wall_seconds", "cpu_seconds"))
    return [row["program"], *seconds, row["beside"], f"{row['by_cpu']:.2f}"]


def versions() -> dict[str, str]:
    import timm
    import torch

    return {
        "python": sys.version.split()[0], "torch": torch.__version__, "timm": timm.__version__,
        "unidual_zoo": unidual_zoo.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    main()
