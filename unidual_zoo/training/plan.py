"""What a training is about to do: its files counted, and what their number asks for. Said before the first step."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unidual_zoo.data.datasets import TESTS, MediaSet, find_split
from unidual_zoo.data.identity import Contents, copies, with_two_labels
from unidual_zoo.data.joint import mix_weights
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.summary import multiply_adds
from unidual_zoo.names import LISTED, counted
from unidual_zoo.scoring import PROTOCOLS
from unidual_zoo.spec import IMAGE
from unidual_zoo.training.fitting import MOST
from unidual_zoo.training.recipes import DataSettings, Recipe
from unidual_zoo.training.sources import TOY, read_sources, share_line, untested_line

SPARABLE = 1000  # training files of a task: from here a part of them can be spared to choose by
VALIDATION, PATIENCE = 0.1, 5
CPU_EPOCHS = 10  # with which a few hundred files are learnt in minutes on two cores
CPU_SIDE, CPU_STEP = 128, 16  # pixels at least, and what a side is a multiple of
CPU_WORK = 18e12  # multiply-adds of forward passes that two cores do in a quarter of an hour: what pixels are chosen by
FEW_STEPS, STEADY = 100, 0.01  # below so many the rate is lower, and of it heads that were fitted have this part
IMAGES_TO_A_CLIP = 8  # that cost as much
TRAINING = 5  # forward passes that a training step takes as long as
IMBALANCE = 3.0  # files of the largest class to one of the smallest, from which classes are weighted


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """A task's files: training files by class (the largest first), test files, where those are from, and copies.

    `copies` are pairs (test file, training file) of equal bytes, `ambiguous` pairs of a training file and one of equal
    bytes in another class, `untested` is a sentence on classes without a test file.
    """

    task: str
    counts: Mapping[str, int]
    num_tests: int
    split: str
    copies: Sequence[tuple[str, str]] = ()
    ambiguous: Sequence[tuple[str, str]] = ()
    untested: str | None = None

    @property
    def num_files(self) -> int:
        """Training files."""
        return sum(self.counts.values())

    @property
    def imbalance(self) -> float:
        """Files of the largest class to one of the smallest that has any; 1 without files."""
        there = [count for count in self.counts.values() if count]
        return max(there) / min(there) if there else 1.0

    def line(self) -> str:
        """The files for a reader."""
        names = list(self.counts)
        tests = f"{counted(self.num_tests, 'test file')} ({self.split})"
        if not self.num_files:
            return f"no training files of {counted(len(names), 'class')}; {tests}"
        ends = f"from {names[0]!r} with {self.counts[names[0]]} to {names[-1]!r} with {self.counts[names[-1]]}"
        balance = f"{ends}: {self.imbalance:.1f} to 1" if self.imbalance > 1 else f"{self.counts[names[0]]} of each"
        return f"{counted(self.num_files, 'training file')} of {counted(len(names), 'class')} ({balance}); {tests}"

    def copies_line(self) -> str | None:
        """The copies for a reader, the first of them by name; None without any."""
        if not self.copies:
            return None
        first = "; ".join(f"{test} = {train}" for test, train in self.copies[:LISTED])
        count = "a test file is a copy" if len(self.copies) == 1 else f"{len(self.copies)} test files are copies"
        more = "; …" if len(self.copies) > LISTED else ""
        return f"{count} of training files, which flatters figures: {first}{more}"

    def ambiguous_line(self) -> str | None:
        """How many training files stand in two classes, for a reader, and one of them by name; None without any."""
        if not self.ambiguous:
            return None
        one, other = self.ambiguous[0]
        count = f"{counted(len(self.ambiguous), 'training file')} stand in two classes, byte by byte the same"
        return f"{count}: {one} = {other}" + ("; check-data names all" if len(self.ambiguous) > 2 else "")

    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        return [line for line in (self.untested, self.copies_line(), self.ambiguous_line()) if line]

    def lines(self) -> list[str]:
        """The plan for a reader, its lines beginning with the task."""
        return [f"{self.task}: {line}" for line in (self.line(), self.copies_line(), self.ambiguous_line()) if line]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files of each task, read once for the plan and the training, and what is to be said of them."""

    media: Mapping[str, MediaSet]
    test_media: Mapping[str, MediaSet]
    tasks: Sequence[TaskPlan]


def make_plan(settings: DataSettings, *, seed: int) -> Plan:
    """Reads which files there are, and looks for copies: of training files among the test files and in other classes.

    Raises:
        ValueError: what `read_sources` raises.
    """
    media, test_media = read_sources(settings, seed=seed)
    tasks = [
        _with_copies(plan, media[plan.task], test_media[plan.task]) for plan in task_plans(settings, media, test_media)
    ]
    return Plan(media=media, test_media=test_media, tasks=tasks)


def _with_copies(plan: TaskPlan, train: MediaSet, test: MediaSet) -> TaskPlan:
    contents = Contents()
    return dataclasses.replace(
        plan,
        copies=copies(train.files, test.files, contents=contents),
        ambiguous=with_two_labels(train.files, train.labels, contents=contents),
    )


def task_plans(
    settings: DataSettings, media: Mapping[str, MediaSet], test_media: Mapping[str, MediaSet]
) -> list[TaskPlan]:
    """What the files of each task that is tested are; for copies they are not searched."""
    return [
        TaskPlan(
            task=task,
            counts=class_counts(media[task]),
            num_tests=len(tests),
            split=_split(settings, task),
            untested=untested_line(media[task], tests),
        )
        for task, tests in test_media.items()
    ]


def class_counts(media: MediaSet) -> dict[str, int]:
    """Files of each class, the largest class first."""
    counts = Counter(media.labels)
    order = sorted(range(len(media.classes)), key=lambda label: -counts[label])
    return {media.classes[label]: counts[label] for label in order}


def settings_by_size(
    tasks: Sequence[TaskPlan], recipe: Recipe, given: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """The settings that the number of files asks for, none of those that are `given`, and why each."""
    if not tasks:
        return {}, []
    settings: dict[str, Any] = {}
    reasons = []
    choosing = {"eval_every", "patience", "publish", "validation"}
    fewest = min(plan.num_files for plan in tasks)
    if not choosing & set(given):
        if fewest >= SPARABLE and recipe.optim.epochs > PATIENCE:
            settings |= dict(validation=VALIDATION, patience=PATIENCE, publish="best")
            reasons.append(
                f"training files are kept to choose by ({share_line(VALIDATION)}): training ends after {PATIENCE} "
                "epochs without a better score on them, and the best network is published (--set validation=0 uses all "
                "files)"
            )
        elif recipe.optim.epochs:
            settings |= dict(eval_every=0)
            reasons.append(
                "the test files are evaluated once, at the end: nothing is chosen by them "
                "(--set eval_every=1 evaluates them after every epoch)"
            )
    largest = max(plan.imbalance for plan in tasks)
    if largest >= IMBALANCE and "class_weights" not in given:
        settings |= dict(class_weights="balanced")
        reasons.append(
            f"every class weighs alike in the loss: the largest has {largest:.1f} times the files of the smallest "
            "(--set class_weights=no lets every file weigh alike)"
        )
    return settings, reasons


def settings_for_cpu(
    tasks: Sequence[TaskPlan], recipe: Recipe, given: Collection[str], network: TaskModel | None
) -> tuple[dict[str, Any], list[str]]:
    """What training costs less by where there is nothing faster than a CPU, none of it `given`, and why.

    Of epochs there are fewer, and pictures are as large as can be learnt from in a quarter of an hour on two cores,
    `CPU_SIDE` at least. `network` is without weights, None if the size of what it sees cannot be another.
    """
    if not all(plan.num_files for plan in tasks):
        tasks = ()  # which ends the run soon enough
    fewer, shorter, smaller = {}, {}, {}
    reasons = []
    if recipe.optim.epochs > CPU_EPOCHS and "epochs" not in given:
        fewer = dict(epochs=CPU_EPOCHS)
        made = f"{CPU_EPOCHS} epochs, not {recipe.optim.epochs}, to be done sooner"
        reasons.append(f"on a CPU it makes {made}; more may be better ({_ways(fewer)})")
    if tasks and recipe.optim.epochs and not {"epoch_size", "mix"} & set(given):
        shorter = _shorter_epochs(tasks, recipe, given)
        reasons += [_epoch_line(tasks, recipe, shorter)] if shorter else []
    if network is not None and tasks and not {"resize", "crop", "short_sides"} & set(given):
        smaller = _smaller_pictures(tasks, recipe.changed(**fewer, **shorter), network)
        reasons += [_pictures_line(network, smaller)] if smaller else []
    return fewer | shorter | smaller, reasons


def settings_for_few_steps(
    tasks: Sequence[TaskPlan], recipe: Recipe, given: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """A lower rate, of heads above all, where heads were fitted and there are too few steps to make good what the first
    ones cost; and why."""
    sizes = _sizes(tasks)
    if not sizes or not recipe.model.fit_heads:
        return {}, []
    steps = recipe.optim.epochs * max(1, recipe.data.examples_per_epoch(sizes) // recipe.data.batch_size)
    if not 0 < steps < FEW_STEPS:
        return {}, []
    steady = {"lr": float(f"{recipe.optim.lr * steps / FEW_STEPS:.2g}"), "head_lr": STEADY}
    settings = {name: value for name, value in steady.items() if name not in given}
    told, others = told_rates(settings)
    reason = (
        f"with so few files and epochs it makes only {counted(steps, 'step')}: it learns slowly, with {told}, not to "
        f"undo what the fit of the heads gives ({others})"
    )
    return settings, [reason] if settings else []


def told_rates(settings: Mapping[str, float]) -> tuple[str, str]:
    """Settings as they are, and the ways to others, for a reader."""
    told = ", ".join(f"{name}={np.format_float_positional(value)}" for name, value in settings.items())
    return told, _ways(settings)


def _ways(settings: Iterable[str]) -> str:
    """How to have other values of the settings, for a reader."""
    return " ".join(f"--set {name}=…" for name in settings)


def _epoch_line(tasks: Sequence[TaskPlan], recipe: Recipe, settings: Mapping[str, Any]) -> str:
    """What an epoch with the `settings` of `_shorter_epochs` has, and why, for a reader."""
    counts, shares = _sizes(tasks), _epoch(tasks, recipe.changed(**settings))
    told = " and ".join(f"{share:,.0f} of {counts[task]:,} {task}" for task, share in shares.items())
    batches = f", in batches of {settings['batch_size']}" if "batch_size" in settings else ""
    cost = (
        f"a clip takes as long as {IMAGES_TO_A_CLIP} images"
        if "mix" in settings
        else "as many of each as the smallest has"
    )
    return f"on a CPU an epoch has {told}{batches}: {cost} ({_ways(settings)})"


def _shorter_epochs(tasks: Sequence[TaskPlan], recipe: Recipe, given: Collection[str]) -> dict[str, Any]:
    """Epochs of as many files of each task as the smallest has; nothing if all have as many.

    If these are clips, images beside them are cheap and gain by large batches: of these an epoch has all, up to as many
    as take the time of the clips, and a step as many clips as it would have without them.
    """
    counts = _sizes(tasks)
    fewest = min(counts.values())
    if fewest == max(counts.values()):
        return {}
    is_image = {task: recipe.data.tasks[task] == IMAGE for task in counts}
    clips_are_fewest = any(count == fewest and not is_image[task] for task, count in counts.items())
    room = fewest * (IMAGES_TO_A_CLIP if clips_are_fewest else 1)
    mix = {task: min(count, room) if is_image[task] else fewest for task, count in counts.items()}
    mean = sum(mix.values()) / len(mix)
    if mean == fewest:
        return dict(epoch_size=fewest)
    settings: dict[str, Any] = dict(mix=mix, epoch_size=round(mean))
    if "batch_size" not in given:
        settings |= dict(batch_size=round(recipe.data.batch_size * mean / fewest))
    return settings


def _sizes(tasks: Sequence[TaskPlan]) -> dict[str, int]:
    """Training files of each task."""
    return {plan.task: plan.num_files for plan in tasks}


def _epoch(tasks: Sequence[TaskPlan], recipe: Recipe) -> dict[str, float]:
    """Examples of each task in an epoch."""
    sizes = _sizes(tasks)
    weights = mix_weights(sizes, recipe.data.mix)
    examples = recipe.data.examples_per_epoch(sizes)
    return {task: examples * weight / sum(weights) for task, weight in zip(sizes, weights, strict=True)}


def _work(tasks: Sequence[TaskPlan], recipe: Recipe, network: TaskModel) -> float:
    """Multiply-adds of forward passes that a training takes as long as, with pictures of the network's own size: of the
    fit of its heads, of its epochs, of the evaluations between them, and of one at the end."""
    epochs, run, protocol = recipe.optim.epochs, recipe.run, PROTOCOLS[recipe.run.protocol]
    between = dataclasses.replace(protocol, clips=run.eval_clips or protocol.clips)
    rounds = epochs // run.eval_every if run.eval_every else 0
    work, shares = 1.0, _epoch(tasks, recipe)
    for plan in tasks:
        modality = recipe.data.tasks[plan.task]
        views = min(plan.num_files, MOST) if recipe.model.fit_heads else 0
        views += TRAINING * epochs * shares[plan.task]
        watched = recipe.data.validation * plan.num_files or plan.num_tests
        views += rounds * watched * between.num_views(modality) + plan.num_tests * protocol.num_views(modality)
        work += views * multiply_adds(network, network.default_pathway(modality), modality)
    return work


def _smaller_pictures(tasks: Sequence[TaskPlan], recipe: Recipe, network: TaskModel) -> dict[str, Any]:
    """The size of what a network sees, as far down to `CPU_SIDE` as the time asks for; nothing if that is its own."""
    spec, own = network.spec, max(network.spec.crop)
    if not isinstance(spec.resize, int) or own <= CPU_SIDE:  # then nothing need be counted
        return {}
    affordable = int(own * math.sqrt(CPU_WORK / _work(tasks, recipe, network)))
    side = max(affordable // CPU_STEP * CPU_STEP, CPU_SIDE)
    return dict(resize=round(spec.resize * side / own), crop=(side, side)) if side < own else {}


def _pictures_line(network: TaskModel, settings: Mapping[str, Any]) -> str:
    """How large pictures are with the `settings` of `_smaller_pictures`, and why, for a reader."""
    side, own = max(settings["crop"]), max(network.spec.crop)
    return (
        f"on a CPU it learns from pictures of {side} pixels: with {own}, as the network's own are, two cores would "
        f"take more than a quarter of an hour; larger ones may be better ({_ways(settings)})"
    )


def fitting_line(recipe: Recipe) -> str | None:
    """Which heads are fitted before the first step, for a reader; None if the recipe asks for none."""
    if not recipe.model.fit_heads:
        return None
    if not (labelled := recipe.data.labelled_tasks):
        return "no heads are fitted before the first step: every task is learnt from a teacher, none from labels"
    which = f"heads of {', '.join(labelled)}" if recipe.data.teachers else "heads"
    alone = "" if recipe.optim.epochs else ", and nothing else is learnt"
    return f"first, {which} are fitted to the training files by least squares{alone}"


def _split(settings: DataSettings, task: str) -> str:
    """Where a task's test files come from."""
    source, test_source = settings.data[task], settings.test_data.get(task)
    if source == TOY:
        return "the embedded ones"
    split = find_split(test_source or source, TESTS)
    if split is not None:
        return f"split {split!r}" + (f" of {test_source}" if test_source else "")
    return f"from {test_source}" if test_source else f"kept back: {share_line(settings.hold_out)}"
