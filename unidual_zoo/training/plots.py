"""Pictures of a run: its curves, and the confusion matrix of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unidual_zoo.training.rundir import read_log

MOST_NAMES = 60  # classes whose names fit beside a confusion matrix


def plot_curves(log: Path, picture: Path) -> None:
    """Draws the losses of the training steps and the scores of the evaluations of a log.jsonl, over the epochs."""
    lines = read_log(log)
    panels = [("train", "loss/", "loss"), ("evaluate", "", "accuracy (%)")]
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, (event, prefix, label) in zip(figure.subplots(1, 2), panels, strict=True):
        rows = [line for line in lines if line["event"] == event]
        for name in _curves(rows, prefix):
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(
                *zip(*points, strict=True), marker="." if len(points) < 100 else "", label=name.removeprefix(prefix)
            )
        axes.set(xlabel="epoch", ylabel=label)
        if rows:
            axes.legend(fontsize="small")
    figure.savefig(picture, format="png", dpi=100)


def plot_confusion(pairs: Iterable[tuple[int, int]], classes: Sequence[str], picture: Path, *, title: str) -> None:
    """Draws how often (true class, predicted class) occurs, as shares of the true class."""
    counts = np.zeros((len(classes), len(classes)))
    for true, predicted in pairs:
        counts[true, predicted] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14, 3 + 0.25 * len(classes))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, fraction=0.046)
    if len(classes) <= MOST_NAMES:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize="small")
        axes.set_yticks(range(len(classes)), classes, fontsize="small")
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.savefig(picture, format="png", dpi=100)


def _curves(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """The names of the numbers in the rows that are drawn: those with the prefix, or for none those with a slash."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if (name.startswith(prefix) if prefix else "/" in name)]
