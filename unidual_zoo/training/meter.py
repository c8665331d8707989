"""What a run tells while it trains: losses, speed and the share of time that it waits for data."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from unidual_zoo.names import counted
from unidual_zoo.progress import Progress
from unidual_zoo.training.objective import TOTAL
from unidual_zoo.training.rundir import ADVICE, RunDirectory, RunError

T = TypeVar("T")
# Steps at most whose median is the pace, in a short run a quarter of all; the one before them, which begins everything,
# is not among them.
TIMED_STEPS = 5


class Meter:
    """Collects the losses of the steps on their device; every `every` steps, and at an epoch's end, averages, checks
    and logs them.

    Args:
        step: steps done before; `total` of the whole run, `per_epoch` in an epoch.
        examples: that all processes together see in one step.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: RunDirectory,
        *,
        step: int,
        total: int,
        per_epoch: int,
        examples: int,
        every: int,
    ) -> None:
        self.accelerator, self.run = accelerator, run
        self.step, self.per_epoch, self.examples, self.every = step, per_epoch, examples, every
        self.bar = Progress(total=total, initial=step, unit="step", shown=accelerator.is_main_process and total > 0)
        self._total, self._timed = total, min(TIMED_STEPS, max(1, (total - step) // 4))
        self._before = f", {step} of them done before" if step else ""
        self._ends: list[float] = []  # when the first steps of this process ended
        self._losses: list[dict[str, Tensor]] = []
        self._lr = 0.0
        self._waited = 0.0
        self._since = time.perf_counter()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with the time measured that it takes to get them."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def add(self, losses: dict[str, Tensor], *, lr: float) -> None:
        """Counts a step, its losses and its learning rate."""
        self._losses.append({name: loss.detach() for name, loss in losses.items()})
        self._lr = lr
        self.step += 1
        self.bar.set_description(f"epoch {self._epoch(self.step)}", refresh=False)
        if self.step % self.every == 0 or self.step % self.per_epoch == 0:
            self.flush()  # before the bar moves, which shows these losses
        self.bar.update()
        self._foretell()

    def flush(self) -> None:
        """Logs the steps since the last time, if there are any, averaged over them and over the processes.

        Raises:
            RunError: a loss was not finite; it says which and in which step. All processes raise it together.
        """
        if not self._losses:
            return
        names, first = list(self._losses[0]), self.step - len(self._losses)
        values = torch.stack([torch.stack(list(losses.values())) for losses in self._losses]).float()
        values = self.accelerator.reduce(values, reduction="mean")  # (steps, losses)
        assert isinstance(values, Tensor)
        if not values.isfinite().all():
            row, column = (~values.isfinite()).nonzero()[0].tolist()
            name, step = names[column], first + row + 1
            raise RunError(
                f"loss {name} is {values[row, column].item()} in step {step}, epoch {self._epoch(step)}, at lr "
                f"{self._lr:.3g}; {self.run.what_is_kept()}; {ADVICE}"
            )
        seconds = time.perf_counter() - self._since
        means = dict(zip(names, values.mean(0).tolist(), strict=True))
        speed = {"examples/s": self.examples * len(values) / seconds, "waiting for data": self._waited / seconds}
        curves = {f"loss/{name}": value for name, value in means.items()} | {"lr": self._lr} | speed
        self.run.log("train", step=self.step, epoch=self.step / self.per_epoch, curves=curves)
        shown = {name: f"{value:.3f}" for name, value in means.items() if name != TOTAL}
        self.bar.set_postfix({**shown, "lr": f"{self._lr:.2g}", "examples/s": f"{speed['examples/s']:.0f}"})
        self._losses, self._waited, self._since = [], 0.0, time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training's, such as an evaluation's."""
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self._since += spent
        self.bar.leave_out(spent)

    def _foretell(self) -> None:
        """After the first steps, which tell their pace, says how long the others will take."""
        left = self._total - self.step
        if len(self._ends) > self._timed or left == 0 or not self.accelerator.is_main_process:
            return
        self._ends.append(time.perf_counter())
        if len(self._ends) > self._timed:
            pace = statistics.median(after - before for before, after in pairwise(self._ends))
            self.bar.write(
                f"{counted(self._total, 'step')}{self._before}, {self.per_epoch} in an epoch, at {pace:.2g} s each: "
                f"about {in_words(pace * left)} to go, without the evaluations",
                file=sys.stderr,
            )

    def _epoch(self, step: int) -> int:
        """The epoch, from 1, in which a step lies, from 1."""
        return math.ceil(step / self.per_epoch)


def in_words(seconds: float) -> str:
    """A time for a reader: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
