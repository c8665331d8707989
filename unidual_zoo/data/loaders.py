"""Processes that load files: which file each is at, and the error that names it when one dies."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import get_worker_info

# What is seen of a process before it is reported dead. Other pipes break, too: that of a printing program, for one.
BROKEN_PIPES = (EOFError, ConnectionResetError, ConnectionRefusedError)
REPORT_SECONDS = 1.0  # a report comes within milliseconds


class LoaderError(RuntimeError):
    """Loading cannot go on: a loader process died, or too many files cannot be read."""


class Reading:
    """Notes which file each process of a loader is reading. It goes to the processes, which share the notes."""

    def __init__(self, files: Sequence[str], num_workers: int) -> None:
        self.files = files
        notes = torch.full((max(1, num_workers), 2), -1)
        self._notes = notes.share_memory_() if num_workers > 0 else notes  # worker -> its process, file

    @contextlib.contextmanager
    def of(self, number: int) -> Iterator[None]:
        """In the block this process reads file `number`, which a MemoryError gets as a note."""
        worker = get_worker_info()
        self._notes[worker.id if worker else 0] = torch.tensor([os.getpid(), number])
        try:
            yield
        except MemoryError as error:
            error.add_note(f"while reading {self.files[number]}")
            raise

    def by_process(self) -> dict[int, str]:
        """The file that each loader process was reading last, by process id."""
        notes: list[list[int]] = self._notes.tolist()
        return {process: self.files[number] for process, number in notes if process >= 0}

    @contextlib.contextmanager
    def deaths_explained(self) -> Iterator[None]:
        """Turns torch's report of a dead loader process into an error naming its file.

        The report may come at any line, even at one of this function's. So whoever uses the results must be in it, too.
        """
        try:
            yield
        except (RuntimeError, *BROKEN_PIPES) as error:
            report = error if isinstance(error, RuntimeError) else _report()
            if isinstance(error, LoaderError) or "DataLoader worker (pid" not in str(report):
                raise
            dead = {int(number) for number in re.findall(r"\d+", str(report))}
            files = [file for process, file in self.by_process().items() if process in dead]
            last = f"; it was reading {', '.join(files)}" if files else ""
            raise LoaderError(f"a data loader process died ({str(report).strip().rstrip('.')}){last}") from error


def _report() -> RuntimeError | None:
    """What torch's signal handler raises within moments if a process died."""
    try:
        time.sleep(REPORT_SECONDS)
    except RuntimeError as report:
        return report
    return None
