"""Labels over time: a video of any length through a network window by window, each frame decoded once.

`moments` labels a video: `read_windows` cuts it, `score_windows` scores the windows, `moments_of` names what is seen.
`Timeline` is the whole as JSON, WebVTT, CSV and a picture. What is held in memory does not grow with the video, but for
the labels themselves.
"""

from __future__ import annotations

import csv
import html
import io
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, islice
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from unidual_zoo.data.datasets import stream_clips
from unidual_zoo.data.media import MediaError, file_boundary
from unidual_zoo.data.sampling import uniform_clips
from unidual_zoo.data.transforms import eval_transform
from unidual_zoo.names import csv_cell, printable
from unidual_zoo.scoring import Protocol, Route
from unidual_zoo.spec import DENSE, ClipSpec, InputSpec

PROTOCOL = Protocol(name="timeline", clips=1)  # of the routes that `moments` takes
LEAST_SECONDS = 1.0  # of a window whose length is not given
OTHERS, LISTED = "others", 9  # labels of a picture beyond so many share a colour
DPI, INCHES = 110, 9.0


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a video is cut: windows of `seconds`, one every `stride` seconds, each read as one clip in its centre.

    Without `seconds` a window is as long as a clip, and at least LEAST_SECONDS; without `stride` half a window lies
    between two. Labels are means over the windows whose centres lie in the `smooth` seconds around (default: a window).
    Where that were more than `most` windows, so many cover the video, longer and farther apart in the same proportion.

    Raises:
        ValueError: a length that is not positive, a negative `smooth`, or less than one window.
    """

    seconds: float | None = None
    stride: float | None = None
    smooth: float | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "stride"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} of a window must be more than 0, got {value}")
        if self.smooth is not None and not 0 <= self.smooth < math.inf:
            raise ValueError(f"smooth must be 0 seconds or more, got {self.smooth}")
        if self.most is not None and self.most < 1:
            raise ValueError(f"most must be 1 window or more, got {self.most}")

    def length(self, clip: ClipSpec, rate: float) -> float:
        """Seconds of a window over a video of this rate."""
        span = clip.span / (clip.rate or rate) if clip.sampling == DENSE else 0.0
        return self.seconds or max(LEAST_SECONDS, span)

    def ranges(self, num_frames: int, clip: ClipSpec, rate: float) -> list[tuple[int, int]]:
        """The frames [start, end) of every window; the last one ends with the video and may be shorter."""
        seconds = self.length(clip, rate)
        length, step = max(1, round(seconds * rate)), max(1.0, (self.stride or seconds / 2) * rate)
        count = 1 + max(0, math.ceil((num_frames - length) / step))
        if self.most is not None and count > self.most:
            count = self.most
            length = math.ceil(num_frames / (1 + (count - 1) * step / length))
            step = Fraction(num_frames - length, max(1, count - 1))  # the last one ends with the video to the frame
        starts = (int(i * step) for i in range(count))
        return [(start, min(start + length, num_frames)) for start in starts if start < num_frames]


class Window(NamedTuple):
    """A window of a video from `start` to `end` seconds, and its clip (3, T, H, W) uint8.

    A photo is one, too: (3, H, W) from 0 to 0 seconds.
    """

    start: float
    end: float
    clip: Tensor


class Scored(NamedTuple):
    """Probabilities (classes,) of each route from `start` to `end` seconds."""

    start: float
    end: float
    scores: Mapping[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """What is seen from `start` to `end` seconds: of each route the best labels, by falling probability."""

    start: float
    end: float
    best: Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one best label, and its mean probability."""

    start: float
    end: float
    label: str
    score: float


# ---- a video to its moments -----------------------------------------------------------------------------------------


def window_clip(start: int, end: int, clip: ClipSpec, rate: float) -> list[int]:
    """The frame numbers of the clip in the centre of a window."""
    return [start + number for number in uniform_clips(end - start, clip, num_clips=1, rate=rate)[0]]


def read_windows(path: str | os.PathLike[str], spec: InputSpec, windowing: Windowing | None = None) -> Iterator[Window]:
    """The windows of a video in turn, as `spec` frames them; each frame is decoded once.

    Raises:
        MediaError: the file cannot be read as a video, or not up to the end of its first window.
    """
    cut = windowing or Windowing()
    spans: list[tuple[float, float]] = []

    def clips(num_frames: int, rate: float) -> list[list[int]]:
        ranges = cut.ranges(num_frames, spec.clip, rate)
        spans.extend((start / rate, end / rate) for start, end in ranges)
        return [window_clip(start, end, spec.clip, rate) for start, end in ranges]

    with file_boundary(path):
        number = -1
        for number, clip in enumerate(stream_clips(path, clips, eval_transform(spec))):
            yield Window(*spans[number], clip)
        if number < 0:
            raise MediaError(path, f"it has not even the frames of its first {spans[0][1]:.2f} seconds")


def moments(
    path: str | os.PathLike[str],
    routes: Mapping[str, Route],
    windowing: Windowing | None = None,
    *,
    top: int = 5,
    batch_size: int = 16,
) -> Iterator[Moment]:
    """The labels of a video over its whole length, as it is read; moments follow each other without a gap.

    `routes`, by any names, are of one model and of videos, and of `PROTOCOL`: several see the same clips, such as both
    pathways. `batch_size` windows go through the network together.

    Raises:
        MediaError: the file cannot be read as a video, or the network's scores are not finite.
    """
    cut = windowing or Windowing()
    spec = next(iter(routes.values())).spec
    scored = score_windows(path, read_windows(path, spec, cut), routes, batch_size=batch_size)
    yield from moments_of(scored, routes, smooth=cut.smooth, top=top)


def score_windows(
    path: str | os.PathLike[str], windows: Iterable[Window], routes: Mapping[str, Route], *, batch_size: int
) -> Iterator[Scored]:
    """The windows of a file scored by every route, `batch_size` of them at once.

    Raises:
        MediaError: the network's scores are not finite.
    """
    waiting = iter(windows)
    while batch := list(islice(waiting, batch_size)):
        clips = torch.stack([window.clip for window in batch])
        rows = {name: route.score(clips).cpu() for name, route in routes.items()}
        if not all(scores.isfinite().all() for scores in rows.values()):
            raise MediaError(path, "the network's scores are not finite")
        for i, window in enumerate(batch):
            yield Scored(window.start, window.end, {name: scores[i] for name, scores in rows.items()})


def moments_of(
    scored: Iterable[Scored], routes: Mapping[str, Route], *, smooth: float | None, top: int
) -> Iterator[Moment]:
    """A moment for each of the windows: smoothed, without overlaps, with the best `top` labels of each route."""
    for row in _stretches(_smoothed(scored, smooth)):
        best = {name: routes[name].best(scores, top) for name, scores in row.scores.items()}
        yield Moment(row.start, row.end, best)


def _centre(scored: Scored) -> float:
    return (scored.start + scored.end) / 2


def _smoothed(windows: Iterable[Scored], smooth: float | None) -> Iterator[Scored]:
    """Each window with the mean scores of those whose centres lie within `smooth` seconds of its own, half on each
    side; None: a window's length."""
    held: deque[Scored] = deque()
    waiting: deque[Scored] = deque()
    for window in windows:
        held.append(window)
        waiting.append(window)
        while waiting and _centre(window) - _centre(waiting[0]) > _reach(waiting[0], smooth):
            yield _mean(waiting.popleft(), held, smooth)
    while waiting:
        yield _mean(waiting.popleft(), held, smooth)


def _reach(window: Scored, smooth: float | None) -> float:
    return (window.end - window.start if smooth is None else smooth) / 2 + 1e-9  # a neighbour just there counts


def _mean(window: Scored, held: deque[Scored], smooth: float | None) -> Scored:
    """The window with mean scores; what lies before its reach is no longer held."""
    reach, centre = _reach(window, smooth), _centre(window)
    while centre - _centre(held[0]) > reach:
        held.popleft()
    near = [other for other in held if abs(_centre(other) - centre) <= reach]
    scores = {name: torch.stack([other.scores[name] for other in near]).mean(0) for name in window.scores}
    return window._replace(scores=scores)


def _stretches(windows: Iterable[Scored]) -> Iterator[Scored]:
    """Overlapping windows -> stretches that meet in the middle between the centres of two; the first begins with the
    first window, the last ends with the last."""
    before, start = None, 0.0
    for window in windows:
        if before is not None:
            middle = (_centre(before) + _centre(window)) / 2
            yield before._replace(start=start, end=middle)
            start = middle
        before = window
    if before is not None:
        yield before._replace(start=start)


# ---- the whole ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timeline:
    """The moments of a file; `tasks` names the task of each route."""

    file: str
    tasks: Mapping[str, str]
    moments: Sequence[Moment]

    def segments(self, route: str) -> list[Segment]:
        """Stretches of one best label by a route, with the mean of its probability over time."""
        segments = []
        for label, run in groupby(self.moments, key=lambda moment: moment.best[route][0][0]):
            parts = list(run)
            length = sum(part.end - part.start for part in parts)
            score = sum((part.end - part.start) * part.best[route][0][1] for part in parts) / length
            segments.append(Segment(parts[0].start, parts[-1].end, label, score))
        return segments

    def to_dict(self, *, with_moments: bool = True) -> dict[str, Any]:
        """Plain data: of each route the task, its segments and, unless they are left out, its moments."""
        routes = {}
        for name, task in self.tasks.items():
            routes[name] = {"task": task, "segments": [_plain(vars(segment)) for segment in self.segments(name)]}
            if with_moments:
                routes[name]["moments"] = [
                    {**_plain({"start": moment.start, "end": moment.end}),
                     "top": [{"label": label, "score": round(score, 6)} for label, score in moment.best[name]]}
                    for moment in self.moments
                ]  # fmt: skip
        return {"file": self.file, "seconds": round(self.moments[-1].end, 3), "routes": routes}

    def vtt(self, route: str) -> str:
        """The segments as WebVTT, which players show as subtitles."""
        cues = [
            f"{_clock(segment.start)} --> {_clock(segment.end)}\n"
            f"{html.escape(printable(segment.label), quote=False)} ({segment.score:.0%})\n"
            for segment in self.segments(route)
        ]
        return "\n".join(["WEBVTT\n", *cues])

    def csv(self, route: str) -> str:
        """The segments as a list start,end,label,score, times in seconds."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("start", "end", "label", "score"))
        for segment in self.segments(route):
            start, end = f"{segment.start:.3f}", f"{segment.end:.3f}"
            writer.writerow((start, end, csv_cell(printable(segment.label)), f"{segment.score:.6f}"))
        return text.getvalue()

    def figure(self) -> Figure:
        """A row for each route, whose parts have the colour of their label and the height of its probability."""
        routes = list(self.tasks)
        colours = self._colours()
        columns, rows = 2, math.ceil(len(colours) / 2)
        with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):
            figure = Figure(figsize=(INCHES, 0.8 + 0.9 * len(routes) + 0.25 * rows), layout="constrained")
            for axes, route in zip(
                figure.subplots(len(routes), 1, sharex=True, squeeze=False).flat, routes, strict=True
            ):
                bars, faces = [], []
                for moment in self.moments:
                    label, score = moment.best[route][0]
                    a, b = moment.start, moment.end
                    bars.append([(a, 0), (a, score), (b, score), (b, 0)])
                    faces.append(colours.get(label, colours.get(OTHERS)))
                axes.add_collection(PolyCollection(bars, facecolors=faces, edgecolors="none"))
                axes.set(ylim=(0, 1), ylabel=route, xlim=(0, self.moments[-1].end), yticks=(0, 1))
                axes.spines[["top", "right"]].set_visible(False)
            figure.axes[-1].set_xlabel("seconds")
            handles = [Patch(color=colour) for colour in colours.values()]
            named = [f" {printable(label)[:40]}" for label in colours]  # a legend leaves out what begins with _
            figure.legend(handles, named, loc="outside lower center", ncols=columns, frameon=False)
        return figure

    def png(self) -> bytes:
        """The figure as a PNG file."""
        buffer = io.BytesIO()
        with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}):
            self.figure().savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def _colours(self) -> dict[str, Any]:
        """A colour for each of the labels that are best for longest, grey for the others."""
        seconds: dict[str, float] = {}
        for route in self.tasks:
            for segment in self.segments(route):
                seconds[segment.label] = seconds.get(segment.label, 0.0) + segment.end - segment.start
        longest = sorted(seconds, key=lambda label: -seconds[label])[:LISTED]
        colours = dict(zip(longest, matplotlib.colormaps["tab10"](np.arange(len(longest))), strict=True))
        return colours if len(longest) == len(seconds) else {**colours, OTHERS: "0.7"}


def _plain(times: Mapping[str, Any]) -> dict[str, Any]:
    """Times to milliseconds, scores to six digits."""
    digits = {"start": 3, "end": 3, "score": 6}
    return {name: round(value, digits[name]) if name in digits else value for name, value in times.items()}


def _clock(seconds: float) -> str:
    """Seconds as 01:02:03.456."""
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
