"""Networks made ready to serve, and mixed files to labels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from unidual_zoo.data.images import read_image
from unidual_zoo.data.listing import files_below, files_matching, is_pattern, warn_of_left_out
from unidual_zoo.data.loaders import Reading
from unidual_zoo.data.media import MediaError, is_image, is_media, is_video
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.folding import for_inference
from unidual_zoo.models.summary import check_registered
from unidual_zoo.scoring import FileScores, Protocol, Route, ScoreFiles, score_files
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO


def load_model(name: str, *, checkpoint: str | os.PathLike[str] | None = None) -> TaskModel:
    """A model with its weights, by a registered name with or without a tag, "hf-hub:…" or "local-dir:…".

    `checkpoint` is a file of weights in place of the published ones.

    Raises:
        ValueError: the name is not registered; it lists the nearest.
        RuntimeError: there are no weights, or they do not fit.
    """
    check_registered(name)
    if checkpoint is None:
        return create_model(name, pretrained=True)
    if not Path(checkpoint).is_file():
        raise ValueError(f"no file of weights {os.fspath(checkpoint)}")
    try:
        return create_model(name, pretrained=True, pretrained_cfg_overlay={"file": os.fspath(checkpoint)})
    except Exception as error:  # torch, safetensors and pickle each raise their own
        raise RuntimeError(f"{os.fspath(checkpoint)} cannot be loaded into {name}: {error}") from error


class Predictor:
    """Labels of images and videos, each modality by its own pathway.

        predictor = Predictor(load_model("unidual10_aux"))
        for result in predictor(["photo.jpg", "clip.mp4"]): ...

    Args:
        model: any model of this package; it is copied by `for_inference` and stays as it is.
        task: the head of both modalities (default: of each its own first task).
        top: how many labels a file gets.
        protocol: the views of a video; an image has one.
        batch_size: views, of one file or several, that go through the network together.
        workers: processes that decode ahead; with 0 this one decodes.
        score: what takes files through the network: `scoring.score_files`, or one with more machines or fewer clips.

    Raises:
        ValueError: neither modality can be served: no pathway has the task, or there are no heads.
        TypeError: the model is none of this package, such as a name in place of what `load_model` makes of it.
    """

    def __init__(
        self,
        model: TaskModel,
        *,
        task: str | None = None,
        top: int = 5,
        protocol: str | Protocol = "unidual34",
        batch_size: int = 16,
        workers: int = 0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        score: ScoreFiles = score_files,
    ) -> None:
        if not hasattr(model, "pathways"):
            raise TypeError(f"needs a model of this package, as load_model makes it, got {type(model).__name__}")
        if top < 1:
            raise ValueError(f"top must be 1 or more, got {top}")
        self.model = for_inference(model, dtype=dtype).to(device)
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


def find_files(arguments: Sequence[str]) -> list[str]:
    """Files, folders and glob patterns -> files in that order, each path beginning as its argument does.

    A file is taken as named, whatever its extension and even if it does not exist. Of a folder (with all folders in
    it) and of a pattern the images and videos are taken, sorted; hidden ones and those that systems leave behind are
    not. A warning tells what is left out.

    Raises:
        ValueError: a folder or pattern without images and videos, or no argument at all.
    """
    files = []
    for argument in arguments:
        if os.path.isdir(argument):
            found, what = files_below(argument), "folder"
        elif is_pattern(argument):
            found, what = files_matching(argument), "pattern"
        else:
            files.append(argument)
            continue
        warn_of_left_out(argument, *found)
        start = argument if what == "folder" else ""
        media = [os.path.join(start, file) for file in found.files if is_media(file)]
        if not media:
            raise ValueError(f"{what} {argument} has no image or video in it")
        files += media
    if not files:
        raise ValueError("no file, folder or pattern given")
    return files
