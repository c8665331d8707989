"""Pictures of a run: its curves, and the confusion matrix of a task."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unidual_zoo.names import printable
from unidual_zoo.spec import MODALITIES
from unidual_zoo.training.objective import TOTAL
from unidual_zoo.training.rundir import read_log

MOST_NAMES = 60  # classes whose names fit beside a confusion matrix
MOST_LETTERS, SHORT_NAME = 40, 16  # letters of a name that are drawn, and for which the picture need not grow
LETTER = 0.08  # inches
MOST_MARKED = 100  # points of a curve that are marked
MARGIN = 3  # in % of accuracy, above 100 and below 0, so that curves there are seen
LEGEND_LETTERS = 64  # in a line of a legend
PLAIN_TEXT: Any = {"text.parse_math": False, "text.usetex": False}  # matplotlib's settings: names are no formulas


@dataclass(frozen=True)
class Panel:
    """The curves of one kind of event: those whose names begin with `prefix`, or without one those with a slash."""

    event: str
    prefix: str
    title: str
    label: str
    empty: str  # what stands in its place without curves
    limits: tuple[float, float] | None = None


PANELS = (
    Panel("train", "loss/", "Losses of the training", "loss", "no step was made"),
    Panel("evaluate", "", "Accuracy between epochs", "accuracy (%)", "nothing was evaluated between epochs", (0, 100)),
)


def plot_curves(log: Path, picture: Path) -> None:
    """Draws the losses of the training steps and the scores of the evaluations of a log.jsonl, over the epochs."""
    lines = read_log(log)
    with _plain_text():
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            _draw_panel(axes, panel, lines)
        figure.savefig(picture, format="png", dpi=100)


def curve_pictures(log: Path) -> dict[str, bytes]:
    """The panels of `plot_curves` that have curves, each an SVG for a page, by their titles."""
    lines, pictures = read_log(log), {}
    with _plain_text():
        for panel in PANELS:
            figure = Figure(figsize=(5, 3.6), layout="constrained")
            if _draw_panel(figure.subplots(), panel, lines):
                buffer = io.BytesIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None})
                pictures[panel.title] = buffer.getvalue()
    return pictures


def _draw_panel(axes: Axes, panel: Panel, lines: Sequence[Mapping[str, Any]]) -> bool:
    """Draws a panel's curves, with the legend below so that it hides none; whether there are any.

    Without curves a sentence says so in place of axes.
    """
    rows = [line for line in lines if line["event"] == panel.event]
    names = _curves(rows, panel.prefix)
    if not names:
        axes.set_axis_off()
        axes.text(0.5, 0.5, panel.empty, ha="center", va="center", transform=axes.transAxes)
        return False
    if len(names) == 2:  # one loss, and the total that is the same
        names = [name for name in names if name != f"{panel.prefix}{TOTAL}"]
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        shown = _legend(name.removeprefix(panel.prefix))
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < MOST_MARKED else "", label=shown)
    axes.set(xlabel="epoch", ylabel=panel.label, xlim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    if panel.limits is not None:
        axes.set_ylim(panel.limits[0] - MARGIN, panel.limits[1] + MARGIN)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    longest = max(len(_legend(name.removeprefix(panel.prefix))) for name in names)
    columns = max(1, min(len(names), LEGEND_LETTERS // (longest + 4)))
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns, frameon=False)
    return True


def _legend(name: str) -> str:
    """A curve's name in words: of the loss `images.video` "images, video pathway", of `images/top-1` "images, top-1".

    Other names, such as that of the losses' sum, stay as they are.
    """
    task, dot, pathway = name.rpartition(".")
    if dot and pathway in MODALITIES:
        return f"{_shown(task)}, {pathway} pathway"
    task, slash, metric = name.rpartition("/")
    return f"{_shown(task)}, {metric}" if slash else _shown(name)


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
