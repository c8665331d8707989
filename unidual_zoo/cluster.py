"""Files through a network on Ray (extra `scale`): decoding tasks, actors that hold the network, and their answers here.

It is called as `scoring.score_files` is and gives the same: a `Predictor` or an `Extractor` takes it as `score`. Ray
runs what a dead worker had in hand again, and a file's answer comes once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.loaders import Reading
from unidual_zoo.data.media import MediaWarning
from unidual_zoo.data.warned import collected
from unidual_zoo.extras import require
from unidual_zoo.scoring import FileScores, ViewReader, ViewRoute, read_file, score_read

FILES_A_BLOCK = 16  # that are decoded in a task, and lost with it


@dataclass(frozen=True)
class OnRay:
    """`score_files` on a Ray cluster.

    Args:
        address: of the cluster, such as "auto" or "ray://host:10001"; None: one on this machine, for the call alone.
        actors: processes that hold the network.
        device: where they hold it; with "cuda" each has a GPU of its own.

    On a cluster every machine must have this package, and see the files under the same names.
    """

    address: str | None = None
    actors: int = 1
    device: str = "cpu"

    def __call__(
        self,
        files: Sequence[tuple[str, str]],
        routes: Mapping[str, ViewRoute],
        *,
        batch_size: int = 16,
        workers: int = 0,
        file_seconds: float | None = None,
        reading: Reading | None = None,
    ) -> Iterator[FileScores]:
        """See `score_files`; Ray decides how many processes decode, so that `workers` and `reading` are not needed.

        Raises:
            RuntimeError: Ray is not installed.
            ValueError: there are no actors.
        """
        if self.actors < 1:
            raise ValueError(f"actors must be 1 or more, got {self.actors}")
        if not files:
            return
        with _cluster(self.address, processors=self.actors + 1) as ray:
            for row in self._scored(ray, files, routes, batch_size, file_seconds).iter_rows():
                scored: FileScores = pickle.loads(row["scores"])
                if scored.warning:
                    warnings.warn(MediaWarning(files[scored.index][0], scored.warning), stacklevel=2)
                yield scored

    def _scored(
        self,
        ray: Any,
        files: Sequence[tuple[str, str]],
        routes: Mapping[str, ViewRoute],
        batch_size: int,
        file_seconds: float | None,
    ) -> Any:
        """The data set of Ray whose rows are the scores, in the files' order."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = [{"index": i, "path": os.path.abspath(path), "modality": kind} for i, (path, kind) in enumerate(files)]
        blocks = -(-len(files) // FILES_A_BLOCK)
        readers = {modality: route.reader for modality, route in routes.items()}
        decoded = ray.data.from_items(rows, override_num_blocks=blocks).map(_Decode(readers, file_seconds))
        return decoded.map_batches(
            _Scorer,
            fn_constructor_args=(ray.put({modality: route.to("cpu") for modality, route in routes.items()}),),
            fn_constructor_kwargs=dict(device=self.device, batch_size=batch_size),
            batch_size=FILES_A_BLOCK,
            compute=ray.data.ActorPoolStrategy(size=self.actors),
            num_gpus=int(self.device.startswith("cuda")),
        )


@contextlib.contextmanager
def _cluster(address: str | None, *, processors: int) -> Iterator[Any]:
    """Ray, connected; a cluster of this call's own, with at least so many `processors`, ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", "scale")
    require("ray.data", "scale")
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports each data set
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = dict(log_to_driver=False, logging_level="WARNING")
    if address is None:  # the actors and a task that decodes need a processor each, or Ray waits for them for ever
        ray.init(address="local", num_cpus=max(processors, usable_cores()), include_dashboard=False, **quiet)
    else:
        ray.init(address=address, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Decode:
    """A row with the path of a file -> one with its views, in a task."""

    readers: Mapping[str, ViewReader]
    file_seconds: float | None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        file = read_file(row["path"], self.readers[row["modality"]], file_seconds=self.file_seconds)
        return {"index": row["index"], "path": row["path"], "modality": row["modality"], "file": pickle.dumps(file)}


class _Scorer:
    """Rows with views -> rows with scores, in an actor."""

    def __init__(self, routes: Any, *, device: str, batch_size: int) -> None:
        held: Mapping[str, ViewRoute] = require("ray", "scale").get(routes)
        self.routes = {modality: route.to(device) for modality, route in held.items()}
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        decoded = (pickle.loads(file) for file in batch["file"])
        with collected(), torch.inference_mode():  # warnings are given where the rows are used
            scores = list(score_read(decoded, self.routes, batch_size=self.batch_size))
        numbers = batch["index"].tolist()
        whole = [scored._replace(index=number) for scored, number in zip(scores, numbers, strict=True)]
        return {"scores": [pickle.dumps(scored) for scored in whole]}
