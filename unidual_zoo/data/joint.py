"""Joint batches of several tasks: which examples a step sees, and how they are read.

Every step gives each task its share of the batch, the same on every rank; each task's files come in an endless shuffled
order of which the ranks take turns. All of it follows from (seed, step, rank), so that a resumed run sees the batches
that it would have seen. A step number counts from the start of training, through all epochs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, chain
from math import floor, lcm
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unidual_zoo.data.datasets import MediaSet, load_clips, load_image
from unidual_zoo.data.guarded import guarded
from unidual_zoo.data.loaders import LoaderError, Reading
from unidual_zoo.data.media import MediaError, MediaWarning, file_boundary
from unidual_zoo.data.sampling import random_clip
from unidual_zoo.data.warned import collected
from unidual_zoo.names import counted
from unidual_zoo.spec import IMAGE, ClipSpec

MIXES = ("equal", "proportional")
REPLACEMENTS = 10  # files tried in place of one that cannot be read
_SHUFFLE, _EXAMPLE = 0, 1  # the two kinds of random numbers


class Draw(NamedTuple):
    """File number `index` of a task, drawn at `position` of the task's endless order."""

    task: str
    index: int
    position: int


class JointBatch(NamedTuple):
    """What one step sees, and (file, reason) of those that could not be read and were replaced, and of warnings."""

    data: dict[str, tuple[Tensor | dict[str, Tensor], Tensor]]
    failed: list[tuple[str, str]]
    warned: list[tuple[str, str]]


def step_shares(batch_size: int, weights: Sequence[float], num_steps: int) -> np.ndarray:
    """Examples of each task in each step: (num_steps, tasks), every row of the sum `batch_size`.

    On average a task has `batch_size` × its part of the weights, rounded up in some steps by turns (16 of three equal
    tasks: 6 + 5 + 5, 5 + 6 + 5, 5 + 5 + 6), and never less than 1, so that every head has a gradient in every step.
    """
    num_tasks = len(weights)
    if batch_size < num_tasks:
        raise ValueError(f"batch_size {batch_size} must be at least the number of tasks, {num_tasks}")
    if any(weight <= 0 for weight in weights):
        raise ValueError(f"weights of tasks must be positive, got {list(weights)}")
    shares = _at_least_one(batch_size, [Fraction(weight) for weight in weights])
    whole = [floor(share) for share in shares]
    num_extra = batch_size - sum(whole)
    scale = lcm(*(share.denominator for share in shares))
    due = [int((share - floor(share)) * scale) for share in shares]  # per step, in units of 1/scale example

    rows = np.tile(np.array(whole), (num_steps, 1))
    if num_extra == 0:
        return rows
    credit = [0] * num_tasks
    for row in rows:
        credit = [have + more for have, more in zip(credit, due, strict=True)]
        for task in sorted(range(num_tasks), key=lambda task: -credit[task])[:num_extra]:
            row[task] += 1
            credit[task] -= scale
    return rows


def _at_least_one(batch_size: int, weights: list[Fraction]) -> list[Fraction]:
    """`batch_size` divided by weight; tasks that would get less than 1 get 1, the others the rest."""
    raised: set[int] = set()
    while True:
        rest = batch_size - len(raised)
        total = sum(weight for task, weight in enumerate(weights) if task not in raised)
        shares = [Fraction(1) if task in raised else rest * weight / total for task, weight in enumerate(weights)]
        below = {task for task, share in enumerate(shares) if share < 1}
        if not below:
            return shares
        raised |= below


class JointSampler:
    """Chooses the files of every step: `batch(step)` for this rank, `batches(start, stop)` for one step after another.

    Args:
        sizes: number of files of each task.
        batch_size: examples per step and process, over all tasks.
        epoch_size: examples per epoch, over all tasks and processes.
        mix: "equal" (the paper), "proportional" to the sizes (CoVeR), or weights by task.

    Raises:
        ValueError: a task without files, an unknown mix, or weights of other tasks.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batch_size: int,
        epoch_size: int,
        mix: str | Mapping[str, float] = "equal",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if empty := [task for task, size in sizes.items() if size < 1]:
            raise ValueError(f"no training files for {', '.join(empty)}")
        self.sizes = dict(sizes)
        self.seed, self.rank, self.world = seed, rank, world
        self.steps_per_epoch = max(1, epoch_size // (batch_size * world))
        self._shares = step_shares(batch_size, mix_weights(sizes, mix), self.steps_per_epoch)
        self._before = np.concatenate([np.zeros((1, len(sizes)), dtype=int), self._shares.cumsum(0)])

    def shares(self, step: int) -> dict[str, int]:
        """How many examples of each task a rank sees in a step."""
        return dict(zip(self.sizes, self._shares[step % self.steps_per_epoch].tolist(), strict=True))

    def drawn(self, steps: int) -> dict[str, int]:
        """How many examples of each task all ranks have seen together after so many steps: positions of its order."""
        epochs, at = divmod(steps, self.steps_per_epoch)
        counts = self.world * (epochs * self._before[-1] + self._before[at])
        return dict(zip(self.sizes, counts.tolist(), strict=True))

    def order(self, task: str, turn: int) -> np.ndarray:
        """The numbers of a task's files in the order of one turn through all of them, (files,)."""
        number = list(self.sizes).index(task)
        return _permutation(self.seed, number, turn, self.sizes[task])

    def batch(self, step: int) -> list[Draw]:
        """This rank's draws for a step, task by task."""
        epoch, at = divmod(step, self.steps_per_epoch)
        draws = []
        for number, (task, share) in enumerate(self.shares(step).items()):
            drawn = epoch * self._before[-1, number] + self._before[at, number]  # by each rank until now
            first = int(drawn) * self.world + self.rank * share
            draws += [Draw(task, self._index(number, place), place) for place in range(first, first + share)]
        return draws

    def batches(self, start: int, stop: int) -> Iterator[list[Draw]]:
        """The batches of the steps from `start` until before `stop`."""
        return map(self.batch, range(start, stop))

    def _index(self, number: int, position: int) -> int:
        """The file at a position of a task's endless order: one permutation of all files after the other."""
        size = list(self.sizes.values())[number]
        turn, place = divmod(position, size)
        return int(_permutation(self.seed, number, turn, size)[place])


@lru_cache(maxsize=16)
def _permutation(seed: int, number: int, turn: int, size: int) -> np.ndarray:
    return np.random.default_rng([_SHUFFLE, seed, number, turn]).permutation(size)


def mix_weights(sizes: Mapping[str, int], mix: str | Mapping[str, float]) -> list[float]:
    """What examples the tasks have in relation to each other, in the order of `sizes`; see `JointSampler`."""
    if mix == "equal":
        return [1] * len(sizes)
    if mix == "proportional":
        return list(sizes.values())
    if isinstance(mix, str):
        raise ValueError(f"mix {mix!r} is not known, allowed: {', '.join(MIXES)}, or weights by task")
    if set(mix) != set(sizes):
        raise ValueError(f"mix gives weights for {', '.join(mix)}, the tasks are {', '.join(sizes)}")
    return [mix[task] for task in sizes]


class Example(NamedTuple):
    """What became of a draw: a uint8 image (3, H, W) or clip (3, T, H, W), or by pathway what was kept of a view of it;
    None if no file could be read."""

    task: str
    x: Tensor | dict[str, Tensor] | None
    label: int
    failed: list[tuple[str, str]]
    warned: list[tuple[str, str]]


class JointDataset(Dataset):
    """`Draw` -> `Example`. A file that cannot be read is replaced by another of its task, for a draw always the same.

    Args:
        media: the training files of each task.
        transform: crops frames (..., 3, H, W) uint8, all frames of a clip alike (`train_transform`).
        augment: changes images (3, H, W) or clips (3, T, H, W), uint8. Both draw random numbers from torch alone.
        num_workers: the number of loader processes; each notes which file it is reading, in `reading`.
        kept: what gives the examples of a task instead of its files.
        file_seconds: that reading one file may take, by a process that is then ended; None: UNIDUAL_FILE_SECONDS says.
    """

    def __init__(
        self,
        media: Mapping[str, MediaSet],
        *,
        clip: ClipSpec,
        transform: Callable[[Tensor], Tensor],
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        file_seconds: float | None = None,
        kept: Mapping[str, Callable[[Draw], Example]] | None = None,
    ) -> None:
        self.media = dict(media)
        self.kept = dict(kept or {})
        self.clip = clip
        self.transform = transform
        self.augment = augment
        self.seed = seed
        self.num_workers = num_workers
        self._loads = guarded(self._load, file_seconds)
        sizes = [len(each) for each in self.media.values()]
        self._first = dict(zip(self.media, accumulate(sizes, initial=0), strict=False))  # of the files of all tasks
        self.reading = Reading(tuple(chain.from_iterable(each.files for each in self.media.values())), num_workers)

    def __getitem__(self, draw: Draw) -> Example:
        if draw.task in self.kept:
            return self.kept[draw.task](draw)
        number = list(self.media).index(draw.task)
        media = self.media[draw.task]
        rng = np.random.default_rng([_EXAMPLE, self.seed, number, draw.position])
        failed: list[tuple[str, str]] = []
        index = draw.index
        with collected() as warned:
            for _ in range(1 + REPLACEMENTS):
                try:
                    with self.reading.of(self._first[draw.task] + index):
                        x = self._read(media, index, rng)
                        label = _one_of(media.labels_of(index), rng)
                    break
                except MediaError as error:
                    failed.append((error.path, error.reason))
                    index = int(rng.integers(len(media.files)))
            else:
                x, label = None, -1
        return Example(draw.task, x, label, failed, [(warning.path, warning.reason) for warning in warned])

    def _read(self, media: MediaSet, index: int, rng: np.random.Generator) -> Tensor:
        path = media.files[index]
        return self._loads(path, media.modality, int(rng.integers(2**63)), rng)

    def _load(self, path: str, modality: str, seed: int, rng: np.random.Generator) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds absent GPUs, too
            with file_boundary(path):
                x = self._decoded(path, modality, rng)
            return x if self.augment is None else self.augment(x)

    def _decoded(self, path: str, modality: str, rng: np.random.Generator) -> Tensor:
        if modality == IMAGE:
            return load_image(path, self.transform)
        return load_clips(path, lambda n, rate: [random_clip(n, self.clip, rate=rate, rng=rng)], self.transform)[0]


def _one_of(labels: Sequence[int], rng: np.random.Generator) -> int:
    """The label that a file with several is trained on this time; of all random numbers of a draw it takes the last."""
    return labels[0] if len(labels) == 1 else labels[int(rng.integers(len(labels)))]


def collate(examples: list[Example]) -> JointBatch:
    """The examples of one step, task by task; those that could not be read at all are missing."""
    data = {}
    for name in dict.fromkeys(example.task for example in examples):
        there = [(example.x, example.label) for example in examples if example.task == name and example.x is not None]
        if there:
            data[name] = (_stacked([x for x, _ in there]), torch.tensor([label for _, label in there]))
    failed = [failure for example in examples for failure in example.failed]
    return JointBatch(data, failed, [warning for example in examples for warning in example.warned])


def _stacked(examples: Sequence[Any]) -> Any:
    if isinstance(examples[0], Tensor):
        return torch.stack(list(examples))
    return {pathway: torch.stack([example[pathway] for example in examples]) for pathway in examples[0]}


class JointLoader:
    """The batches of this rank in the order of the steps. It is rank-aware and must not be sharded again.

    Args:
        max_failed: how many different files may fail to be read in this process before it stops.

    `failed` holds them: file -> reason. Set it when training resumes. Warnings of files are given here, once for each.
    """

    def __init__(self, dataset: JointDataset, sampler: JointSampler, *, max_failed: int, pin: bool = False) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.max_failed, self.pin = max_failed, pin
        self.failed: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()

    def batches(self, start: int, stop: int) -> Iterator[JointBatch]:
        """The batches of the steps from `start` until before `stop`.

        Raises:
            LoaderError: more than `max_failed` files could not be read, or no replacement could, or a process died.
        """
        counts = (sum(self.sampler.shares(step).values()) for step in range(start, stop))
        return self._read(self.sampler.batches(start, stop), counts, start)

    def read(self, draws: Sequence[list[Draw]]) -> Iterator[JointBatch]:
        """Batches of these draws in place of the sampler's; see `batches` for errors."""
        return self._read(iter(draws), map(len, draws), 0)

    def _read(self, draws: Iterator[list[Draw]], counts: Iterable[int], start: int) -> Iterator[JointBatch]:
        loader = DataLoader(
            self.dataset,
            batch_sampler=draws,  # pyright: ignore[reportArgumentType]
            collate_fn=collate,
            num_workers=self.dataset.num_workers,
            pin_memory=self.pin,
        )
        with self.deaths_explained():
            for step, (wanted, batch) in enumerate(zip(counts, loader, strict=True), start):
                self._warn(batch.warned)
                self.failed |= dict(batch.failed)
                last = "; ".join(f"{path}: {reason}" for path, reason in batch.failed[-3:])
                if len(self.failed) > self.max_failed:
                    count = counted(len(self.failed), "training file")
                    raise LoaderError(
                        f"step {step}: {count} could not be read, {self.max_failed} may; the last: {last}"
                    )
                if sum(len(labels) for _, labels in batch.data.values()) < wanted:
                    raise LoaderError(
                        f"step {step}: {1 + REPLACEMENTS} training files in a row could not be read; the last: {last}"
                    )
                yield batch

    def _warn(self, warned: Sequence[tuple[str, str]]) -> None:
        for path, reason in dict.fromkeys(warned):
            if (path, reason) not in self._warned:
                self._warned.add((path, reason))
                warnings.warn(MediaWarning(path, reason), stacklevel=3)

    def deaths_explained(self) -> contextlib.AbstractContextManager[None]:
        """See `loaders.Reading`: whoever uses the batches must be in it."""
        return self.dataset.reading.deaths_explained()
