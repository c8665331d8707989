"""Scores to accuracy: a data set through a network, every file counted once, and the report that says how.

A file that fails counts as wrong and is named in the report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import PIL
import torch

from unidual_zoo.checks import nearest
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.loaders import Reading
from unidual_zoo.dtypes import dtype_name
from unidual_zoo.engines import GraphModel
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import counted, printable, tidy
from unidual_zoo.progress import Progress
from unidual_zoo.scoring import PROTOCOLS, FileScores, Protocol, Route, ScoreFiles, score_files
from unidual_zoo.spec import IMAGE, VIDEO

__all__ = ["PROTOCOLS", "FileResult", "Protocol", "Report", "evaluate", "evaluation_mode", "head_for", "map_labels"]

TOP = 5
MAIN = {IMAGE: "top-1", VIDEO: "video@1"}  # the one metric of a modality by which results are compared
MEANING = {
    "clip@1": "single clips answered rightly", "video@1": "videos, by the mean of their clips",
    "video@5": "videos whose class is among the best five",
}  # fmt: skip
FEW = 1000  # files, below which a share is told with its standard error
_CODE = re.compile(r"[a-z]\d+")
_NAMED = 5  # failures and warnings named in the table; the JSON line names all


@dataclass(frozen=True)
class FileResult:
    """What became of file number `index` of a data set.

    `label` and `top` (the best five, best first) are classes of the network, `others` further labels, of which any is
    right as well, `confidences` the probabilities of `top`; `views_right` of `views` views would be right alone. A file
    that failed has an `error`, no `top`, and its views count as wrong. One that was read with a `warning` counts as any
    other. `seconds` are those that reading took.
    """

    index: int
    label: int
    top: tuple[int, ...]
    views_right: int
    views: int
    size: tuple[int, int] | None = None
    error: str | None = None
    warning: str | None = None
    others: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    seconds: float = field(default=0.0, compare=False)  # no two evaluations take the same time

    def right(self, best: int = 1) -> bool:
        """Whether a label of the file is among the best of `top`."""
        return bool({self.label, *self.others} & set(self.top[:best]))


@dataclass(frozen=True)
class Report:
    """The results of a data set or of one rank's share of it, and the `facts` of how they came about.

    `classes` are the names of the network's classes, or their numbers where it has no names.
    """

    modality: str
    files: tuple[str, ...]
    results: tuple[FileResult, ...]
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @classmethod
    def merge(cls, reports: Sequence[Report]) -> Report:
        """One report of the shards that several ranks made of the same data set.

        Raises:
            ValueError: a file was counted twice or not at all.
        """
        first = reports[0]
        results = tuple(sorted((r for report in reports for r in report.results), key=lambda r: r.index))
        if [result.index for result in results] != list(range(len(first.files))):
            raise ValueError(
                f"{len(first.files)} files must be counted once each, the reports count {len(results)}, "
                f"{len({result.index for result in results})} of them different"
            )
        return dataclasses.replace(first, results=results, seconds=max(report.seconds for report in reports))

    @property
    def failures(self) -> list[dict[str, str]]:
        """The files that failed, with the reason."""
        return [{"file": self.files[r.index], "error": r.error} for r in self.results if r.error is not None]

    @property
    def warnings(self) -> list[dict[str, str]]:
        """The files of which reading warned, with the reason."""
        return [{"file": self.files[r.index], "warning": r.warning} for r in self.results if r.warning is not None]

    def metrics(self) -> dict[str, float]:
        """Percentages: clip@1 (each view alone), video@1 and video@5 of videos; top-1 and top-5 of images.

        Where five classes or fewer are all there are, any answer would be among the best five: that is left out.

        Raises:
            ValueError: the report is one rank's share, see `merge`.
        """
        if not self.files:
            raise ValueError("the report is of no files")
        if len(self.results) != len(self.files):
            raise ValueError(f"the report holds {len(self.results)} of {len(self.files)} files: merge all shards first")
        best = sum(result.right() for result in self.results)
        among = sum(result.right(TOP) for result in self.results)
        shares = {"top-1": (best, len(self.files)), "top-5": (among, len(self.files))}
        if self.modality == VIDEO:
            right, views = sum(r.views_right for r in self.results), sum(r.views for r in self.results)
            shares = {"clip@1": (right, views), "video@1": shares["top-1"], "video@5": shares["top-5"]}
        if 0 < len(self.classes) <= TOP:
            shares = {name: share for name, share in shares.items() if not name.endswith(str(TOP))}
        return {name: round(100 * right / total, 3) for name, (right, total) in shares.items()}

    def spread(self) -> float | None:
        """The standard error of the main metric in percentage points; None of many files, and of no or only right
        answers, which tell none."""
        files = len(self.files)
        return standard_error(main_score(self), files) or None if files < FEW else None

    def scores(self) -> dict[str, str]:
        """The metrics for a reader, the main one with its standard error if there is one: "87.50% ± 2.34"."""
        told = {name: f"{value:.2f}%" for name, value in self.metrics().items()}
        if error := self.spread():
            told[MAIN[self.modality]] += f" ± {error:.2f}"
        return told

    def meaning(self) -> str:
        """What the metrics of videos are of, for a reader; nothing for images."""
        return "; ".join(f"{name}: {MEANING[name]}" for name in self.metrics() if name in MEANING)

    def to_dict(self) -> dict[str, Any]:
        """Metrics and facts as plain data for one line of JSON."""
        error = self.spread()
        decoded = [result for result in self.results if result.error is None]
        sizes = sorted((r.size for r in decoded if r.size), key=lambda size: size[0] * size[1])
        stored = {"min": sizes[0], "median": sizes[len(sizes) // 2], "max": sizes[-1]} if sizes else {}
        return {
            **self.metrics(),
            **({"standard_error": round(error, 3)} if error else {}),
            **self.facts,
            "listed": len(self.files),
            "decoded": len(decoded),
            "failed": len(self.failures),
            "failures": self.failures,
            "warned": len(self.warnings),
            "warnings": self.warnings,
            "stored_size": {name: f"{width}x{height}" for name, (width, height) in stored.items()},
            "seconds": round(self.seconds, 2),
            "views_per_second": round(sum(result.views for result in decoded) / max(self.seconds, 1e-9), 2),
        }

    def table(self) -> str:
        """The report for a reader: one fact a line, and the first failures and warnings."""
        rows: dict[str, Any] = {**self.to_dict(), **self.scores()}
        rows[MAIN[self.modality]] += f" of {counted(len(self.files), 'file')}"
        rows.pop("standard_error", None)  # stands behind the score
        if views := rows.pop("views", None):
            rows["protocol"] = f"{rows['protocol']} ({views})"
        rows["stored_size"] = ", ".join(f"{name} {size}" for name, size in rows["stored_size"].items()) or None
        named = [("failed", "error", rows.pop("failures")), ("warned", "warning", rows.pop("warnings"))]
        width = max(map(len, rows))
        lines = [f"{name:<{width}}  {_cell(value)}" for name, value in rows.items()]
        lines += filter(None, [self.meaning()])
        for name, kind, files in named:
            lines += [f"{name}: {file['file']}: {file[kind]}" for file in files[:_NAMED]]
            if len(files) > _NAMED:
                lines.append(f"{name}: {len(files) - _NAMED} more")
        return "\n".join(map(printable, lines))


def evaluate(
    model: TaskModel | GraphModel,
    media: MediaSet,
    *,
    protocol: str | Protocol = "unidual34",
    task: str | None = None,
    pathway: str | None = None,
    batch_size: int = 16,
    workers: int = 0,
    file_seconds: float | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = True,
    shard: tuple[int, int] = (0, 1),
    facts: Mapping[str, Any] | None = None,
    score: ScoreFiles = score_files,
) -> Report:
    """The accuracy of a model on a data set, by a protocol.

    Args:
        model: as `timm.create_model`, `for_inference` or `load_model` makes it; its training mode is what it was
            afterwards.
        task: the head (default: see `head_for`).
        pathway: that the data take (default: their modality's).
        batch_size: views, of one file or several, that go through the network together.
        workers: processes that decode ahead; with 0 threads of this one decode, see `scoring.score_files`.
        file_seconds: that reading one file may take, see `score_files`.
        device: moves the model there; None leaves it where it is.
        dtype: computes in this type by autocast; None is the weights' own type.
        shard: (rank, number of ranks): this rank's files alone, to be put together by `Report.merge`.
        facts: plain data that the report shall also hold.
        score: what takes files through the network, as of `inference.Predictor`.

    Raises:
        ValueError: the protocol, pathway or task does not exist, or the data's classes are not the task's.
        LoaderError: a loader process died; it names the file.
    """
    task = head_for(model, media, task=task, pathway=pathway)
    route = Route(model, media.modality, protocol=protocol, pathway=pathway, task=task, device=device, dtype=dtype)
    labels, label_rule = map_labels(media.classes, model, route.task)
    rank, world = shard
    indices = range(len(media.files))[rank::world]
    files = [(str(media.files[index]), media.modality) for index in indices]
    num_views = route.protocol.num_views(media.modality)

    start, results = time.perf_counter(), []
    reading = Reading([path for path, _ in files], workers)
    bar = Progress(total=len(files), unit="file", desc="evaluating", shown=progress and rank == 0)
    scores = score(
        files,
        {media.modality: route},
        batch_size=batch_size,
        workers=workers,
        file_seconds=file_seconds,
        reading=reading,
    )
    with reading.deaths_explained(), evaluation_mode(model), bar:
        for scored in scores:
            index = indices[scored.index]
            right = [labels[label] for label in media.labels_of(index)]
            results.append(_result(scored, index, right, num_views, route))
            bar.update()
    about = {**_facts(model, media, route), "labels": label_rule, "batch_size": batch_size, "workers": workers}
    names = model.spec.class_names(route.task) or tuple(map(str, range(model.tasks[route.task].num_classes)))
    return Report(
        modality=media.modality,
        files=tuple(str(file) for file in media.files),
        results=tuple(results),
        seconds=time.perf_counter() - start,
        facts={**about, **(facts or {})},
        classes=tuple(names),
    )


@contextlib.contextmanager
def evaluation_mode(model: TaskModel | GraphModel) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def map_labels(classes: Sequence[str], model: TaskModel | GraphModel, task: str) -> tuple[list[int], str]:
    """The network's class for each of a data set's classes, and the rule: "by name", "by number" or "by order".

    By name where the model knows its class names and they are the data's, which may have fewer; a `_` is then a blank
    and capitals do not matter, unless classes differ in them alone (ImageNet's cardigan and Cardigan). By number where
    the data's names are numbers. In their order where the model's names are unknown or the data's are codes (WordNet
    ids), and there are as many.

    Raises:
        ValueError: neither rule fits; it says which names or numbers do not.
    """
    names, num_classes = model.spec.class_names(task), model.tasks[task].num_classes
    exact: dict[str, int] = {name: number for number, name in enumerate(names or ())}
    spellings = Counter(map(_plain, exact))
    plain = {_plain(name): number for name, number in exact.items() if spellings[_plain(name)] == 1}
    strange = [name for name in classes if name not in exact and _plain(name) not in plain]
    if not strange:
        return [exact[name] if name in exact else plain[_plain(name)] for name in classes], "by name"
    if all(name.isdecimal() and int(name) < num_classes for name in classes):
        return [int(name) for name in classes], "by number"
    if len(classes) == num_classes and (not names or all(_CODE.fullmatch(name) for name in classes)):
        return list(range(num_classes)), "by order"
    if not names:
        raise ValueError(
            f"the data has {counted(len(classes), 'class')}, task {task!r} has {num_classes} and no names to match"
        )
    modality = model.tasks[task].modality
    others = (other for other, own in model.tasks.items() if own.modality == modality and other != task)
    if other := next((other for other in others if _has_classes(model, other, classes)), None):
        raise ValueError(f"the data's classes are those of task {other!r}, not of {task!r}: name the task")
    near = ", ".join(repr(names[plain[name]]) for name in nearest(_plain(strange[0]), plain))
    raise ValueError(
        f"{len(strange)} of the data's {len(classes)} classes are not among the {num_classes} of task {task!r}: "
        f"the first is {strange[0]!r}, {f'nearest: {near}' if near else f'allowed: {names[0]!r}, {names[-1]!r} …'}"
    )


def head_for(
    model: TaskModel | GraphModel, media: MediaSet, *, task: str | None = None, pathway: str | None = None
) -> str | None:
    """The task whose head answers for a data set: `task`, by default the first of its modality on the pathway, or where
    that lacks some of its classes, the first one there that has all of them by name. None if no head is there.
    """
    branch = pathway or model.default_pathway(media.modality)
    if task is not None or branch not in model.pathways:
        return task
    default = model.default_task(media.modality, branch)
    if default is None or _has_classes(model, default, media.classes):
        return default
    others = (task for task in model.pathway_tasks(branch) if model.tasks[task].modality == media.modality)
    return next((task for task in others if _has_classes(model, task, media.classes)), default)


def _has_classes(model: TaskModel | GraphModel, task: str, classes: Sequence[str]) -> bool:
    """Whether all of these are classes of the task by name, as `map_labels` reads names."""
    return set(map(_plain, classes)) <= set(map(_plain, model.spec.class_names(task) or ()))


def main_score(report: Report) -> float:
    """The one number by which results and checkpoints are compared: top-1 of images, video@1 of videos."""
    return report.metrics()[MAIN[report.modality]]


def standard_error(percent: float, files: int) -> float:
    """Of a share of so many files, in percentage points: the root of p (1 - p) / n."""
    return math.sqrt(percent * (100 - percent) / files)


def model_name(model: TaskModel | GraphModel) -> str:
    """The model's name and tag, as `timm.create_model` takes them."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    name, tag = cfg.get("architecture") or type(model).__name__, cfg.get("tag")
    return f"{name}.{tag}" if tag else name


def decoder_version(modality: str) -> str:
    """The libraries that decode files of this modality."""
    return (
        f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}" if modality == VIDEO else f"Pillow {PIL.__version__}"
    )


def _result(scored: FileScores, index: int, labels: Sequence[int], num_views: int, route: Route) -> FileResult:
    label = labels[0]
    about: dict[str, Any] = dict(
        size=scored.size, error=scored.error, warning=scored.warning, others=tuple(labels[1:]), seconds=scored.seconds
    )
    if scored.scores is None:
        return FileResult(index, label, (), 0, num_views, **about)
    probabilities = route.probabilities(scored.scores)
    best = probabilities.topk(min(TOP, len(probabilities)))
    right = sum(label in labels for label in scored.scores.argmax(1).tolist())
    confidences = tuple(round(share, 6) for share in best.values.tolist())
    return FileResult(
        index, label, tuple(best.indices.tolist()), right, len(scored.scores), confidences=confidences, **about
    )


def _facts(model: TaskModel | GraphModel, media: MediaSet, route: Route) -> dict[str, Any]:
    spec, protocol = route.spec, route.protocol
    clips = {}
    if media.modality == VIDEO:
        clips = dict(clips=protocol.clips, crops=protocol.crops, frames=spec.clip.length, stride=spec.clip.stride)
        clips |= dict(rate=spec.clip.rate, sampling=spec.clip.sampling)
    return dict(
        model=model_name(model),
        modality=media.modality,
        **({"missing": media.missing} if media.missing else {}),
        pathway=route.pathway,
        task=route.task,
        protocol=protocol.name,
        views=protocol.in_words(media.modality),
        average=protocol.average,
        **clips,
        resize=spec.resize,
        crop=spec.crop,
        decoder=decoder_version(media.modality),
        torch=torch.__version__,
        device=str(route.device),
        dtype=model.about if isinstance(model, GraphModel) else dtype_name(route.dtype),
    )


def _plain(name: str) -> str:
    return tidy(name.replace("_", " ")).casefold()


def _cell(value: object) -> str:
    if isinstance(value, tuple | list):
        return "×".join(map(str, value))
    return "-" if value is None else str(value)
