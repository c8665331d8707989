"""Pictures of a run: its curves, and the confusion matrix of a task."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from unidual_zoo.names import printable
from unidual_zoo.training.rundir import read_log

MOST_NAMES = 60  # classes whose names fit beside a confusion matrix
MOST_LETTERS, SHORT_NAME = 40, 16  # letters of a name that are drawn, and for which the picture need not grow
LETTER = 0.08  # inches
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False}  # matplotlib's settings: names are no formulas


def plot_curves(log: Path, picture: Path) -> None:
    """Draws the losses of the training steps and the scores of the evaluations of a log.jsonl, over the epochs."""
    lines = read_log(log)
    panels = [("train", "loss/", "loss"), ("evaluate", "", "accuracy (%)")]
    with _plain_text():
        figure = Figure(figsize=(11, 4), layout="constrained")
        for axes, (event, prefix, label) in zip(figure.subplots(1, 2), panels, strict=True):
            rows = [line for line in lines if line["event"] == event]
            for name in _curves(rows, prefix):
                points = [(row["epoch"], row[name]) for row in rows if name in row]
                shown = _shown(name.removeprefix(prefix))
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 100 else "", label=shown)
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
    names = list(map(_shown, classes)) if len(classes) <= MOST_NAMES else []
    side += LETTER * max(0, max(map(len, names), default=0) - SHORT_NAME)
    with _plain_text():
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, fraction=0.046)
        if names:
            axes.set_xticks(range(len(classes)), names, rotation=90, fontsize="small")
            axes.set_yticks(range(len(classes)), names, fontsize="small")
        axes.set(xlabel="predicted", ylabel="true", title=_shown(title))
        figure.savefig(picture, format="png", dpi=100)


@contextlib.contextmanager
def _plain_text() -> Iterator[None]:
    """Text is drawn letter by letter, until the picture is saved; boxes stand for letters that the font lacks."""
    with matplotlib.rc_context(PLAIN_TEXT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _shown(name: str) -> str:
    """A name as a picture has it. Matplotlib leaves a label out of a legend that begins with `_`."""
    name = printable(name)
    short = name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…"
    return f" {short}" if short.startswith("_") else short


def _curves(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """The names of the numbers in the rows that are drawn: those with the prefix, or for none those with a slash."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if (name.startswith(prefix) if prefix else "/" in name)]
