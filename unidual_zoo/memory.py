"""Memory that the process has freed stays with it, so that the next batch need not ask the system again.

glibc's malloc gives blocks of megabytes, such as feature maps are, back to the system as soon as they are freed, and
the next ones come as pages that the kernel has to clear: up to half of a small network's CPU time. The first use of a
network on a CPU through this package's ways (`Predictor`, `evaluate`, a training run, the command line) therefore
changes two of malloc's settings for the whole process. The price is that memory, once used, is given back only at the
end.

UNIDUAL_MALLOC=system in the environment leaves malloc as it is, and so do glibc's own variables for these settings.
Other systems and other implementations of malloc are not touched.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from functools import cache

VARIABLE, LEFT_ALONE = "UNIDUAL_MALLOC", "system"
GLIBC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
_NEVER = 2**31 - 1  # bytes at the top of the heap before it shrinks


@cache
def keep_freed_memory() -> bool:
    """Has malloc keep what is freed, once in a process; whether it does now."""
    if not _applies(platform.system(), platform.libc_ver()[0], os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    except (OSError, AttributeError):
        return False


def _applies(system: str, libc: str, environment: Mapping[str, str]) -> bool:
    """Whether this is a glibc whose settings nobody has chosen."""
    chosen = environment.get(VARIABLE) == LEFT_ALONE or any(name in environment for name in GLIBC_VARIABLES)
    return system == "Linux" and libc == "glibc" and not chosen
