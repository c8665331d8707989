"""Features that are computed once and kept, where all that comes before what learns is frozen.

Of each training file a few views are kept: what the first looks at it would have seen, were nothing kept. Later looks
repeat them by turns. Of a file by which epochs are compared the protocol's views are. They are rows of logs in the run
directory, two logs for each process: a run that was killed while it computed them goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.data.joint import Draw, Example, JointBatch, JointLoader, JointSampler
from unidual_zoo.features import tensors_digest
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import counted
from unidual_zoo.rowlog import Row, RowLog, RowTable
from unidual_zoo.scoring import FileScores, Route, ViewRoute, score_files
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.recipes import Recipe
from unidual_zoo.training.rundir import RunError

GIGABYTE = 10**9
_LABEL = "label"


def views_to_keep(
    sizes: Mapping[str, int],
    drawn: Mapping[str, int],
    bytes_per_view: Mapping[str, int],
    *,
    most: Mapping[str, int],
    room: float,
) -> dict[str, int]:
    """How many views of each task's files are kept; empty if there is no `room`, in bytes, for one.

    It is at most what the task says, and what the run looks at: `drawn` examples of `sizes` files.
    """
    for views in range(max(most.values(), default=0), 0, -1):
        kept = {task: min(views, most[task], math.ceil(drawn[task] / sizes[task])) for task in sizes}
        if sum(min(kept[task] * sizes[task], drawn[task]) * bytes_per_view[task] for task in kept) <= room:
            return kept
    return {}


class KeptViews:
    """`Draw` -> `Example` of a task, from the features of `views` looks at each of its files."""

    def __init__(self, table: RowTable, sampler: JointSampler, task: str, *, views: int) -> None:
        self.table, self.sampler, self.task, self.views = table, sampler, task, views
        self._places: dict[int, np.ndarray] = {}

    def __call__(self, draw: Draw) -> Example:
        return Example(self.task, *self._view(self.place(draw)), [], [])

    def first_looks(self, positions: Iterable[int]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Features by pathway and label of the first looks at files, at these positions in the task's order; of those
        that the run never comes to nothing."""
        return (self._view(position) for position in positions if key_of(self.task, position) in self.table)

    def place(self, draw: Draw) -> int:
        """The position in the task's order of the look that this one repeats."""
        size = self.sampler.sizes[self.task]
        turn = draw.position // size
        if turn < self.views:
            return draw.position
        view = turn % self.views
        if view not in self._places:  # where in the turn each file comes
            self._places[view] = np.argsort(self.sampler.order(self.task, view))
        return view * size + int(self._places[view][draw.index])

    def _view(self, position: int) -> tuple[dict[str, Tensor], int]:
        row = self.table.row(key_of(self.task, position))
        return {pathway: torch.from_numpy(array.copy()) for pathway, array in row.arrays.items()}, row.facts[_LABEL]


def key_of(task: str, position: int) -> str:
    """The key of a row."""
    return f"{task}/{position}"


def draws_to_keep(sampler: JointSampler, views: Mapping[str, int], drawn: Mapping[str, int]) -> Iterator[Draw]:
    """The looks whose features this process computes: of all processes each takes its turn."""
    for task, count in views.items():
        size = sampler.sizes[task]
        for position in range(sampler.rank, min(count * size, drawn[task]), sampler.world):
            yield Draw(task, int(sampler.order(task, position // size)[position % size]), position)


def as_kept(model: TaskModel, settled: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Settled features by pathway -> what is written: pooled ones as float32, unpooled ones, which are many, as
    float16."""
    halved = {pathway for pathway in settled if model.learnt_pooling(pathway) is not None}
    return {
        pathway: x.to("cpu", torch.float16 if pathway in halved else torch.float32).numpy()
        for pathway, x in settled.items()
    }


class FeatureKeeper:
    """Computes what is to be kept, for the objective of a run.

    Args:
        loader: reads the files; its sampler says which looks there will be, until step `steps`.
    """

    def __init__(self, objective: JointObjective, loader: JointLoader, recipe: Recipe, *, steps: int) -> None:
        self.objective, self.loader, self.recipe = objective, loader, recipe
        self.device = next(objective.parameters()).device
        sampler, data = loader.sampler, recipe.data
        self.drawn = sampler.drawn(steps)
        settled = objective.settled_tasks() if data.feature_views and recipe.optim.blend == "no" else []
        self.bytes_per_view = {task: self._bytes_per_view(task) for task in settled}
        self.views = views_to_keep(
            {task: sampler.sizes[task] for task in settled},
            self.drawn,
            self.bytes_per_view,
            most={task: self._most_views(task) for task in settled},
            room=data.feature_gigabytes * GIGABYTE,
        )
        self.settled = settled
        self.pathways = [pathway for pathway in objective.model.pathways if objective.model.is_settled(pathway)]

    def line(self, folder: Path) -> str | None:
        """What is kept, for a reader; None where nothing could be."""
        if not self.settled:
            return None
        if not self.views:
            needed = sum(self.loader.sampler.sizes[task] * self.bytes_per_view[task] for task in self.settled)
            return (
                f"features of one view a file take {needed / GIGABYTE:.3g} GB, feature_gigabytes allows "
                f"{self.recipe.data.feature_gigabytes:g}: none are kept, each look at a file goes through the network"
            )
        counts = {task: self.num_rows(task) for task in self.views}
        size = self.num_bytes() / GIGABYTE
        told = ", ".join(f"{task} {counted(counts[task], 'view')} ({self.views[task]} a file)" for task in self.views)
        return (
            f"what comes before the heads is frozen: it is computed once and kept in {folder} ({size:.2g} GB) until "
            f"the end; {told}; --set feature_views=0 makes every look at a file a new view"
        )

    def num_rows(self, task: str) -> int:
        """Looks of a task that are kept, by all processes."""
        return min(self.views[task] * self.loader.sampler.sizes[task], self.drawn[task])

    def num_bytes(self) -> int:
        """What the kept looks take, of all processes."""
        return sum(self.num_rows(task) * self.bytes_per_view[task] for task in self.views)

    def facts(self) -> dict[str, Any]:
        """What the features depend on, beside their files."""
        data, model = self.recipe.data, self.objective.model
        return {
            "weights": tensors_digest(model.trunk_weights()),
            "spec": model.spec.to_dict(),
            "draws": [self.recipe.run.seed, data.short_sides, data.flip, data.rand_augment],
            "auxiliary_frames": self.recipe.optim.auxiliary_frames,
            "precision": self.recipe.run.precision,
        }

    def rows(self, log: RowLog) -> Iterator[Row]:
        """The rows that the log of this process lacks, as they are computed, a batch at a time."""
        media = self.loader.dataset.media
        lacking = [
            draw
            for draw in draws_to_keep(self.loader.sampler, self.views, self.drawn)
            if not log.holds(key_of(draw.task, draw.position), media[draw.task].files[draw.index])
        ]
        batches = list(_batches(lacking, self.recipe.data.batch_size))
        for draws, batch in zip(batches, self.loader.read(batches), strict=True):
            yield from self._computed(draws, batch)

    def kept(self, table: RowTable) -> dict[str, KeptViews]:
        """What gives the examples of each task from then on."""
        return {task: KeptViews(table, self.loader.sampler, task, views=views) for task, views in self.views.items()}

    def _computed(self, draws: Sequence[Draw], batch: JointBatch) -> Iterator[Row]:
        ((task, (x, labels)),) = batch.data.items()
        assert isinstance(x, Tensor)
        arrays = self._arrays(task, x, [self._seed(draw) for draw in draws])
        files = self.loader.dataset.media[task].files
        for number, (draw, label) in enumerate(zip(draws, labels.tolist(), strict=True)):
            own = {pathway: array[number] for pathway, array in arrays.items()}
            yield Row(key_of(task, draw.position), files[draw.index], {_LABEL: label}, own)

    def _arrays(self, task: str, x: Tensor, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        return as_kept(self.objective.model, self.objective.settle(task, x.to(self.device), seeds))

    def _seed(self, draw: Draw) -> int:
        words = [self.recipe.run.seed, list(self.loader.sampler.sizes).index(draw.task), draw.position]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def _most_views(self, task: str) -> int:
        """One, where all looks at a file are the same."""
        dataset = self.loader.dataset
        fixed = dataset.augment is None and getattr(dataset.transform, "is_fixed", False)
        return 1 if fixed and dataset.media[task].modality == IMAGE else self.recipe.data.feature_views

    def _bytes_per_view(self, task: str) -> int:
        spec = self.objective.model.spec
        frames = (spec.clip.length,) if self.loader.dataset.media[task].modality == VIDEO else ()
        example = torch.zeros((1, len(spec.mean), *frames, *spec.crop), dtype=torch.uint8)
        return sum(array.nbytes for array in self._arrays(task, example, [0]).values())


class _SettledRoute(ViewRoute):
    """Views to what does not change on a settled pathway."""

    outputs = "features"

    def _respond(self, x: Tensor) -> Tensor:
        return self.model.forward_settled(x, self.pathway)


class _Heads:
    """What a Route calls in place of a network, where its inputs are settled features."""

    normalizes = True

    def __init__(self, model: TaskModel) -> None:
        self.model = model

    def __call__(self, settled: Tensor, *, modality: str, task: str) -> Tensor:
        pooled = self.model.pool_settled(settled.to(self.model.dtype), modality)
        return self.model.heads[modality][task](pooled)


class KeptScores:
    """`scoring.score_files` of one network that learns behind settled pathways: it sees a file again by what is kept.

    Args:
        log: where that is kept, as long as it is smaller than `room` bytes.
    """

    def __init__(self, log: RowLog, model: TaskModel, pathways: Sequence[str], *, room: float) -> None:
        self.log, self.model, self.pathways, self.room = log, model, tuple(pathways), room

    def __call__(
        self, files: Sequence[tuple[str, str]], routes: Mapping[str, Any], **options: Any
    ) -> Iterator[FileScores]:
        """See `scoring.score_files`."""
        ((modality, route),) = routes.items()
        if route.pathway not in self.pathways or (route.protocol.dense and modality == VIDEO):
            yield from score_files(files, routes, **options)
            return
        keys = {path: _key_of_views(route, modality, path) for path, _ in files}
        lacking = {path for path, _ in files if not self.log.holds(keys[path], path)}
        settling = _SettledRoute(
            route.model, modality, protocol=route.protocol, pathway=route.pathway, dtype=route.dtype
        )
        options.pop("reading", None)  # its numbers are those of all the files
        made = score_files([file for file in files if file[0] in lacking], {modality: settling}, **options)
        heads = route.behind(_Heads(route.model))
        for index, (path, _) in enumerate(files):
            if path in lacking:
                scored = next(made)
                self._keep(keys[path], path, scored, route.pathway)
            else:
                scored = _as_scored(self.log.row(keys[path]), modality)
            yield _behind_heads(heads, scored._replace(index=index))

    def _keep(self, key: str, path: str, scored: FileScores, pathway: str) -> None:
        views = {} if scored.scores is None else as_kept(self.model, {pathway: scored.scores})
        if self.log.size() + sum(array.nbytes for array in views.values()) > self.room:
            return
        told = {name: getattr(scored, name) for name in ("size", "error", "warning", "seconds")}
        with written_to(self.log.path.parent):
            self.log.append(Row(key, path, told, views))


def _key_of_views(route: Route, modality: str, path: str) -> str:
    protocol = route.protocol
    return f"{route.pathway}/{protocol.name}/{protocol.num_views(modality)}/{protocol.still}/{path}"


def _as_scored(row: Row, modality: str) -> FileScores:
    views = next((torch.from_numpy(array.copy()) for array in row.arrays.values()), None)
    size = row.facts["size"]
    told = {name: row.facts[name] for name in ("error", "warning", "seconds")}
    return FileScores(0, modality, views, size and tuple(size), **told)


def _behind_heads(heads: Route, settled: FileScores) -> FileScores:
    if settled.scores is None:
        return settled
    scores = heads.score(settled.scores).cpu()
    if scores.isfinite().all():
        return settled._replace(scores=scores)
    return settled._replace(scores=None, error=f"the network's {heads.outputs} are not finite")


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Raises a RunError if what happens in the block cannot be written to the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; feature_gigabytes limits its size") from error


def _batches(draws: Iterable[Draw], size: int) -> Iterator[list[Draw]]:
    """Batches of one task each."""
    batch: list[Draw] = []
    for draw in draws:
        if batch and (len(batch) == size or batch[0].task != draw.task):
            yield batch
            batch = []
        batch.append(draw)
    if batch:
        yield batch
