"""The files of a run: each task's training and test data, from folders, CSV lists or the embedded data."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np

from unidual_zoo.data.datasets import TESTS, TRAIN, MediaSet, find_split, read_media, splits
from unidual_zoo.data.synthetic import toy
from unidual_zoo.spec import IMAGE
from unidual_zoo.training.recipes import Recipe

LISTED = 5  # classes named in a warning
TOY = "toy"  # in place of a folder: the embedded data of the task's modality


def read_sources(recipe: Recipe) -> tuple[dict[str, MediaSet], dict[str, MediaSet]]:
    """The training and the test files of each of the recipe's tasks, with the same classes in the same order.

    Raises:
        ValueError: a task has no data or no test files; and what `read_media` raises.
    """
    if missing := [task for task in recipe.tasks if task not in recipe.data]:
        others = ",".join(f"{task}:{recipe.tasks[task]}" for task in recipe.data if task in recipe.tasks)
        leave_out = f", or leave them out with --set tasks={others}" if others else ""
        raise ValueError(f"no data for {', '.join(missing)}: say where with --data {missing[0]}=FOLDER{leave_out}")
    pairs = {task: _read_task(recipe, task) for task in recipe.tasks}
    for task, (train, test) in pairs.items():
        _warn_of_classes(task, train, test)
    return {task: train for task, (train, _) in pairs.items()}, {task: test for task, (_, test) in pairs.items()}


def hold_out(media: MediaSet, share: float, *, seed: int = 0) -> tuple[MediaSet, MediaSet]:
    """Parts a data set in two, class by class: the second has `share` of the files, and one at least of two or more."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(media.labels)
    held: set[int] = set()
    for label in range(len(media.classes)):
        indices = rng.permutation(np.flatnonzero(labels == label))
        held |= set(indices[: min(max(1, round(share * len(indices))), len(indices) - 1)].tolist())
    parts = ([i for i in range(len(labels)) if i not in held], sorted(held))
    first, second = (
        dataclasses.replace(
            media, files=tuple(media.files[i] for i in part), labels=tuple(media.labels[i] for i in part)
        )
        for part in parts
    )
    return first, second


def _read_task(recipe: Recipe, task: str) -> tuple[MediaSet, MediaSet]:
    modality, source, test_source = recipe.tasks[task], recipe.data[task], recipe.test_data.get(task)
    if source == TOY:
        if test_source is not None:
            raise ValueError(f"{task} is the embedded data, which has test files: leave out --test")
        read = toy.images if modality == IMAGE else toy.videos
        return read("train"), read("test")
    train = read_media(source, modality=modality, split=_train_split(task, source))
    place = test_source or source
    split = find_split(place, TESTS)
    if split or test_source:
        test = read_media(place, modality=modality, split=split, classes=train.classes)
        if both := set(train.files) & set(test.files):
            warnings.warn(
                f"{task}: {len(both)} test files are training files, too, which flatters figures", stacklevel=2
            )
        return train, test
    if not recipe.hold_out:
        raise ValueError(
            f"no test files for {task}: {source} has no split {', '.join(TESTS)}; "
            f"say where with --test {task}=FOLDER, or keep a part with --set hold_out=0.2"
        )
    train, test = hold_out(train, recipe.hold_out, seed=recipe.seed)
    if not len(test):
        raise ValueError(f"no test files for {task}: no class in {source} has two files, of which one could be kept")
    return train, test


def _warn_of_classes(task: str, train: MediaSet, test: MediaSet) -> None:
    """Warns of what makes figures say little: a single class, and classes that are not tested."""
    if len(train.classes) == 1:
        warnings.warn(f"{task}: {train.classes[0]!r} is the only class, there is nothing to tell apart", stacklevel=3)
    tested = set(test.labels)
    if untested := [name for label, name in enumerate(train.classes) if label not in tested]:
        named = ", ".join(untested[:LISTED]) + (", …" if len(untested) > LISTED else "")
        warnings.warn(
            f"{task}: {len(untested)} of {len(train.classes)} classes without a test file: {named}", stacklevel=3
        )


def _train_split(task: str, source: str) -> str | None:
    """The split to train on, None if all is. A list whose rows have splits must say which of them are for training."""
    split = find_split(source, TRAIN)
    if split is None and Path(source).is_file() and (there := splits(source)):
        raise ValueError(f"no training files for {task}: {source} has no split train, there is: {', '.join(there)}")
    return split
