"""Processes that load files: which file each is at, and the error that names it when one dies."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import get_worker_info


class LoaderError(RuntimeError):
    """Loading cannot go on: a loader process died, or too many files cannot be read."""


class Reading:
    """Notes which file each process of a loader is reading. It goes to the processes, which share the notes."""

    def __init__(self, files: Sequence[str], num_workers: int) -> None:
        self.files = files
        self._notes = torch.full((max(1, num_workers), 2), -1).share_memory_()  # worker -> its process, file

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
        """Turns torch's report of a dead loader process, which may come at any line, into an error naming its file."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, LoaderError) or "DataLoader worker (pid" not in str(error):
                raise
            dead = {int(number) for number in re.findall(r"\d+", str(error))}
            files = [file for process, file in self.by_process().items() if process in dead]
            last = f"; it was reading {', '.join(files)}" if files else ""
            raise LoaderError(f"a data loader process died ({str(error).strip().rstrip('.')}){last}") from error
