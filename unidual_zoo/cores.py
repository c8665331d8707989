"""How many processor cores this process may use, and torch kept from starting more threads than that.

A container is often held to few cores of a large machine by a quota of its cgroup, which neither `os.cpu_count` nor the
threads of torch and OpenMP know of: dozens of them then share the time of two, and stand still when it is spent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import torch

CGROUPS = "/sys/fs/cgroup"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # whoever sets one has chosen


def usable_cores() -> int:
    """Cores that this process may use, at least 1: those of its affinity, or as many as its cgroup's quota pays for."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    have = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = quota(_text)
    return have if allowed is None else max(1, min(have, math.ceil(allowed)))


def limit_threads() -> None:
    """Torch's threads are at most as many as the usable cores, unless the environment says how many."""
    if not any(name in os.environ for name in THREAD_VARIABLES) and torch.get_num_threads() > (cores := usable_cores()):
        torch.set_num_threads(cores)


def quota(text: Callable[[str], str | None]) -> float | None:
    """The cores that the cgroups of this process pay for, None without a limit; `text` gives a file's, None if absent.

    The smallest limit counts from the process's own group up to the topmost that is seen, in version 2 and 1.
    """
    limits = [limit for line in (text("/proc/self/cgroup") or "").splitlines() for limit in _limits(line, text)]
    return min(limits, default=None)


def _limits(line: str, text: Callable[[str], str | None]) -> Iterator[float]:
    """The limits of a hierarchy, of which /proc/self/cgroup has the line `number:controllers:path`."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    root = PurePosixPath(CGROUPS, controllers)
    group = PurePosixPath(f"{root}/{path.lstrip('/')}")
    for folder in dict.fromkeys((group, *group.parents, root)):
        if not folder.is_relative_to(root):
            continue
        if controllers:
            words = [text(f"{folder}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        else:
            words = (text(f"{folder}/cpu.max") or "").split()
        if len(words) == 2 and all(word.strip().isdecimal() for word in words) and int(words[1]):  # "max", -1: no limit
            yield int(words[0]) / int(words[1])


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
