"""SCSampler (Korbar, Tran and Torresani 2019, arXiv 1904.04289): the clips of a long video that are worth looking at.

A cheap network sees one frame of each window of a video, and the full network the clips of the K windows of which the
cheap one is surest: a window's saliency is its largest probability of a class. A video of fewer windows is seen whole.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unidual_zoo.data.loaders import Reading
from unidual_zoo.data.warned import collected
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.folding import for_inference
from unidual_zoo.scoring import FileScores, Protocol, Route, ViewReader, ViewRoute, find_protocol, score_files
from unidual_zoo.spec import IMAGE, VIDEO, ClipSpec
from unidual_zoo.timeline import PROTOCOL, Windowing, window_clip

SALIENT = "salient"
AT_ONCE = 64  # files that are sampled before their clips are scored


def parse_clips(text: str) -> int:
    """ "salient:K" -> K.

    Raises:
        ValueError: it is something else.
    """
    found = re.fullmatch(rf"{SALIENT}:([1-9]\d*)", text)
    if found is None:
        raise ValueError(f"clips must be {SALIENT}:K with the number K of clips, such as {SALIENT}:10, got {text!r}")
    return int(found[1])


def windows(num_frames: int, clip: ClipSpec, rate: float) -> list[tuple[int, int]]:
    """The frames [start, end) of the windows that are chosen among: as long as a clip, one behind the other."""
    seconds = Windowing().length(clip, rate)
    return Windowing(seconds=seconds, stride=seconds).ranges(num_frames, clip, rate)


@dataclass(frozen=True)
class FrameReader(ViewReader):
    """Reads a video as the middle frame of every window, (windows, 3, H, W) uint8, windows being those of `clip`."""

    clip: ClipSpec = field(default_factory=ClipSpec)

    def __call__(self, path: str) -> tuple[Tensor, tuple[int, int]]:
        views, size = super().__call__(path)
        return views[:, :, 0], size  # (windows, 3, 1, H, W) -> (windows, 3, H, W)

    def _clips(self, path: str, num_frames: int, rate: float) -> list[list[int]]:
        return [[(start + end) // 2] for start, end in windows(num_frames, self.clip, rate)]


@dataclass(frozen=True)
class ChosenReader(ViewReader):
    """Reads a video as the clips of those of its windows whose numbers were chosen."""

    chosen: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def _clips(self, path: str, num_frames: int, rate: float) -> list[list[int]]:
        ranges = windows(num_frames, self.spec.clip, rate)
        numbers = [number for number in self.chosen[path] if number < len(ranges)]  # damage may shorten a video
        return [window_clip(*ranges[number], self.spec.clip, rate) for number in numbers or [0]]


def sampler_route(
    model: TaskModel, *, sampler: TaskModel | None = None, device: str | torch.device | None = None
) -> Route:
    """The cheap way: frames through `sampler`, or through the model's own image pathway.

    There the head of the model's videos is taken where the image pathway has one, else that of its images.

    Raises:
        ValueError: the model has no image pathway with a head and no other network is given.
    """
    cheap = sampler or model
    if sampler is None and IMAGE not in model.pathways:
        raise ValueError("the model has no image pathway to choose clips by: name another network as sampler")
    pathway = cheap.default_pathway(IMAGE)
    task = model.default_task(VIDEO, model.default_pathway(VIDEO))
    known = task if task in cheap.pathway_tasks(pathway) else None
    served = for_inference(cheap, modality=pathway)
    return Route(served, IMAGE, protocol=PROTOCOL, pathway=pathway, task=known, device=device)


@dataclass(frozen=True)
class SalientClips:
    """Takes files through a network as `score_files` does, but of a video the `count` clips that `sampler` prefers.

    Images, and routes of other modalities, are as always. The video's route keeps its crops and its average.
    """

    sampler: Route
    count: int

    def __call__(
        self,
        files: Sequence[tuple[str, str]],
        routes: Mapping[str, ViewRoute],
        *,
        batch_size: int = 16,
        workers: int = 0,
        file_seconds: float | None = None,
        reading: Reading | None = None,
    ) -> Iterator[FileScores]:
        """See `score_files`. The files are read in groups, each of them twice: `reading` is not needed."""
        options: dict[str, Any] = dict(batch_size=batch_size, workers=workers, file_seconds=file_seconds)
        for start in range(0, len(files), AT_ONCE):
            group = files[start : start + AT_ONCE]
            videos = list(dict.fromkeys(path for path, modality in group if modality == VIDEO))
            ways = dict(routes)
            if videos:
                route = routes[VIDEO]
                chosen = self.choose(videos, route.spec.clip, **options)
                ways[VIDEO] = route.reading(ChosenReader(VIDEO, route.spec, route.protocol, chosen))
            for scored in score_files(group, ways, **options):
                yield scored._replace(index=start + scored.index)

    def protocol(self, protocol: str | Protocol) -> Protocol:
        """The protocol with clips that are chosen in place of those that it places."""
        return dataclasses.replace(find_protocol(protocol), name=f"{SALIENT}:{self.count}", clips=self.count)

    def choose(self, videos: Sequence[str], clip: ClipSpec, **options: Any) -> dict[str, list[int]]:
        """The numbers of the most salient windows of each video, in their order; none of one that cannot be read.

        `options` are those of `score_files`.
        """
        reader = FrameReader(VIDEO, self.sampler.spec, self.sampler.protocol, clip)
        ways = {VIDEO: self.sampler.reading(reader)}
        with collected():  # reading the clips warns again
            scores = list(score_files([(path, VIDEO) for path in videos], ways, **options))
        return {path: self._best(scored.scores) for path, scored in zip(videos, scores, strict=True)}

    def _best(self, scores: Tensor | None) -> list[int]:
        """Probabilities (windows, classes) -> the numbers of the windows with the largest ones."""
        if scores is None:
            return []
        saliency = scores.amax(1)
        return sorted(saliency.argsort(descending=True, stable=True)[: self.count].tolist())
