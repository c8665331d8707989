"""The files of a run: each task's training and test data, from folders, CSV lists or the embedded data."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unidual_zoo.data.datasets import TESTS, TRAIN, MediaSet, find_split, read_media, skip_list_of, splits
from unidual_zoo.data.identity import bundles, check_one_label, identities
from unidual_zoo.data.layouts import find_layout
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_image, is_video
from unidual_zoo.data.synthetic import toy
from unidual_zoo.names import check_fits_file_names, counted, named
from unidual_zoo.spec import IMAGE
from unidual_zoo.training.recipes import DataSettings

TOY = "toy"  # in place of a folder: the embedded data of the task's modality


def read_sources(
    settings: DataSettings, *, seed: int, taught: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, MediaSet], dict[str, MediaSet]]:
    """The training and the test files of each task, with the same classes in the same order.

    `seed` decides which files are held out where there are no test files. A task that is `taught` has its teacher's
    classes, its files need no labels, and none of them are for testing.

    Raises:
        ValueError: a task has no data or no test files, or a name that its files cannot have; a file has one label for
            training and another for testing; and what `read_media` raises.
    """
    for task in settings.tasks:
        check_fits_file_names("task", task)
    if missing := [task for task in settings.tasks if task not in settings.data]:
        others = ",".join(f"{task}:{settings.tasks[task]}" for task in settings.data if task in settings.tasks)
        leave_out = f", or leave them out with --set tasks={others}" if others else ""
        raise ValueError(f"no data for {', '.join(missing)}: say where with --data {missing[0]}=FOLDER{leave_out}")
    taught = taught or {}
    pairs = {task: _read_task(settings, task, seed=seed) for task in settings.tasks if task not in taught}
    _check_parted(pairs)
    for task, (train, test) in pairs.items():
        _warn_of_classes(task, train, test)
    unlabelled = {task: _read_unlabelled(settings, task, taught[task], seed=seed) for task in taught}
    training = {task: unlabelled[task] if task in taught else pairs[task][0] for task in settings.tasks}
    return training, {task: test for task, (_, test) in pairs.items()}


def _read_unlabelled(settings: DataSettings, task: str, classes: Sequence[str], *, seed: int) -> MediaSet:
    """The training files of a folder or list that has splits, else all there is; labels and names of folders are left
    aside."""
    source, modality, skip = settings.data[task], settings.tasks[task], settings.skip.get(task)
    split = None if source == TOY else find_split(source, TRAIN)
    if source == TOY:
        files = toy.videos("train").files
    elif split is None and Path(source).is_dir() and find_layout(source) is None:
        belongs = is_image if modality == IMAGE else is_video
        files = [os.path.join(source, file) for file in files_below(source).files if belongs(file)]
    else:
        files = read_media(source, modality=modality, split=split).files
    if skip is not None:
        skipped = skip_list_of(source, skip)
        files = [file for file in files if os.path.abspath(file) not in skipped]
    if not files:
        raise ValueError(f"{source}: no {modality} files")
    media = MediaSet(modality, tuple(classes), tuple(files), (0,) * len(files))
    return _drawn(settings, task, media, seed=seed)


def subsample(media: MediaSet, most: int, *, seed: int = 0) -> MediaSet:
    """At most so many of the files, drawn at random and left in their order; all of them if there are no more."""
    drawn = np.random.default_rng(seed).permutation(len(media))[:most]
    return media.take(sorted(drawn.tolist()))


def _drawn(settings: DataSettings, task: str, media: MediaSet, *, seed: int) -> MediaSet:
    """The training files of a task, or as many of them as the settings want."""
    return subsample(media, settings.subsample[task], seed=seed) if task in settings.subsample else media


def hold_out(media: MediaSet, share: float, *, seed: int = 0) -> tuple[MediaSet, MediaSet]:
    """Parts a data set in two, class by class: the second has `share` of the files, and one at least of two or more.

    Files of one group, and paths that lead to one file, stay together: the share is then met as nearly as their sizes
    allow, and a class that is all one group is left whole, for training.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(media.labels)
    totals = [int((labels == label).sum()) for label in range(len(media.classes))]
    wanted = [min(max(1, round(share * total)), total - 1) for total in totals]
    bundle_of = bundles(media.files, media.groups)
    sizes = _label_counts(bundle_of, media.labels)
    held = [0] * len(totals)
    taken: set[int] = set()

    def spares(bundle: int) -> bool:
        """Whether training keeps a file of each class without the bundle."""
        return all(held[label] + size < totals[label] for label, size in sizes[bundle].items())

    def excess(bundle: int) -> int:
        """By how many files the bundle would move the classes away from their share; negative: towards it."""
        return sum(
            abs(held[label] + size - wanted[label]) - abs(held[label] - wanted[label])
            for label, size in sizes[bundle].items()
        )

    def take(bundle: int) -> None:
        taken.add(bundle)
        for label, size in sizes[bundle].items():
            held[label] += size

    for label in range(len(totals)):
        order = [bundle_of[index] for index in rng.permutation(np.flatnonzero(labels == label))]
        for bundle in order:
            if held[label] >= wanted[label]:
                break
            if bundle not in taken and spares(bundle) and excess(bundle) < 0:
                take(bundle)
        if not held[label] and (possible := list(filter(spares, order))):
            take(min(possible, key=excess))  # the first of equals
    numbers = range(len(media))
    kept = [number for number in numbers if bundle_of[number] not in taken]
    return media.take(kept), media.take([number for number in numbers if bundle_of[number] in taken])


def share_line(share: float) -> str:
    """What `hold_out` takes of the files, for a reader."""
    return f"{share:.0%} of each class, at least one file where one can be spared"


def set_aside(
    media: Mapping[str, MediaSet], share: float, *, seed: int, setting: str = "monitor"
) -> tuple[dict[str, MediaSet], dict[str, MediaSet]]:
    """The training files of each task without a share of them, and that share; with a share of 0 the second is empty.

    Raises:
        ValueError: a task has too few files to spare one; it names the `setting` that asks for them.
    """
    if not share:
        return dict(media), {}
    parts = {task: hold_out(data, share, seed=seed) for task, data in media.items()}
    if poor := [task for task, (_, kept) in parts.items() if not len(kept)]:
        raise ValueError(f"{setting}={share:g} leaves nothing to measure {poor[0]} by: no class has two training files")
    return {task: rest for task, (rest, _) in parts.items()}, {task: kept for task, (_, kept) in parts.items()}


def _label_counts(bundle_of: Sequence[int], labels: Sequence[int]) -> list[Counter[int]]:
    """How many files of each class every bundle has."""
    counts = [Counter[int]() for _ in range(max(bundle_of, default=-1) + 1)]
    for bundle, label in zip(bundle_of, labels, strict=True):
        counts[bundle][label] += 1
    return counts


def _read_task(settings: DataSettings, task: str, *, seed: int) -> tuple[MediaSet, MediaSet]:
    modality, source, test_source = settings.tasks[task], settings.data[task], settings.test_data.get(task)
    if source == TOY:
        if test_source is not None:
            raise ValueError(f"{task} is the embedded data, which has test files: leave out --test")
        if task in settings.skip:
            raise ValueError(f"{task} is the embedded data, of which no files are skipped: leave out --skip")
        read = toy.images if modality == IMAGE else toy.videos
        return _drawn(settings, task, read("train"), seed=seed), read("test")
    skip = settings.skip.get(task)
    train = read_media(source, modality=modality, split=_train_split(task, source), skip=skip)
    train = _drawn(settings, task, train, seed=seed)
    place = test_source or source
    split = find_split(place, TESTS)
    if split or test_source:
        skip = skip if place == source else None  # its paths are relative to the source
        return train, read_media(place, modality=modality, split=split, classes=train.classes, skip=skip)
    if not settings.hold_out:
        raise ValueError(
            f"no test files for {task}: {source} has no split {', '.join(TESTS)}; "
            f"say where with --test {task}=FOLDER, or keep a part with --set hold_out=0.2"
        )
    train, test = hold_out(train, settings.hold_out, seed=seed)
    if not len(test):
        of_groups = " of two groups" if train.groups else ""
        raise ValueError(
            f"no test files for {task}: no class in {source} has two files{of_groups}, of which one could be kept"
        )
    return train, test


def _check_parted(pairs: Mapping[str, tuple[MediaSet, MediaSet]]) -> None:
    """Warns of test files that are training files of any task, and of groups that are on both sides.

    Raises:
        ValueError: a file has one label for training and another for testing.
    """
    ids = {task: (identities(train.files), identities(test.files)) for task, (train, test) in pairs.items()}
    for task, (train, test) in pairs.items():
        trained, tested = ids[task]
        check_one_label(task, train.files + test.files, _label_names(train) + _label_names(test), trained + tested)
        for other, (trained, _) in ids.items():
            both = set(tested).intersection(trained)
            of_other = f" of {other}" if other != task else ""
            if both:
                _warn_of_both(task, f"the training files{of_other} hold {counted(len(both), 'test file')}")
        if groups := sorted(set(train.groups) & set(test.groups) - {""}):
            _warn_of_both(task, f"training and test files are in {counted(len(groups), 'group')} ({named(groups)})")


def _warn_of_both(task: str, what: str) -> None:
    warnings.warn(f"{task}: {what}, which flatters figures", stacklevel=4)


def _label_names(media: MediaSet) -> list[str]:
    return [media.classes[label] for label in media.labels]


def _warn_of_classes(task: str, train: MediaSet, test: MediaSet) -> None:
    """Warns of what makes figures say little: a single class, and classes that are not tested."""
    if len(train.classes) == 1:
        warnings.warn(f"{task}: {train.classes[0]!r} is the only class, there is nothing to tell apart", stacklevel=3)
    if line := untested_line(train, test):
        warnings.warn(f"{task}: {line}", stacklevel=3)


def untested_line(train: MediaSet, test: MediaSet) -> str | None:
    """The classes that no test file is of, for a reader; None if there is one of each."""
    tested = set(test.labels)
    untested = [name for label, name in enumerate(train.classes) if label not in tested]
    if not untested:
        return None
    return f"{len(untested)} of {counted(len(train.classes), 'class')} without a test file: {named(untested)}"


def _train_split(task: str, source: str) -> str | None:
    """The split to train on, None if all is. A list whose rows have splits must say which of them are for training."""
    split = find_split(source, TRAIN)
    if split is None and Path(source).is_file() and (there := splits(source)):
        raise ValueError(f"no training files for {task}: {source} has no split train, there is: {', '.join(there)}")
    return split
