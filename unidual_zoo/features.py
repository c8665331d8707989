"""Files to feature vectors, the table that holds them, and the nearest files of a query.

Rows are appended to a log beside the table as they come, and the table is written from it at the end: a run that was
killed goes on where it was, and a file has one row whatever happened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from unidual_zoo.extras import require
from unidual_zoo.files import make_readable, partial_name, sync_file
from unidual_zoo.inference import load_network, modality_of
from unidual_zoo.lock import Lock, LockedError
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.folding import for_inference
from unidual_zoo.rowlog import Row, RowLog
from unidual_zoo.scoring import Protocol, ScoreFiles, ViewRoute, score_files
from unidual_zoo.spec import MODALITIES

PARQUET, NPZ, SAFETENSORS = ".parquet", ".npz", ".safetensors"
FORMATS = (PARQUET, NPZ, SAFETENSORS)
LOG, LOCK = ".rows", ".lock"  # how the names of a table's log and of its lock end
FACTS, ROWS = "unidual", "rows"  # keys of metadata
VECTOR = "vector"
_ROW_GROUP = 1024  # rows of a Parquet file that are written together
_DIGEST_LETTERS = 16


class Features(NamedTuple):
    """A file's row: its vector float32, (D,) or unpooled (views, …), or the error that it gave instead."""

    path: str
    modality: str
    vector: np.ndarray | None
    error: str | None


# ---- files to vectors -----------------------------------------------------------------------------------------------


class FeatureRoute(ViewRoute):
    """How the files of one modality become features: the pooled ones that heads see, or a layer's.

    Args:
        layer: an output of `feature_info`, by its number (-1: the last) or its module's name; None: what heads see.
        pooled: (D,) a view, the mean over all positions; else maps or tokens as they are.

    Raises:
        ValueError: the model lacks the pathway or the layer, or does not pool.
    """

    outputs = "features"

    def __init__(
        self, model: TaskModel, modality: str, *, layer: int | str | None = None, pooled: bool = True, **options: Any
    ) -> None:
        super().__init__(model, modality, **options)
        self.layer = None if layer is None else find_output(model, layer)
        self.pooled = pooled
        if pooled and layer is None and model.global_pool == "":
            raise ValueError("the model has no pooled features: choose a layer, or leave them unpooled")

    def _respond(self, x: Tensor) -> Tensor:
        if self.layer is not None:
            maps = self.model.forward_intermediates(
                x, [self.layer], stop_early=True, intermediates_only=True, modality=self.pathway
            )[0]
            assert isinstance(maps, Tensor)
            return maps.flatten(2).mean(2) if self.pooled else maps
        features = self.model.forward_features(x, modality=self.pathway)
        return self.model.forward_head(features, pre_logits=True, modality=self.pathway) if self.pooled else features


def find_output(model: TaskModel, layer: int | str) -> int:
    """The number of an output of `feature_info`, given by it, from the end if negative, or by its module's name.

    Raises:
        ValueError: there is none; it says which there are.
    """
    names = [info["module"] for info in model.feature_info]
    if layer in names:
        return names.index(layer)
    try:
        return range(len(names))[int(layer)]
    except (ValueError, IndexError):
        raise ValueError(
            f"no layer {layer!r}, allowed: {-len(names)} to {len(names) - 1} or one of {', '.join(names)}"
        ) from None


class Extractor:
    """Features of images and videos, each modality by its own pathway; a video's are the mean of its clips'.

        for row in Extractor(load_network("unidual10_aux"))(["photo.jpg", "clip.mp4"]): ...

    Args:
        model: any model of this package; it is copied by `for_inference` and stays as it is.
        layer: see `FeatureRoute`; `pooled` likewise. Unpooled features of a video's clips are not averaged.
        pathway: of both modalities (default: of each its own), which makes their vectors comparable.
        protocol, batch_size, workers, score: as of `inference.Predictor`.

    Raises:
        ValueError: the model lacks the pathway or the layer.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        layer: int | str | None = None,
        pooled: bool = True,
        pathway: str | None = None,
        protocol: str | Protocol = "unidual34",
        batch_size: int = 16,
        workers: int = 0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        score: ScoreFiles = score_files,
    ) -> None:
        served = for_inference(model, dtype=dtype).to(device)
        self.pooled, self.batch_size, self.workers, self.score = pooled, batch_size, workers, score
        self.routes = {
            modality: FeatureRoute(served, modality, layer=layer, pooled=pooled, pathway=pathway, protocol=protocol)
            for modality in MODALITIES
        }

    def __call__(self, files: Sequence[str | os.PathLike[str]]) -> Iterator[Features]:
        """One row a file, in the files' order; a file that fails has its error.

        Raises:
            LoaderError: a loader process died; it names the file.
        """
        known = [(path, modality_of(path)) for path in [os.fspath(file) for file in files]]
        scores = self.score(known, self.routes, batch_size=self.batch_size, workers=self.workers)
        for (path, modality), scored in zip(known, scores, strict=True):
            if scored.scores is None:
                yield Features(path, modality, None, scored.error)
            else:
                views = scored.scores.mean(0) if self.pooled else scored.scores
                yield Features(path, modality, views.numpy(), None)


def load_reproducibly(name: str, *, checkpoint: str | os.PathLike[str] | None = None) -> TaskModel:
    """`inference.load_network`, with weights that no file holds drawn alike in every call.

    Operators over time that a network has got and not learned yet are such: their gates are closed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_network(name, checkpoint=checkpoint)


def weights_digest(model: nn.Module) -> str:
    """What tells a model's weights from others."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """What tells tensors by their names from others."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_DIGEST_LETTERS]


# ---- rows that survive a kill ---------------------------------------------------------------------------------------


def _as_row(made: Features) -> Row:
    arrays = {} if made.vector is None else {VECTOR: made.vector.astype(np.float32)}
    return Row(made.path, made.path, {"modality": made.modality, "error": made.error}, arrays)


def _as_features(row: Row) -> Features:
    return Features(row.path, row.facts["modality"], row.arrays.get(VECTOR), row.facts["error"])


def _lacks(log: RowLog, path: str) -> bool:
    """Whether a file has no row, or one that is an error or of an earlier state of the file."""
    return not log.holds(path, path) or log.row(path).facts["error"] is not None


def write_features(
    files: Sequence[str],
    out: Path,
    extract: Callable[[Sequence[str]], Iterator[Features]],
    *,
    facts: Mapping[str, Any],
) -> Iterator[Features]:
    """The rows that `extract` gives, as they come, and the table `out` of all files once they have been taken.

    One row a file, however often it is named; those of a run that was killed are not made again. `facts` are written
    to the table: plain data from which the same vectors can be made.

    Raises:
        ValueError: the log beside the table is of other facts, or another process is at it; or vectors differ in shape
            where the format allows one.
    """
    check_table(out)
    files = list(dict.fromkeys(files))
    with _lock(out), RowLog(out.with_name(f".{out.name}{LOG}"), facts) as log:
        shape = None
        for row in extract([path for path in files if _lacks(log, path)]):
            if row.vector is not None and out.suffix.lower() != PARQUET:
                shape = _same_shape(shape, row)
            log.append(_as_row(row))
            yield row
        write_table(out, files, lambda paths: (_as_features(log.row(path)) for path in paths), facts)
        log.remove()


def _lock(out: Path) -> Lock:
    """Keeps a table to this process: rows of another would come among its own, whatever they were made with."""
    try:
        return Lock(out.with_name(f".{out.name}{LOCK}"))
    except LockedError as error:
        raise ValueError(f"{out} is being made by {error}: wait for it, or choose another name") from None


def _same_shape(shape: tuple[int, ...] | None, row: Features) -> tuple[int, ...]:
    """The shape of a row's vector.

    Raises:
        ValueError: it is not the `shape` of those before it.
    """
    assert row.vector is not None
    if shape not in (None, row.vector.shape):
        raise ValueError(
            f"vectors of the shapes {shape} and {row.vector.shape} ({row.path}) go into {PARQUET} alone, "
            "or take one modality"
        )
    return row.vector.shape


# ---- tables ---------------------------------------------------------------------------------------------------------


def check_table(out: Path) -> None:
    """Raises a ValueError unless a table of that name can be written, a RuntimeError if pyarrow is missing for it."""
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"the table's name must end in {', '.join(FORMATS)}, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent} for the table {out}")
    if out.suffix.lower() == PARQUET:
        require("pyarrow.parquet", "scale")


def write_table(
    out: Path,
    files: Sequence[str],
    rows: Callable[[Sequence[str]], Iterator[Features]],
    facts: Mapping[str, Any],
) -> None:
    """Writes the `rows` of the files; the name is given to a whole table only."""
    partial = partial_name(out)
    try:
        if out.suffix.lower() == PARQUET:
            _write_parquet(partial, files, rows, facts)
        else:
            _write_dense(partial, list(rows(files)), facts, safe=out.suffix.lower() == SAFETENSORS)
        make_readable(partial)
        sync_file(partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(
    path: Path,
    files: Sequence[str],
    rows: Callable[[Sequence[str]], Iterator[Features]],
    facts: Mapping[str, Any],
) -> None:
    """Columns path, modality, vector, shape and error, a row group at a time in memory."""
    arrow, parquet = require("pyarrow", "scale"), require("pyarrow.parquet", "scale")
    fields = {"path": arrow.string(), "modality": arrow.string(), "vector": arrow.list_(arrow.float32()),
              "shape": arrow.list_(arrow.int32()), "error": arrow.string()}  # fmt: skip
    schema = arrow.schema(list(fields.items()), metadata={FACTS: json.dumps(dict(facts))})
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(files), _ROW_GROUP):
            group = list(rows(files[start : start + _ROW_GROUP]))
            columns = [
                [os.fsencode(row.path).decode("utf-8", "backslashreplace") for row in group],
                [row.modality for row in group],
                [None if row.vector is None else row.vector.ravel() for row in group],
                [None if row.vector is None else row.vector.shape for row in group],
                [row.error for row in group],
            ]
            arrays = [arrow.array(column, kind) for column, kind in zip(columns, fields.values(), strict=True)]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _write_dense(path: Path, rows: Sequence[Features], facts: Mapping[str, Any], *, safe: bool) -> None:
    """`vector` (N, …) with NaN where there is none, beside paths, modalities and errors ("": none)."""
    shape = next((row.vector.shape for row in rows if row.vector is not None), (0,))
    vectors = np.full((len(rows), *shape), np.nan, np.float32)
    for vector, row in zip(vectors, rows, strict=True):
        if row.vector is not None:
            vector[...] = row.vector
    if safe:
        named = [[row.path, row.modality, row.error] for row in rows]
        save_file({"vector": vectors}, path, metadata={FACTS: json.dumps(dict(facts)), ROWS: json.dumps(named)})
        return
    with path.open("wb") as file:
        np.savez(
            file,
            vector=vectors,
            path=np.array([row.path for row in rows], np.str_),
            modality=np.array([row.modality for row in rows], np.str_),
            error=np.array([row.error or "" for row in rows], np.str_),
            facts=np.array(json.dumps(dict(facts))),
        )


def read_table(path: str | os.PathLike[str]) -> tuple[list[Features], dict[str, Any]]:
    """The rows of a table that `write_features` wrote, and its facts.

    Raises:
        ValueError: it is no such table.
        RuntimeError: it is a Parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    readers = {PARQUET: _read_parquet, NPZ: _read_npz, SAFETENSORS: _read_safetensors}
    if path.suffix.lower() not in readers:
        raise ValueError(f"a table's name ends in {', '.join(FORMATS)}, got {path}")
    if not path.is_file():
        raise ValueError(f"no table {path}")
    try:
        return readers[path.suffix.lower()](path)
    except RuntimeError:
        raise
    except Exception as error:  # each library has errors of its own for what is none of its files
        raise ValueError(
            f"{path} is no table that `unidual features` wrote: {error or type(error).__name__}"
        ) from error


def _read_parquet(path: Path) -> tuple[list[Features], dict[str, Any]]:
    table = require("pyarrow.parquet", "scale").read_table(path)
    facts = json.loads(table.schema.metadata[FACTS.encode()])
    names = ("path", "modality", "vector", "shape", "error")
    rows = []
    for file, modality, vector, shape, error in zip(*(table.column(name) for name in names), strict=True):
        values = vector.values.to_numpy(zero_copy_only=False).reshape(shape.as_py()) if vector.is_valid else None
        rows.append(Features(file.as_py(), modality.as_py(), values, error.as_py()))
    return rows, facts


def _read_npz(path: Path) -> tuple[list[Features], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as table:
        named = zip(*(table[name].tolist() for name in ("path", "modality", "error")), strict=True)
        return _dense_rows(table["vector"], named), json.loads(str(table["facts"]))


def _read_safetensors(path: Path) -> tuple[list[Features], dict[str, Any]]:
    with safe_open(path, "numpy") as table:
        metadata = table.metadata()
        return _dense_rows(table.get_tensor("vector"), json.loads(metadata[ROWS])), json.loads(metadata[FACTS])


def _dense_rows(vectors: np.ndarray, named: Any) -> list[Features]:
    return [
        Features(path, modality, None if error else vector, error or None)
        for vector, (path, modality, error) in zip(vectors, named, strict=True)
    ]


# ---- the nearest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A file near a query: its path, its modality and the cosine."""

    file: str
    modality: str
    score: float


class Index:
    """The vectors of a table, ready to be searched: all cosines are computed, none is guessed."""

    def __init__(self, rows: Sequence[Features]) -> None:
        self.rows: list[Features] = []
        by_length: dict[int, list[tuple[int, np.ndarray]]] = {}
        for row in rows:
            if row.vector is not None:
                by_length.setdefault(row.vector.size, []).append((len(self.rows), row.vector.ravel()))
                self.rows.append(row)
        self._groups = {
            length: ([number for number, _ in group], _unit(np.stack([vector for _, vector in group])))
            for length, group in by_length.items()
        }

    def nearest(self, vector: np.ndarray, top: int = 10) -> list[Found]:
        """The `top` files with the largest cosine, largest first, of those with vectors as long as this one.

        Raises:
            ValueError: there are none, or `top` is not positive.
        """
        if top < 1:
            raise ValueError(f"top must be 1 or more, got {top}")
        if vector.size not in self._groups:
            have = ", ".join(map(str, sorted(self._groups))) or "none"
            raise ValueError(f"the index has no vectors of {vector.size} numbers, it has: {have}")
        numbers, matrix = self._groups[vector.size]
        cosines = matrix @ _unit(vector.reshape(1, -1))[0]
        best = np.argsort(-cosines, kind="stable")[:top]
        found = [(self.rows[numbers[i]], float(cosines[i])) for i in best]
        return [Found(row.path, row.modality, score) for row, score in found]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
