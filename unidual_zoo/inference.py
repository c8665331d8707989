"""Networks made ready to serve, and mixed files to labels."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unidual_zoo.data.images import read_image
from unidual_zoo.data.listing import files_below, files_matching, is_pattern, warn_of_left_out
from unidual_zoo.data.loaders import Reading
from unidual_zoo.data.media import MediaError, is_image, is_media, is_video
from unidual_zoo.data.members import is_member
from unidual_zoo.data.shards import holds_shards
from unidual_zoo.data.stacks import is_stacked
from unidual_zoo.dtypes import dtype_name
from unidual_zoo.engines import GraphModel
from unidual_zoo.export import is_exported, load_exported, serve_with_engine
from unidual_zoo.models import folding
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.summary import check_registered
from unidual_zoo.scoring import (
    FileScores,
    Protocol,
    ReadFile,
    Route,
    ScoreFiles,
    read_file,
    score_files,
    score_read,
)
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO


def load_model(name: str, *, checkpoint: str | os.PathLike[str] | None = None) -> TaskModel | GraphModel:
    """A model with its weights, by a registered name with or without a tag, "hf-hub:…" or "local-dir:…"; or the graph
    in a folder that `unidual export` wrote, by the folder's name.

    `checkpoint` is a file of weights in place of the published ones.

    Raises:
        ValueError: the name is not registered; it lists the nearest. Or the exported folder is damaged.
        RuntimeError: there are no weights, or they do not fit; or what runs the graph is not installed.
    """
    if is_exported(name):
        if checkpoint is not None:
            raise ValueError(f"{name} is an exported graph, which takes no other weights: export {checkpoint} instead")
        return load_exported(name)
    return load_network(name, checkpoint=checkpoint)


def load_network(name: str, *, checkpoint: str | os.PathLike[str] | None = None) -> TaskModel:
    """As `load_model`, but never a graph: what is exported, fine-tuned or looked into."""
    if is_exported(name):
        raise ValueError(f"{name} is an exported graph; this needs the model that it was made from")
    check_registered(name)
    if checkpoint is None:
        return create_model(name, pretrained=True)
    if not Path(checkpoint).is_file():
        raise ValueError(f"no file of weights {os.fspath(checkpoint)}")
    try:
        return create_model(name, pretrained=True, pretrained_cfg_overlay={"file": os.fspath(checkpoint)})
    except Exception as error:  # torch, safetensors and pickle each raise their own
        raise RuntimeError(f"{os.fspath(checkpoint)} cannot be loaded into {name}: {error}") from error


def for_inference(
    model: TaskModel | GraphModel,
    dtype: str | torch.dtype | None = None,
    compile: bool = False,
    modality: str | None = None,
    *,
    engine: str | None = None,
    calibration: Sequence[str | os.PathLike[str]] | None = None,
) -> Any:
    """A copy of the model to serve with: folded for torch (see `models.folding.for_inference`), or run by an engine.

    With `engine` "openvino", "onnx" or "torch" (torch.export) the result takes the same calls, on the CPU, with inputs
    of the spec's size in normalised float32; each pathway and head becomes a graph when it is first called, which takes
    seconds. `dtype` may then also be int8 (not of "torch"), calibrated on the files `calibration` (default: packaged
    examples). A graph, as `load_model` makes one of an exported folder, is returned as it is.

    Args:
        dtype: a type of torch or its name, such as "bfloat16"; None leaves the weights as they are.
        compile: torch.compile for the call.
        modality: keeps this pathway and its heads alone.

    Raises:
        ValueError: there is no such pathway or engine, `dtype` is none that the engine computes in, or an argument has
            no meaning here.
        RuntimeError: the extra that brings the engine is not installed, or the network cannot be exported.
    """
    if isinstance(model, GraphModel):
        if dtype is not None or compile or engine is not None or modality not in (None, *model.pathways):
            asked = dtype_name(dtype) if dtype is not None else engine or modality or "compile=True"
            raise ValueError(f"a graph stays what it was exported as ({model.about}), asked for {asked}")
        return model
    if engine is None:
        if calibration is not None:
            raise ValueError("calibration is for int8, which an engine computes: engine='openvino' or 'onnx'")
        return folding.for_inference(model, dtype, compile, modality)
    if compile:
        raise ValueError(f"compile=True is torch's; engine {engine!r} compiles by itself")
    files = None if calibration is None else _by_modality(calibration)
    return serve_with_engine(model, engine, dtype=dtype, modality=modality, calibration=files)


def _by_modality(files: Sequence[str | os.PathLike[str]]) -> dict[str, list[str]]:
    paths = [os.fspath(file) for file in files]
    found: dict[str, list[str]] = {modality: [] for modality in MODALITIES}
    for path in paths:
        found[modality_of(path)].append(path)
    return found


class Predictor:
    """Labels of images and videos, each modality by its own pathway.

        predictor = Predictor(load_model("unidual10_aux"))
        for result in predictor(["photo.jpg", "clip.mp4"]): ...

    `to_rows(results)` makes a table of them.

    Args:
        model: any model of this package; it is copied by `for_inference` and stays as it is. Or a graph: an exported
            folder that `load_model` read, or `for_inference(…, engine=…)`.
        task: the head of both modalities (default: of each its own first task).
        top: how many labels a file gets.
        protocol: the views of a video; an image has one.
        batch_size: views, of one file or several, that go through the network together.
        workers: processes that decode ahead; with 0 threads of this one decode, see `scoring.score_files`.
        score: what takes files through the network: `scoring.score_files`, or one with more machines or fewer clips.

    Raises:
        ValueError: neither modality can be served: no pathway has the task, or there are no heads.
        TypeError: the model is none of this package, such as a name in place of what `load_model` makes of it.
    """

    def __init__(
        self,
        model: TaskModel | GraphModel,
        *,
        task: str | None = None,
        top: int = 5,
        protocol: str | Protocol = "unidual34",
        batch_size: int = 16,
        workers: int = 0,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        score: ScoreFiles = score_files,
    ) -> None:
        if not hasattr(model, "pathways"):
            raise TypeError(f"needs a model of this package, as load_model makes it, got {type(model).__name__}")
        if top < 1:
            raise ValueError(f"top must be 1 or more, got {top}")
        self.model: Any = for_inference(model, dtype=dtype).to(device)
        self.top, self.batch_size, self.workers, self.score = top, batch_size, workers, score
        self.routes: dict[str, Route] = {}
        self.refused: dict[str, str] = {}
        for modality in MODALITIES:
            try:
                self.routes[modality] = Route(self.model, modality, protocol=protocol, task=task)
            except ValueError as error:
                self.refused[modality] = str(error)
        if not self.routes:
            raise ValueError(self.refused[MODALITIES[0]])
        self._reading = Reading([], workers)  # of the latest call

    def __call__(self, files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Iterator[dict[str, Any]]:
        """One result a file, in the files' order, `file` as given. A single path is a list of one.

        `{"file", "modality", "task", "top": [{"label", "score"}, ...]}`, the score a probability, the label the class's
        name or its number where names are unknown; or `{"file", "error"}`. A "warning" tells what is wrong with a file
        that was read all the same; it is given as a MediaWarning, too.

        Raises:
            LoaderError: a loader process died; it names the file.
        """
        files = [files] if isinstance(files, str | os.PathLike) else files
        paths = [os.fspath(file) for file in files]
        modalities = [modality_of(path) for path in paths]
        served = [number for number, modality in enumerate(modalities) if modality in self.routes]
        self._reading = Reading([paths[number] for number in served], self.workers)
        scores = self.score(
            [(paths[number], modalities[number]) for number in served],
            self.routes,
            batch_size=self.batch_size,
            workers=self.workers,
            reading=self._reading,
        )
        for path, modality in zip(paths, modalities, strict=True):
            if modality in self.refused:
                yield {"file": path, "error": self.refused[modality]}
            else:
                yield self._result(path, next(scores))

    def read(self, path: str | os.PathLike[str]) -> ReadFile:
        """A file as the network will see it, for `answers`. Threads may read side by side.

        Raises:
            ValueError: the network has no pathway or head for the file's modality.
        """
        path = os.fspath(path)
        modality = modality_of(path)
        if modality in self.refused:
            raise ValueError(self.refused[modality])
        return read_file(path, self.routes[modality].reader)

    def answers(self, files: Sequence[ReadFile], names: Sequence[str]) -> list[dict[str, Any]]:
        """Files that were read, under these names -> their results, as a call gives them, scored together."""
        scores = score_read(files, self.routes, batch_size=self.batch_size)
        return [self._result(name, scored) for name, scored in zip(names, scores, strict=True)]

    @contextlib.contextmanager
    def deaths_explained(self) -> Iterator[None]:
        """For what is done with results: that a loader process died may be reported there, too. See `Reading`."""
        try:
            yield
        except Exception:
            with self._reading.deaths_explained():  # of the latest call, which may have begun in the block
                raise

    def _result(self, path: str, scored: FileScores) -> dict[str, Any]:
        warning = {"warning": scored.warning} if scored.warning else {}
        if scored.scores is None:
            return {"file": path, "error": scored.error, **warning}
        route = self.routes[scored.modality]
        best = route.best(route.probabilities(scored.scores), self.top)
        top = [{"label": label, "score": round(score, 6)} for label, score in best]
        return {"file": path, "modality": scored.modality, "task": route.task, "top": top, **warning}


def to_rows(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results of a `Predictor` -> one flat row for each label, the best first: `pandas.DataFrame(to_rows(results))`.

    `{"file", "modality", "task", "rank", "label", "score", "error", "warning"}`, rank 1 the best. What is
    not there is None, and a file that failed has one row.
    """
    return [
        {
            **{column: result.get(column) for column in ("file", "modality", "task")},
            "rank": rank,
            "label": entry.get("label"),
            "score": entry.get("score"),
            **{column: result.get(column) for column in ("error", "warning")},
        }
        for result in results
        for rank, entry in (enumerate(result["top"], 1) if "top" in result else [(None, {})])
    ]


def modality_of(path: str) -> str:
    """The modality of a file by its extension; a file with another one is an image if it can be read as one."""
    if is_image(path):
        return IMAGE
    if is_video(path):
        return VIDEO
    try:
        read_image(path)
    except MediaError:
        return VIDEO
    return IMAGE


def of_modality(paths: Sequence[str], modality: str) -> list[str]:
    """Those paths whose files are of a modality, and those at which there is no file: they fail as such."""
    return [path for path in paths if not _is_there(path) or modality_of(path) == modality]


def _is_there(path: str) -> bool:
    return os.path.isfile(path) or is_member(path) or is_stacked(path)


def find_files(arguments: Sequence[str]) -> list[str]:
    """Files, folders and glob patterns -> files in that order, each path beginning as its argument does.

    A file is taken as named, whatever its extension and even if it does not exist. Of a folder (with all folders in
    it) and of a pattern the images and videos are taken, sorted; hidden ones and those that systems leave behind are
    not. A warning tells what is left out. A folder or pattern without any, or of shards, is warned of and stays as it
    is named, so that it fails as a file does, while the others are read.

    Raises:
        ValueError: there are only such folders and patterns, or no argument at all.
    """
    files, refused = [], {}
    for argument in arguments:
        if os.path.isdir(argument):
            found, what = files_below(argument), "folder"
        elif is_pattern(argument):
            found, what = files_matching(argument), "pattern"
        else:
            files.append(argument)
            continue
        start = argument if what == "folder" else ""
        media = [os.path.join(start, file) for file in found.files if is_media(file)]
        if not media and holds_shards(map(os.path.basename, found.files)):
            refused[argument] = (
                f"{what} {argument} holds shards: of `unidual pack` evaluate, finetune, train and check-data "
                "read them; give the folder that was packed, or files"
            )
        else:
            warn_of_left_out(argument, *found)
            if not media:
                refused[argument] = f"{what} {argument} has no image or video in it"
        files += media or [argument]
    if len(refused) == len(set(arguments)):
        raise ValueError("; ".join(refused.values()) or "no file, folder or pattern given")
    for reason in refused.values():
        warnings.warn(reason, stacklevel=2)
    return files
