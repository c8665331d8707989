"""Gradient Blending (arXiv 1905.12681): losses weighed by how they generalise and overfit when each is trained alone.

A loss that is trained from one checkpoint to a later one generalises by ΔG, the fall of its value on held-out files,
and overfits by ΔO, the growth of the gap between held-out and training files. |ΔO/ΔG| is its
overfitting-to-generalisation ratio (OGR). Up to a common factor, the weights ΔG/ΔO² keep the joint OGR smallest.

The paper weighs heads on several modalities of one label. Weighing the losses of image and video tasks by the same rule
is our extension of it, and so are the guards: a ΔO below `FLOOR`, by which the rule would give one loss everything,
counts as `FLOOR`; a loss that does not generalise, or hardly does, keeps the share `LEAST` of what the losses have on
average, since on few files a ΔG below zero may be noise; one that diverged alone gets no weight.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from unidual_zoo.data.joint import JointBatch, JointLoader
from unidual_zoo.models.base import TaskModel
from unidual_zoo.training.objective import JointObjective

FLOOR = 0.01  # of ΔO, in nats
LEAST = 0.1  # weight of a loss, of what the losses weigh on average before it gets that
FEW = 100  # held-out files of a task: with fewer, the mean of a loss over them is uncertain by tenths of a nat
MEASURED = 16  # batches at most of either kind on which losses are measured


@dataclass(frozen=True)
class Level:
    """A loss on training and on held-out files."""

    training: float
    held_out: float


@dataclass(frozen=True)
class Course:
    """What a loss went through between two checkpoints: by how much it came to overfit, and to generalise."""

    overfitting: float
    generalisation: float

    @classmethod
    def between(cls, before: Level, after: Level) -> Course:
        gap = (after.held_out - after.training) - (before.held_out - before.training)
        return cls(gap, before.held_out - after.held_out)

    @property
    def is_finite(self) -> bool:
        """Whether the loss did not diverge."""
        return math.isfinite(self.overfitting) and math.isfinite(self.generalisation)

    @property
    def ratio(self) -> float:
        """The overfitting-to-generalisation ratio, infinite for a loss that stands still on held-out files."""
        return abs(self.overfitting / self.generalisation) if self.generalisation else math.inf


def blend(courses: Mapping[str, Course]) -> dict[str, float]:
    """Weights of losses from their courses, each trained alone. They sum to the number of losses, as equal ones do.

    Where no loss generalises, all weigh the same, and a warning says so.
    """
    sound = {name: course for name, course in courses.items() if course.is_finite}
    ruled = {name: max(c.generalisation, 0.0) / max(c.overfitting, FLOOR) ** 2 for name, c in sound.items()}
    if not any(ruled.values()):
        warnings.warn("no loss fell on held-out files when it was trained alone: all weigh the same", stacklevel=2)
        return dict.fromkeys(courses, 1.0)
    least = LEAST * sum(ruled.values()) / len(ruled)
    shares = dict.fromkeys(courses, 0.0) | {name: max(share, least) for name, share in ruled.items()}
    return {name: len(shares) * share / sum(shares.values()) for name, share in shares.items()}


class Blender:
    """Measures the losses of an objective, and finds their weights by training each alone.

    Args:
        training, held_out: batches of the training files, and of others drawn from the same source.
        optimizer: makes the optimizer of a copy of the network, and the schedule of its learning rate.
        accumulate, clip_norm: batches per update, and the largest norm of its gradient, as in training.
        to_device: moves a batch's data; `autocast` gives the context of a forward.
    """

    def __init__(
        self,
        *,
        training: JointLoader,
        held_out: JointLoader,
        optimizer: Callable[[TaskModel], tuple[Optimizer, Scheduler]],
        accumulate: int = 1,
        clip_norm: float | None = None,
        to_device: Callable[[JointBatch], dict[str, tuple[Tensor, Tensor]]],
        autocast: Callable[[], AbstractContextManager[None]],
        seed: int,
    ) -> None:
        self.training, self.held_out = training, held_out
        self.optimizer, self.accumulate, self.clip_norm = optimizer, accumulate, clip_norm
        self.to_device, self.autocast, self.seed = to_device, autocast, seed

    def measure(self, objective: JointObjective) -> dict[str, Level]:
        """Every loss as it is on training and on held-out files, in evaluation mode."""
        was_training = objective.training
        objective.eval()
        sides = [self._means(objective, loader) for loader in (self.training, self.held_out)]
        objective.train(was_training)
        return {name: Level(sides[0][name], sides[1][name]) for name in objective.weights}

    def courses(self, objective: JointObjective, *, start: int, stop: int) -> dict[str, Course]:
        """The course of every loss when a copy of the network is trained on it alone, from step `start` to `stop`."""
        before = self.measure(objective)
        after = {name: self.measure(self._alone(objective, name, start, stop))[name] for name in objective.weights}
        return {name: Course.between(before[name], after[name]) for name in objective.weights}

    def _alone(self, objective: JointObjective, loss: str, start: int, stop: int) -> JointObjective:
        """A copy that was trained on one loss, by the optimizer and the schedule with which all are trained."""
        shared = {id(objective.teachers): objective.teachers}  # they do not learn
        alone = copy.deepcopy(objective, shared).train()
        optimizer, schedule = self.optimizer(alone.model)
        schedule.step_update(start // self.accumulate)
        for step, batch in self._batches(self.training, start, stop):
            torch.manual_seed(self.seed + step)
            with self.autocast():
                value = alone(self.to_device(batch))[loss]
            (value / self.accumulate).backward()
            if (step + 1) % self.accumulate == 0:
                if self.clip_norm is not None:
                    clip_grad_norm_(alone.model.parameters(), self.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step_update((step + 1) // self.accumulate)
        return alone

    @torch.no_grad()
    def _means(self, objective: JointObjective, loader: JointLoader) -> dict[str, float]:
        sums: dict[str, float] = dict.fromkeys(objective.weights, 0.0)
        count = min(MEASURED, loader.sampler.steps_per_epoch)
        for step, batch in self._batches(loader, 0, count):
            torch.manual_seed(self.seed + step)  # the frames that an auxiliary loss draws
            with self.autocast():
                losses = objective(self.to_device(batch))
            sums = {name: value + losses[name].item() for name, value in sums.items()}
        return {name: value / count for name, value in sums.items()}

    @staticmethod
    def _batches(loader: JointLoader, start: int, stop: int) -> Iterable[tuple[int, JointBatch]]:
        return zip(range(start, stop), loader.batches(start, stop), strict=True)


def warn_of_few(held_out: Mapping[str, int], *, monitor: float) -> None:
    """Warns of tasks by whose held-out files, whose numbers are given, it cannot be told how a loss generalises."""
    if few := {task: count for task, count in held_out.items() if count < FEW}:
        counts = ", ".join(f"{count} of {task}" for task, count in few.items())
        warnings.warn(
            f"monitor={monitor:g} keeps {counts}: with fewer than {FEW} files weights of losses follow noise; keep "
            "more, or say loss_weights yourself",
            stacklevel=2,
        )


def described(courses: Mapping[str, Course]) -> Iterator[str]:
    """A line on each loss for whoever reads the log."""
    for name, course in courses.items():
        yield (
            f"{name}: overfits by {course.overfitting:.3f}, generalises by {course.generalisation:.3f}, "
            f"ratio {course.ratio:.2f}"
        )
