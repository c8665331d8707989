"""How far a long work is: a bar on a terminal, elsewhere a plain line now and then, so that log files stay readable."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30.0  # between two lines; work that takes less has none
USUAL_TERMINAL = {"ncols": 80, "nrows": 24}


class Progress(tqdm):
    """tqdm on a terminal; where standard error is none, a line of the same numbers every LOG_SECONDS, and a last one of
    what is done, if there were others. Not `shown`, it says nothing.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> None:
        self.logged = shown and not sys.stderr.isatty()
        self.begun = self.told = time.monotonic()
        self.told_of: float | None = None  # how many the last line told of
        self.format = {name: options.get(name) for name in ("unit", "unit_scale") if name in options}
        self.first = options.get("initial", 0)
        super().__init__(iterable, disable=not shown or self.logged, **_unknown_size(), **options)
        self.desc, self.postfix = options.get("desc") or "", None  # which tqdm forgets if it is to be silent

    def __iter__(self) -> Iterator[Any]:
        if not self.logged:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()
        self.close()

    def update(self, n: float | None = 1) -> bool | None:
        """Counts `n` more, and tells of them if it is time."""
        if not self.logged:
            return super().update(n)
        self.n += n or 0
        if (now := time.monotonic()) - self.told >= LOG_SECONDS:
            self.told = now
            self._tell(now)
            return True
        return None

    def close(self) -> None:
        """Ends the bar, or the log with a line of all that was done."""
        if self.logged and self.told_of not in (None, self.n) and self.n == self.total:
            self._tell(time.monotonic())
        super().close()

    def _tell(self, now: float) -> None:
        self.told_of = self.n
        print(self.line(now - self.begun), file=sys.stderr, flush=True)

    def reset(self, total: float | None = None) -> None:
        """Begins to count anew; whoever reads a log has a line at the same times as if it went on."""
        self.begun = time.monotonic()
        super().reset(total)

    def leave_out(self, seconds: float) -> None:
        """Does not count seconds that went by to the pace of the work."""
        self.begun += seconds
        if not self.disable:
            self.start_t += seconds
            self.last_print_t += seconds

    def line(self, seconds: float) -> str:
        """What there is to tell after so many seconds."""
        told: dict[str, Any] = dict(prefix=self.desc.removesuffix(": "), postfix=self.postfix, initial=self.first)
        return self.format_meter(self.n, self.total, seconds, ncols=0, **told, **self.format).strip()


def _unknown_size() -> dict[str, int]:
    """The usual size for a terminal that says that it has 0 columns, as those of containers may: tqdm would believe
    it, and draw nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # what is no terminal has no size
        if 0 in os.get_terminal_size(sys.stderr.fileno()):
            return USUAL_TERMINAL
    return {}
