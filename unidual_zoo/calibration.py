"""Inputs that a graph is checked with and that int8 is calibrated on, and what int8 costs in accuracy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.data.datasets import TESTS, MediaSet, find_split, read_media
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import MediaError, is_image, is_video
from unidual_zoo.data.sampling import uniform_clips
from unidual_zoo.data.synthetic import toy
from unidual_zoo.data.transforms import eval_transform
from unidual_zoo.engines import Call, GraphModel
from unidual_zoo.evaluation import map_labels
from unidual_zoo.names import counted
from unidual_zoo.progress import Progress
from unidual_zoo.scoring import Route, ViewReader, find_protocol, score_files
from unidual_zoo.spec import IMAGE, InputSpec, packaged_classes

EMBEDDED = "embedded"  # in place of a folder: the packaged examples
CALIBRATED = {"image": 128, "video": 48}  # files
MEASURED = {"image": 500, "video": 200}
PROTOCOL = "one_clip"  # one view of each video
TRAIN = "train"


@dataclass(frozen=True)
class Calibration:
    """Files of one modality to calibrate on and others (where there are enough) to measure on; `source` names them.

    Without files to measure on nothing is measured. `media` are these with their labels, None where they have none.
    """

    source: str
    files: Sequence[str]
    measured: Sequence[str] = ()
    media: MediaSet | None = None


def examples(spec: InputSpec, modality: str, *, count: int) -> Tensor:
    """Drawn pictures or clips as a network sees them: (count, 3, [T,] H, W) uint8, always the same."""
    rng, framing = np.random.default_rng(0), eval_transform(spec)
    names = packaged_classes("toy_objects") if modality == IMAGE else tuple(toy.ACTIONS)
    views = []
    for name in (names[number % len(names)] for number in range(count)):
        drawn = torch.from_numpy(toy.draw_image(name, rng=rng) if modality == IMAGE else toy.draw_video(name, rng=rng))
        if modality == IMAGE:
            views.append(framing(drawn.permute(2, 0, 1)))
        else:
            (numbers,) = uniform_clips(len(drawn), spec.clip, num_clips=1, rate=toy.RATE)
            views.append(framing(drawn[numbers].permute(0, 3, 1, 2)).transpose(0, 1))  # (T, C, H, W) -> (C, T, H, W)
    return torch.stack(views)


def embedded_calibration(modality: str, *, measured: bool = True) -> Calibration:
    """The packaged examples: some of their training files and, to measure on, test files with their labels."""
    make = toy.images if modality == IMAGE else toy.videos
    source, files = f"{EMBEDDED} {modality}s", make(TRAIN, count=CALIBRATED[modality]).files
    if not measured:
        return Calibration(source, files)
    media = make("test", count=MEASURED[modality])
    return Calibration(source, files, media.files, media)


def folder_calibration(source: str | os.PathLike[str], modality: str) -> Calibration:
    """Files of a folder or list: of its split "train" to calibrate on, of its test split (or the others) to measure on.

    Raises:
        ValueError: there are no such files.
    """
    source = os.fspath(source)
    there = find_split(source, (TRAIN,)), find_split(source, TESTS)
    media = None
    try:
        media = read_media(source, modality=modality, split=there[1], mixed=True)
        files = read_media(source, modality=modality, split=there[0], mixed=True).files
    except ValueError:
        if not os.path.isdir(source):
            raise
        belongs = is_image if modality == IMAGE else is_video
        files = tuple(os.path.join(source, name) for name in files_below(Path(source)).files if belongs(name))
    if not files:
        raise ValueError(f"{source}: no {modality} files to calibrate on")
    chosen = _spread(files, CALIBRATED[modality])
    others = [file for file in (media.files if media else files) if file not in set(chosen)] or list(files)
    measured = _spread(others, MEASURED[modality])
    return Calibration(source, chosen, measured, media)


def given_calibration(files: Sequence[str | os.PathLike[str]], modality: str) -> Calibration:
    """Files that the caller chose, all of them to calibrate on.

    Raises:
        ValueError: there are none.
    """
    paths = [os.fspath(file) for file in files]
    if not paths:
        raise ValueError(f"needs one {modality} file or more to calibrate {modality}s on")
    return Calibration(counted(len(paths), "file"), paths)


def read_views(files: Sequence[str], spec: InputSpec, modality: str) -> list[Tensor]:
    """One view (1, 3, [T,] H, W) uint8 of each file that can be read.

    Raises:
        ValueError: none can.
    """
    protocol = find_protocol(PROTOCOL)
    reader, views, error = ViewReader(modality, protocol.spec(spec, modality), protocol), [], None
    for file in files:
        try:
            views.append(reader(file)[0])
        except MediaError as failed:
            error = failed
    if not views:
        raise ValueError(f"not one of {counted(len(files), 'file')} to calibrate on can be read: {error}")
    return views


def compare(models: dict[str, GraphModel], calibration: Calibration, call: Call) -> dict[str, Any]:
    """What models answer to the measured files, by their names: accuracy (percent), in how many `changed` files the
    first two differ, and how often (percent) they agree.

    Accuracy is None where the files have no labels that the task knows. One view of each video; files that cannot be
    read are left out.
    """
    with Progress(
        total=len(models) * len(calibration.measured), desc="measuring", unit="file", leave=False
    ) as progress:
        answers = {name: _answers(model, calibration.measured, call, progress) for name, model in models.items()}
    first, second = list(answers.values())[:2]
    read = [number for number, answer in enumerate(first) if answer is not None]
    labels = _labels(next(iter(models.values())), calibration, call.task)
    metric = "top-1" if call.modality == IMAGE else "video@1"
    found: dict[str, Any] = {"files": len(read), "metric": metric}
    for name, given in answers.items():
        found[name] = labels and _percent([given[number] == labels[number] for number in read])
    same = [first[number] == second[number] for number in read]
    return found | {"changed": same.count(False), "agreement": _percent(same)}


def _answers(model: GraphModel, files: Sequence[str], call: Call, progress: Progress) -> list[int | None]:
    route = Route(model, call.modality, protocol=PROTOCOL, pathway=call.pathway, task=call.task)
    scores = score_files([(file, call.modality) for file in files], {call.modality: route}, batch_size=1)
    answers = []
    for file in scores:
        answers.append(None if file.scores is None else int(file.scores.mean(0).argmax()))
        progress.update()
    return answers


def _labels(model: GraphModel, calibration: Calibration, task: str) -> list[int] | None:
    media = calibration.media
    if media is None:
        return None
    try:
        classes, _ = map_labels(media.classes, model, task)
    except ValueError:
        return None
    labels = {file: classes[label] for file, label in zip(media.files, media.labels, strict=True)}
    return [labels[file] for file in calibration.measured] if set(calibration.measured) <= labels.keys() else None


def _percent(right: Sequence[bool]) -> float:
    return round(100 * sum(right) / max(1, len(right)), 2)


def _spread(files: Sequence[str], count: int) -> list[str]:
    """At most `count` files, from the first to the last in equal steps."""
    count = min(count, len(files))
    return [files[number * len(files) // count] for number in range(count)]
