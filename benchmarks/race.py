"""Contestants that run in turn, round after round, and what each costs; the median of its rounds counts.

CPU seconds are those of all threads, and the ones to look at on a machine that others use, too. `memory` is the peak of
a first round above what the process had before it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import PIL
import torch
from readers import why_not

from unidual_zoo.data.guarded import Guard


@dataclass
class Row:
    """A contestant: what it runs in a round, what a round cost (seconds), and its peak of memory (bytes)."""

    name: str
    run: Callable[[int], Any]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: int | None = None


def race(case: str, rows: Iterator[Row], *, rounds: int, per: str, count: int) -> dict[str, Any]:
    """Runs everyone in turn, and prints the table: of one `per`, of which a round reads `count`."""
    racing = list(rows)
    for row in racing:
        row.memory = peak_of(row)
    for number in range(rounds + 1):
        for row in racing:
            begin, cpu = time.perf_counter(), cpu_seconds()
            row.run(number)
            if number:  # the first round warms up
                row.seconds.append((time.perf_counter() - begin) / count)
                row.cpu.append((cpu_seconds() - cpu) / count)
    print(f"\n{case}\n{'':28} {per + 's/s':>9} {'CPU ms':>9} {'ours is':>8} {'memory':>9}")
    first, table = statistics.median(racing[0].cpu), []
    for row in racing:
        seconds, cpu = statistics.median(row.seconds), statistics.median(row.cpu)
        table.append(
            dict(name=row.name, per_second=1 / seconds, cpu_ms=cpu * 1e3, times=cpu / first, memory=row.memory)
        )
        memory = "" if row.memory is None else f"{row.memory / 2**20:.0f} MiB"
        print(f"{row.name:28} {1 / seconds:9.1f} {cpu * 1e3:9.1f} {cpu / first:7.2f}× {memory:>9}")
    return {"case": case, "per": per, "rows": table}


def cpu_seconds() -> float:
    """Of this process and of those that it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_of(row: Row) -> int | None:
    """The peak of resident memory of a process that runs it once, above what it had before; None off Linux."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    guard = Guard(lambda _: _peak(row), seconds=0)
    try:
        return guard("")
    finally:
        guard.close()


def _peak(row: Row) -> int:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what is held now
    before = resident()
    row.run(0)
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return max(0, int(line.split()[1]) * 1024 - before)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info)}
    found |= {"torch": torch.__version__, "pillow": PIL.__version__}
    for module in ("torchcodec", "cv2", "decord", "simplejpeg"):
        if why_not(module) is None:
            found[module] = str(import_module(module).__version__)
    return found


def tell(result: dict[str, Any], path: Path | None) -> None:
    """Prints what a benchmark found as its last line, JSON, and keeps it in a file if one is named."""
    line = json.dumps(result)
    if path:
        path.write_text(line + "\n")
    print(line)
