"""SCSampler (arXiv 1904.04289) in small: K clips chosen by a cheap look, beside K uniform ones and beside all.

    uv run benchmarks/salient.py
        long videos of 40 seconds: one embedded clip of two seconds somewhere between drawn scenes in which nothing is
        done; minutes on one core
    uv run benchmarks/salient.py --data FOLDER --unrelated FOLDER --model NAME [--sampler NAME] --json FILE
        labelled clips (class/file) joined with videos that have nothing to do with them

Every row is the same network on the same long videos. "all" looks at as many clips as fit, "uniform" at K of them
spread evenly, "salient" at the K windows of whose middle frame the image pathway (or --sampler) is surest. "alone" is
the labelled clip by itself, what a perfect choice would give. Seconds are those of the processor, for reading and for
the networks, which other work on the machine changes little. The last line printed is JSON. `docs/results/salient.md`
holds measured figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from unidual_zoo.data import probe, read_frames
from unidual_zoo.data.datasets import MediaSet, read_media
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_video
from unidual_zoo.data.synthetic import toy
from unidual_zoo.data.synthetic.motion import Layer, make_clip
from unidual_zoo.data.synthetic.scenes import draw_background, draw_clutter
from unidual_zoo.evaluation import evaluate
from unidual_zoo.inference import for_inference, load_network
from unidual_zoo.salient import SalientClips, sampler_route, windows
from unidual_zoo.scoring import Protocol
from unidual_zoo.spec import VIDEO
from unidual_zoo.tabular import markdown_table

MODEL = "unidual10_aux.toy"
SIZE = (96, 128)  # (height, width) of the long videos
PIECE = 50  # frames of a piece that is joined
SHAPES = 8  # of a drawn scene, at most
CAMERAS = ("still", "shake", "zoom in", "pan left", "pan right")


@dataclass(frozen=True)
class Row:
    """How one way of choosing clips did: percent of right videos, the processor's seconds, and clips of a video."""

    name: str
    accuracy: float
    seconds: float
    clips: int


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--sampler", help="the network that has the cheap look [default: the model's image pathway]")
    parser.add_argument("--data", help="a folder class/file of short videos [default: embedded ones]")
    parser.add_argument("--unrelated", help="a folder of videos to join them with [default: drawn scenes]")
    parser.add_argument("--videos", type=int, default=48, help="how many long videos")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 3, 10], help="the K of the rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the last line there")
    return parser.parse_args()


def drawn_scenes(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Scenes (PIECE, H, W, 3) uint8 in which nothing but the camera moves."""
    while True:
        clutter = Layer(pixels=draw_clutter(SIZE, num_shapes=int(rng.integers(SHAPES, endpoint=True)), rng=rng))
        camera = CAMERAS[rng.integers(len(CAMERAS))]
        yield make_clip(draw_background(SIZE, rng=rng), motion=camera, num_frames=PIECE, rng=rng, layers=[clutter],
                        noise=rng.uniform(2, 12), drift=0.2)  # fmt: skip


def cut_scenes(folder: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces of the videos in a folder, which are taken in turn."""
    files = [Path(folder) / file for file in files_below(folder).files if is_video(file)]
    if not files:
        raise ValueError(f"{folder} has no videos in it")
    while True:
        for number in rng.permutation(len(files)):
            yield frames_of(files[number], PIECE)


def frames_of(path: Path | str, most: int) -> np.ndarray:
    """The frames of a video from its beginning, at most so many, (T, *SIZE, 3) uint8."""
    frames = torch.from_numpy(read_frames(path, range(min(most, probe(path).frames)))).permute(0, 3, 1, 2)
    return F.resize(frames, list(SIZE), antialias=True).permute(0, 2, 3, 1).numpy()


def long_video(path: Path, clip: np.ndarray, scenes: Iterator[np.ndarray], *, frames: int, place: float) -> None:
    """Writes the clip among scenes: `place`, from 0 to 1, is where it begins in the room that there is."""
    room = max(0, frames - len(clip))
    start = int(place * room)
    pieces = [*filling(scenes, start), clip, *filling(scenes, room - start)]
    path.parent.mkdir(parents=True, exist_ok=True)
    toy.write_video(path, np.concatenate(pieces))


def filling(scenes: Iterator[np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """As many scenes as have so many frames together; the last one is cut."""
    while frames > 0:
        scene = next(scenes)[:frames]
        frames -= len(scene)
        yield scene


def join_all(media: MediaSet, folder: Path, options: argparse.Namespace) -> MediaSet:
    """A long video for each of the clips."""
    rng = np.random.default_rng(options.seed)
    scenes = cut_scenes(options.unrelated, rng) if options.unrelated else drawn_scenes(rng)
    pool = [next(scenes) for _ in range(60)]  # drawing takes longer than joining

    def chosen() -> Iterator[np.ndarray]:
        while True:
            yield pool[rng.integers(len(pool))]

    files = [folder / media.classes[label] / f"{i:05d}.mp4" for i, label in enumerate(media.labels)]
    for source, file in zip(media.files, files, strict=True):
        frames = round(options.seconds * toy.RATE)
        long_video(file, frames_of(source, frames), chosen(), frames=frames, place=rng.random())
    return MediaSet(VIDEO, media.classes, tuple(map(str, files)), media.labels)


def measure(model: Any, media: MediaSet, protocol: Protocol, **options: Any) -> Row:
    start = time.process_time()
    report = evaluate(model, media, protocol=protocol, progress=False, **options)
    return Row(protocol.name, report.metrics()["video@1"], round(time.process_time() - start, 1), protocol.clips)


def rows(model: Any, sampler: Any, short: MediaSet, media: MediaSet, counts: Sequence[int], frames: int) -> list[Row]:
    """All ways, the first of them twice: what is read and compiled for the first time is not counted."""
    every = len(windows(frames, model.spec.clip, toy.RATE))
    measure(model, MediaSet(VIDEO, media.classes, media.files[:1], media.labels[:1]), Protocol(name="first"))
    found = [
        measure(model, short, Protocol(name="alone", clips=1)),
        measure(model, media, Protocol(name="all", clips=every)),
    ]
    for count in counts:
        found.append(measure(model, media, Protocol(name=f"uniform {count}", clips=count)))
        salient = SalientClips(sampler, count)
        found.append(measure(model, media, Protocol(name=f"salient {count}", clips=count), score=salient))
    return found


def main() -> None:
    options = parse()
    network = load_network(options.model)
    sampler = sampler_route(network, sampler=load_network(options.sampler) if options.sampler else None)
    short = read_media(options.data, modality=VIDEO) if options.data else toy.videos("test", count=options.videos)
    keep = np.random.default_rng(options.seed).permutation(len(short))[: options.videos]
    short = short.take(keep.tolist())
    with tempfile.TemporaryDirectory() as folder:
        media = join_all(short, Path(folder), options)
        frames = round(options.seconds * toy.RATE)
        found = rows(for_inference(network, modality=VIDEO), sampler, short, media, options.clips, frames)
    cells = [(row.name, str(row.clips), f"{row.accuracy:.1f}", f"{row.seconds:.1f}") for row in found]
    print(markdown_table(("clips", "of a video", "video@1 (%)", "processor seconds"), cells), end="")
    result = {
        "model": options.model, "sampler": options.sampler, "videos": len(media), "seconds_each": options.seconds,
        "seed": options.seed, "rows": [vars(row) for row in found],
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
