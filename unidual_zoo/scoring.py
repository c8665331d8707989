"""Files to scores: the evaluation protocols, and the route of an image or a video through a network.

A file is decoded once for all its views (clips × crops), frames stay uint8 until they are on the device, and batches
hold views of several files. On a device the next batch is under way while the scores of one come back.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unidual_zoo.checks import check_known
from unidual_zoo.cores import limit_threads
from unidual_zoo.data.datasets import load_sized_clips, load_sized_image
from unidual_zoo.data.guarded import Guard, guarded
from unidual_zoo.data.loaders import Reading
from unidual_zoo.data.media import MediaError, MediaWarning, file_boundary
from unidual_zoo.data.sampling import STARTS, uniform_clips
from unidual_zoo.data.transforms import eval_transform, normalize
from unidual_zoo.data.warned import collected
from unidual_zoo.engines import Call, GraphModel
from unidual_zoo.memory import keep_freed_memory
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import counted
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec

PROBABILITIES, LOGITS = "probabilities", "logits"
_PLACES = {"ends": "", "intervals": ", at the beginnings of equal parts", "sparse": ", each over the whole of it"}
_HELD_BACK = 4  # finished files, in batches, that may wait for one before them
_EVERY = 16  # of so many pixels one is looked at to tell views apart
_MOST_READERS = 8  # threads of this process; each holds the views of a file


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a video is evaluated; sizes, clip length and stride are the model's own (its InputSpec).

    `clips` per video, placed by `starts` ("ends": the first and the last touch the video's ends; "intervals": clip j
    begins at int(j·N/K); "sparse": see `data.sampling`), read at `rate` frames/s (None: the spec's). `crops` 1: the
    spec's resize and centre crop; 3: squares as large as the short side, along the long side. `dense`: the network runs
    fully convolutionally, with an average pool as large as the training features and stride 1, T pooled whole, and the
    mean over positions. `still`: a clip is its middle frame, repeated, so that nothing moves. Views are averaged as
    probabilities or as logits. An image has one view, the spec's resize and centre crop.
    """

    name: str
    clips: int = 10
    starts: str = "ends"
    rate: float | None = None
    crops: int = 1
    dense: bool = False
    still: bool = False
    average: str = PROBABILITIES

    def __post_init__(self) -> None:
        check_known("starts", self.starts, STARTS)
        if self.clips < 1:
            raise ValueError(f"clips must be 1 or more, got {self.clips}")

    def in_words(self, modality: str) -> str:
        """What is looked at of a file, for a reader: "10 clips a video, centre crop"."""
        if modality == IMAGE:
            return "one view of an image, centre crop"
        told = [
            f"{counted(self.clips, 'clip')} a video{_PLACES[self.starts]}",
            "centre crop" if self.crops == 1 else f"{self.crops} crops of each",
            f"read at {self.rate:g} frames a second" if self.rate else "",
            "fully convolutional" if self.dense else "",
            "each its middle frame, repeated" if self.still else "",
            "logits averaged" if self.average == LOGITS else "",
        ]
        return ", ".join(filter(None, told))

    def num_views(self, modality: str) -> int:
        """Views of a file of this modality."""
        return self.clips * self.crops if modality == VIDEO else 1

    def spec(self, spec: InputSpec, modality: str) -> InputSpec:
        """The model's spec as this protocol uses it."""
        if modality == IMAGE:
            return spec
        clip = dataclasses.replace(spec.clip, rate=self.rate or spec.clip.rate)
        if self.crops == 1:
            return dataclasses.replace(spec, clip=clip)
        return dataclasses.replace(spec, clip=clip, resize=spec.short_side, crop=(spec.short_side, spec.short_side))


# Sources: the paper §3.1 and §3.3, torchvision's references/video_classification, VMZ's PyTorch code (whose clips are
# spread a little less wide), Non-local (whose clips wrap round at a video's end, where here the last frame repeats),
# mmaction2's TimeSformer (the authors average logits of clips from the video's beginning),
# mmaction2's configurations of CSN (whose clips are spread a little less wide; its pool takes the whole last map),
# UniFormerV2's run.sh and mmaction2's configurations of it (clips × crops; four clips of three crops on Kinetics and
# Moments in Time, two of them at 32 frames or more, one on Something-Something, ten on ActivityNet and HACS, and three
# clips of one crop for frozen networks), ST-Adapter's scripts.
PROTOCOLS: Mapping[str, Protocol] = {
    row.name: row
    for row in (
        Protocol(name="unidual34"),
        Protocol(name="one_clip", clips=1),  # the whole video, where a clip's frames are spread over it
        Protocol(name="unidual152", crops=3, dense=True),
        Protocol(name="torchvision", clips=5, rate=15),
        Protocol(name="vmz", rate=15, average=LOGITS),
        Protocol(name="nonlocal", starts="intervals", crops=3, dense=True),
        Protocol(name="timesformer", clips=1, crops=3),
        Protocol(name="csn", crops=3),
        Protocol(name="uniformerv2_4x3", clips=4, starts="sparse", crops=3),
        Protocol(name="uniformerv2_2x3", clips=2, starts="sparse", crops=3),
        Protocol(name="uniformerv2_1x3", clips=1, starts="sparse", crops=3),
        Protocol(name="uniformerv2_10x3", clips=10, starts="sparse", crops=3),
        Protocol(name="uniformerv2_3x1", clips=3, starts="sparse"),
        Protocol(name="st_adapter_3x1", clips=3),
    )
}


def find_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a Protocol is returned as it is. Unknown names are a ValueError."""
    if isinstance(protocol, Protocol):
        return protocol
    check_known("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]


# ---- files to views -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ViewReader:
    """Reads a file as the views of a protocol; `spec` is already the protocol's. It goes to loader processes."""

    modality: str
    spec: InputSpec
    protocol: Protocol

    def __call__(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        """The views, (1, 3, H, W) of an image or (clips·crops, 3, T, H, W) of a video, uint8; the (width, height).

        Raises:
            MediaError: the file cannot be decoded.
        """
        crops = self.protocol.crops if self.modality == VIDEO else 1
        framing = eval_transform(self.spec, crops=crops)
        with file_boundary(path):
            if self.modality == IMAGE:
                image = load_sized_image(path, framing)
                return image.pixels[None], image.shown
            return load_sized_clips(path, partial(self._clips, path), framing)

    def _clips(self, path: str, num_frames: int, rate: float) -> list[list[int]]:
        protocol = self.protocol
        clips = uniform_clips(num_frames, self.spec.clip, num_clips=protocol.clips, rate=rate, starts=protocol.starts)
        return [[clip[len(clip) // 2]] * len(clip) for clip in clips] if protocol.still else clips


class ReadFile(NamedTuple):
    """A file as it leaves the loader: its views, or what went wrong, and what warnings told.

    The clips of a short video, or of one in which nothing moves, may be equal: `views` are then those that differ, and
    `places` says which of them is in the place of each.
    """

    index: int
    modality: str
    views: Tensor | None = None
    size: tuple[int, int] | None = None
    error: str | None = None
    warning: str | None = None
    seconds: float = 0.0
    places: tuple[int, ...] = ()


class _Files(Dataset):
    """Files (path, modality) -> their views, by the reader of their modality."""

    def __init__(
        self,
        files: Sequence[tuple[str, str]],
        readers: Mapping[str, ViewReader],
        reading: Reading,
        file_seconds: float | None = None,
    ) -> None:
        self.files, self.reading = list(files), reading
        self.readers = {modality: guarded(reader, file_seconds) for modality, reader in readers.items()}
        self.guarded = any(isinstance(reader, Guard) for reader in self.readers.values())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> ReadFile:
        path, modality = self.files[index]
        start = time.perf_counter()
        with self.reading.of(index), collected() as warned:
            try:
                views, size = self.readers[modality](path)
                file = ReadFile(index, modality, size=size, **distinct(views))
            except MediaError as error:
                file = ReadFile(index, modality, error=error.reason)
        reasons = dict.fromkeys(warning.reason for warning in warned)
        return file._replace(warning="; ".join(reasons) or None, seconds=time.perf_counter() - start)


def distinct(views: Tensor) -> dict[str, Any]:
    """Views (N, C, [T,] H, W) uint8 -> the `views` that differ from all before them, and the `places` of all N among
    them; no places where all differ."""
    few = views[..., ::_EVERY, ::_EVERY].flatten(1).numpy()  # most views that differ do so in these pixels, too
    alike: dict[bytes, list[int]] = defaultdict(list)  # numbers among those kept
    kept: list[int] = []
    places = []
    for number, pixels in enumerate(few):
        known = alike[pixels.tobytes()]
        place = next((place for place in known if views[kept[place]].equal(views[number])), len(kept))
        if place == len(kept):
            known.append(place)
            kept.append(number)
        places.append(place)
    if len(kept) == len(views):
        return dict(views=views)
    return dict(views=views.movedim(1, -1)[kept].movedim(-1, 1), places=tuple(places))  # channels stay last in memory


def read_file(path: str, reader: ViewReader, *, file_seconds: float | None = None) -> ReadFile:
    """A file's views, or what is wrong with it, for `score_read`. Threads may read side by side."""
    return _Files([(path, reader.modality)], {reader.modality: reader}, Reading([path], 0), file_seconds)[0]


# ---- views to scores ------------------------------------------------------------------------------------------------


class ViewRoute(ABC):
    """How the files of one modality go through a pathway of a network: how they are read, and what their views become.

    `device` moves the model; None leaves it where it is. `dtype` computes in that type by autocast; None is the
    weights' own type.

    Raises:
        ValueError: the model lacks the pathway.
    """

    outputs = "outputs"  # what the views become, as a message calls it

    def __init__(
        self,
        model: TaskModel | GraphModel,
        modality: str,
        *,
        protocol: str | Protocol = "unidual34",
        pathway: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.protocol = find_protocol(protocol)
        self.pathway = pathway or model.default_pathway(modality)
        if self.pathway not in model.pathways:
            raise ValueError(f"the model has no {self.pathway!r} pathway, allowed: {', '.join(model.pathways)}")
        self.model: Any = model if device is None else model.to(device)
        self.spec = self.protocol.spec(model.spec, modality)
        self.reader = ViewReader(modality, self.spec, self.protocol)
        like = next(model.parameters(), torch.empty(0))  # graphs have none, and run on the CPU in float32
        self.device, self.weight_dtype = like.device, like.dtype
        self.dtype = dtype or like.dtype
        if self.device.type == "cpu":
            keep_freed_memory()
            limit_threads()

    @torch.inference_mode()
    def score(self, views: Tensor) -> Tensor:
        """Views (B, 3, [T,] H, W) uint8 -> a row for each (B, …) float32, on the model's device."""
        x = views.to(self.device, non_blocking=True)
        if not getattr(self.model, "normalizes", False):
            x = normalize(x, self.spec, dtype=self.weight_dtype)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != self.weight_dtype):
            raw = self._respond(x)
        return self._finish(raw.float())

    def to(self, device: str | torch.device) -> Self:
        """This route, its model moved to a device."""
        self.model = self.model.to(device)
        self.device = next(self.model.parameters(), torch.empty(0)).device
        return self

    def reading(self, reader: ViewReader) -> Self:
        """The same route for files that are read by another reader."""
        other = copy.copy(self)
        other.reader = reader
        return other

    def behind(self, model: Any) -> Self:
        """The same route through what is called as the model and takes something else than views."""
        other = copy.copy(self)
        other.model = model
        return other

    @abstractmethod
    def _respond(self, x: Tensor) -> Tensor:
        """Normalised views -> what the network says of each."""

    def _finish(self, raw: Tensor) -> Tensor:
        return raw


class Route(ViewRoute):
    """How the files of one modality are scored: a `ViewRoute` to the head of a task.

    Raises:
        ValueError: the model lacks the pathway, the pathway lacks the task or has no head at all, or the protocol runs
            the network fully convolutionally, which the model cannot.
    """

    outputs = "scores"

    def __init__(
        self,
        model: TaskModel | GraphModel,
        modality: str,
        *,
        protocol: str | Protocol = "unidual34",
        pathway: str | None = None,
        task: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        protocol = find_protocol(protocol)
        if protocol.dense and modality == VIDEO and not model.fully_convolutional:
            others = ", ".join(name for name, row in PROTOCOLS.items() if not row.dense)
            raise ValueError(
                f"protocol {protocol.name!r} runs a network fully convolutionally, which {type(model).__name__} "
                f"cannot: its features are no maps; allowed: {others}"
            )
        call = Call.of(model, modality, pathway=pathway, task=task)
        super().__init__(model, modality, protocol=protocol, pathway=call.pathway, device=device, dtype=dtype)
        self.task = call.task

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores of views (views, classes) -> the probabilities (classes,) of their file."""
        mean = scores.mean(0)
        return mean.softmax(0) if self.protocol.average == LOGITS else mean

    def best(self, probabilities: Tensor, count: int) -> list[tuple[str, float]]:
        """The likeliest `count` classes of probabilities (classes,), by name or, where names are unknown, by number."""
        names = self.model.spec.class_names(self.task)
        best = probabilities.topk(min(count, len(probabilities)))
        return [
            (names[number] if names else str(number), score)
            for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _respond(self, x: Tensor) -> Tensor:
        """Normalised views -> logits (B, positions, classes)."""
        if self.protocol.dense and self.reader.modality == VIDEO:
            return self._dense_logits(x)
        return self.model(x, modality=self.pathway, task=self.task)[:, None]

    def _finish(self, raw: Tensor) -> Tensor:
        """Logits (B, positions, classes) -> probabilities or logits (B, classes).

        All scores of a view are NaN if one of its logits is not finite.
        """
        scores = raw if self.protocol.average == LOGITS else raw.softmax(-1)
        sound = raw.isfinite().all(-1).all(-1)  # softmax makes 0 of -inf
        return scores.mean(1).where(sound[:, None], math.nan)

    def _dense_logits(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W) -> logits (B, positions, classes) where a window of the training features can lie."""
        model: Any = self.model
        features = model.forward_features(x, modality=self.pathway)  # (B, C, T, H, W)
        reduction = model.feature_info[-1]["reduction"]
        window = [
            min(-(-side // reduction), have) for side, have in zip(model.spec.crop, features.shape[-2:], strict=True)
        ]
        frames = features.transpose(1, 2)  # (B, T, C, H, W)
        pooled = F.avg_pool2d(frames.flatten(0, 1), window, stride=1).unflatten(0, frames.shape[:2])
        batch, num_frames, channels, height, width = pooled.shape
        columns = pooled.permute(0, 3, 4, 2, 1).reshape(batch * height * width, channels, num_frames, 1, 1)
        logits = model.forward_head(columns, modality=self.pathway, task=self.task)
        return logits.unflatten(0, (batch, height * width))


class FileScores(NamedTuple):
    """Scores (views, classes), or what else the views became, of file number `index` on the CPU, its (width, height),
    or what went wrong.

    `scores` are finite. `warning` tells what is wrong with a file that was read all the same; `seconds` are those that
    reading it took.
    """

    index: int
    modality: str
    scores: Tensor | None
    size: tuple[int, int] | None
    error: str | None
    warning: str | None
    seconds: float = 0.0


class _Batches:
    """Views waiting to be scored in full batches, and the files whose views are not all scored yet."""

    def __init__(self, routes: Mapping[str, ViewRoute], batch_size: int) -> None:
        self.routes, self.batch_size = routes, batch_size
        self.views: dict[str, list[tuple[int, Tensor]]] = {modality: [] for modality in routes}
        self.files: dict[int, ReadFile] = {}
        self.rows: dict[int, list[Tensor]] = {}
        self.missing: dict[int, int] = {}
        self.running: deque[tuple[list[int], Tensor]] = deque()  # files of each view, and scores on the device
        self.due = 0  # the file whose result comes next

    def add(self, file: ReadFile) -> None:
        """Takes a file in and scores what fills a batch."""
        views = () if file.views is None else file.views
        if len(views) == 1:  # what comes from another process holds an open file as long as it lives
            views = views.clone()
        self.files[file.index] = file._replace(views=None)
        self.rows[file.index], self.missing[file.index] = [], len(views)
        self.views[file.modality] += [(file.index, view) for view in views]
        while len(self.views[file.modality]) >= self.batch_size:
            self._score(file.modality)
        if len(self.files) > _HELD_BACK * self.batch_size:  # a rare modality must not hold up the files behind it
            self.flush()

    def flush(self) -> None:
        """Scores what waits, in batches that are not full."""
        for modality, views in self.views.items():
            while views:
                self._score(modality)
        self._collect()

    def ready(self) -> Iterator[FileScores]:
        """The files that are due and scored."""
        while self.missing.get(self.due) == 0:
            file, rows = self.files.pop(self.due), self.rows.pop(self.due)
            del self.missing[self.due]
            self.due += 1
            yield _file_scores(file, rows, self.routes[file.modality].outputs)

    def _score(self, modality: str) -> None:
        waiting = self.views[modality]
        batch = waiting[: self.batch_size]
        del waiting[: self.batch_size]
        route = self.routes[modality]
        scores = route.score(_stacked([view for _, view in batch], route.device))
        self.running.append(([index for index, _ in batch], scores))
        # To fetch scores is to wait for them. A device is to have the next batch by then, which a CPU computes at once.
        self._collect(leave=int(route.device.type != "cpu"))

    def _collect(self, *, leave: int = 0) -> None:
        """Fetches the scores of all batches but the last `leave`."""
        while len(self.running) > leave:
            indices, scores = self.running.popleft()
            for index, row in zip(indices, scores.cpu(), strict=True):
                self.rows[index].append(row)
                self.missing[index] -= 1


def _stacked(views: Sequence[Tensor], device: torch.device) -> Tensor:
    """Views of one shape as a batch with its channels last, as they were decoded; a GPU copies it while others work."""
    layout = torch.channels_last if views[0].ndim == 3 else torch.channels_last_3d
    shape, pinned = (len(views), *views[0].shape), device.type == "cuda"
    batch = torch.empty(shape, dtype=views[0].dtype, memory_format=layout, pin_memory=pinned)
    return torch.stack(list(views), out=batch)


def _file_scores(file: ReadFile, rows: list[Tensor], outputs: str) -> FileScores:
    scores = torch.stack([rows[place] for place in file.places or range(len(rows))]) if rows else None
    error = file.error
    if scores is not None and not scores.isfinite().all():
        scores, error = None, f"the network's {outputs} are not finite"
    return FileScores(file.index, file.modality, scores, file.size, error, file.warning, file.seconds)


# What takes files through a network: `score_files`, or what is called as it and has other machines or other clips.
ScoreFiles = Callable[..., Iterator[FileScores]]


def score_files(
    files: Sequence[tuple[str, str]],
    routes: Mapping[str, ViewRoute],
    *,
    batch_size: int = 16,
    workers: int = 0,
    file_seconds: float | None = None,
    reading: Reading | None = None,
) -> Iterator[FileScores]:
    """Files (path, modality) -> their scores in the same order, in batches of `batch_size` views of one modality.

    `workers` processes decode ahead, and note in `reading` at which of the files they are; with 0 this one decodes, by
    as many threads as torch has, and while they do the network waits.
    With `file_seconds` each of them has another process read its files, which is ended when one takes longer
    (`data/guarded.py`); None: UNIDUAL_FILE_SECONDS says. The models must be in evaluation mode. Each file's warnings
    are given in this process, as one MediaWarning.

    Raises:
        LoaderError: a loader process died. Where results are used it may be reported, too: see `Reading`.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"needs batch_size >= 1 and workers >= 0, got {batch_size} and {workers}")
    reading = reading or Reading([path for path, _ in files], workers)
    dataset = _Files(files, {modality: route.reader for modality, route in routes.items()}, reading, file_seconds)
    with reading.deaths_explained():
        if workers:
            loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
        else:
            loader = _read_here(dataset)
        yield from score_read(loader, routes, batch_size=batch_size, names=[path for path, _ in files])


def _as_it_is(file: Any) -> Any:
    return file  # torch's own function makes lists of tuples


def _read_here(files: _Files) -> Iterator[ReadFile]:
    """The files in their order, a few at a time, each by a thread of this process.

    They do not read ahead: what computes would have to share its cores with them, and its threads wait for each other
    at the end of every operation, so that all are as slow as the one that was interrupted.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(files), _MOST_READERS)
    if count < 2 or files.guarded:  # a guard reads one file at a time
        yield from (files[index] for index in range(len(files)))
        return
    try:
        with ThreadPoolExecutor(count, "reader", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for start in range(0, len(files), count):
                yield from list(pool.map(files.__getitem__, range(start, min(start + count, len(files)))))
    finally:
        torch.set_num_threads(threads)  # for threads to come; this one's own number has not changed


def score_read(
    files: Iterable[ReadFile],
    routes: Mapping[str, ViewRoute],
    *,
    batch_size: int = 16,
    names: Sequence[str] | None = None,
) -> Iterator[FileScores]:
    """Files as `read_file` gives them, here or in another process -> their scores in the same order.

    A batch holds views of several files. Under the files' `names` a warning tells what is wrong with one that was read.
    """
    batches = _Batches(routes, batch_size)
    for number, file in enumerate(files):
        if file.warning and names is not None:
            warnings.warn(MediaWarning(names[number], file.warning), stacklevel=2)
        batches.add(file._replace(index=number))
        yield from batches.ready()
    batches.flush()
    yield from batches.ready()
