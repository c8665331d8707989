"""From files to answers: `predict` on a folder of videos and photos, against a plain pipeline and its own parts.

    uv run --with torchcodec benchmarks/answers.py                # on files made on the spot
    uv run --with torchcodec benchmarks/answers.py --data /data/mixed --models r2plus1d18 --clips 10 --rounds 5
    uv run benchmarks/answers.py --models unidual10_aux --workers 0 1 2 --json answers.json
    uv run benchmarks/answers.py --device cuda --models r2plus1d18 --videos 200 --photos 1000 --clips 10

The videos made on the spot are like those of Kinetics: 340×256, 10 s, H.264, a key frame every 235 frames; the photos
are JPEGs of 500×375. Who runs, all in turn, round after round, each side in a process of its own:

    unidual-zoo       `Predictor` as the command line makes it; with `--workers` once for each number of processes
    decoding alone    the same files read, with as many threads or processes, and the views dropped
    network alone     the same views from memory through the same network, in the same batches
    plain pipeline    file after file: torchcodec's exact frames and Pillow, torchvision's transforms, and the same
                      network with the same weights as torchvision ships it (the Conv3d form where it has none)

`plain is` says how many times as long the plain pipeline takes, by the wall and by CPU time, which is the one to look
at on a machine that others use. `overlap` is what we reach of the rate at which the slower of decoding and network runs
alone: the limit where a device computes. On a CPU both want the same cores, and `of the cores` is what we reach of the
rate at which they run one after the other, each with all of them. `difference` is how far probabilities of the two
pipelines are apart at most, relative to the largest: their frames are scaled by different libraries. The last line is
one JSON object.

Cost: some 15 s of CPU for a clip of r2plus1d18 in each round. Measured figures: docs/results/answers.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import peers
import timm
import torch
from made_files import FRAMES, SIZES, write_photos, write_video
from PIL import Image
from race import cpu_seconds, processor, tell, versions
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.decode import fit_short_side
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_media
from unidual_zoo.data.sampling import uniform_clips
from unidual_zoo.data.transforms import normalize
from unidual_zoo.inference import Predictor, modality_of
from unidual_zoo.scoring import Protocol, read_file, score_files, score_read
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec

MODELS = ("r2plus1d18", "unidual10_aux")
OURS, DECODING, NETWORK, PLAIN = "unidual-zoo", "decoding alone", "network alone", "plain pipeline"
SEED = 0
TINY = InputSpec(resize=(32, 43), crop=(32, 32))


@dataclass(frozen=True)
class Case:
    """What is run: on which files, by which network, how."""

    model: str
    files: tuple[str, ...]
    clips: int
    batch: int
    threads: int
    device: str
    tiny: bool

    @property
    def protocol(self) -> Protocol:
        """The views of a video."""
        return Protocol(name=f"{self.clips} clips", clips=self.clips)


@dataclass
class Row:
    """A contestant, where it runs, and what each round took (seconds)."""

    name: str
    side: Connection
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, *, keep: bool) -> None:
        self.side.send(self.name)
        seconds, cpu = self.side.recv()
        if keep:
            self.seconds.append(seconds)
            self.cpu.append(cpu)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(options, Path(folder))
        for model in options.models:
            case = Case(model, files, options.clips, options.batch, options.threads, options.device, options.quick)
            found.append(race(case, options))
    machine = dict(cpu=processor(), cores=usable_cores(), device=options.device, **versions())
    tell({"benchmark": "answers", **machine, "rounds": options.rounds, "tables": found}, options.json)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of videos and photos in place of those made on the spot")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--videos", type=int, default=4, help="that are made, or of a folder at most")
    parser.add_argument("--photos", type=int, default=8, help="likewise")
    parser.add_argument("--clips", type=int, default=2, help="of a video")
    parser.add_argument("--batch", type=int, default=16, help="views that go through our network together")
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="of torch and of the decoders, for everyone"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0], help="loader processes of ours, each tried")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help="one round of tiny files and networks: does it run at all")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.videos, options.photos = 1, 1, 1
    return options


def make_files(options: argparse.Namespace, folder: Path) -> tuple[str, ...]:
    """Videos and photos, the given ones or made ones."""
    if options.data:
        paths = [str(options.data / name) for name in files_below(options.data).files if is_media(name)]
        kinds = {kind: [path for path in paths if modality_of(path) == kind] for kind in (VIDEO, IMAGE)}
        return (*kinds[VIDEO][: options.videos], *kinds[IMAGE][: options.photos])
    size = (48, 64) if options.quick else SIZES["kinetics"]
    first = write_video(folder / "0.mp4", *size, frames=20 if options.quick else FRAMES)
    photos = write_photos(folder, str(first))
    videos = [str(first), *(str(folder / f"{number}.mp4") for number in range(1, options.videos))]
    for video in videos[1:]:
        os.link(first, video)
    return (*videos, *(photos[number % len(photos)] for number in range(options.photos)))


# ---- the race -------------------------------------------------------------------------------------------------------


def race(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Everyone in turn, in two processes; prints the table and returns it as plain data."""
    context = multiprocessing.get_context("spawn")  # malloc and threads are the process's own
    start: Any = threading.Thread if case.tiny else context.Process
    rows, told, running = [], {}, []
    for make in (our_side, plain_side):
        here, there = context.Pipe()
        process = start(target=_serve, args=(there, make, case, options.workers), daemon=case.tiny)
        process.start()
        if not case.tiny:
            there.close()  # so that its end is seen here
        names, told[make.__name__] = here.recv()
        rows += [Row(name, here) for name in names]
        running.append((process, here))
    for number in range(options.rounds + 1):
        for row in rows:
            row.run(keep=number > 0)  # the first round warms up
    for process, side in running:
        side.send(None)
        process.join()
    return report(case, rows, told["our_side"], told["plain_side"])


def _serve(
    side: Connection, make: Callable[[Case, Sequence[int]], tuple[dict[str, Callable[[], Any]], Any]], case: Case,
    workers: Sequence[int],
) -> None:  # fmt: skip
    """A process of a side: tells who runs here and their answers, then runs who is named."""
    torch.set_num_threads(case.threads)
    if not case.tiny and "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(
            "fork", force=True
        )  # of loader processes, as where nobody has spawned this one
    runs, answers = make(case, workers)
    side.send((list(runs), answers))
    while (name := side.recv()) is not None:
        begin, cpu = time.perf_counter(), cpu_seconds()
        runs[name]()
        side.send((time.perf_counter() - begin, cpu_seconds() - cpu))


def report(case: Case, rows: Sequence[Row], ours: Sequence[Tensor], plain: Sequence[Tensor]) -> dict[str, Any]:
    """The table of a network."""
    seconds = {row.name: statistics.median(row.seconds) for row in rows}
    cpu = {row.name: statistics.median(row.cpu) for row in rows}
    print(f"\n{case.model}: {len(case.files)} files, {case.clips} clips of a video, {case.threads} threads")
    print(
        f"{'':28} {'files/s':>8} {'wall s':>8} {'CPU s':>8} {'plain is':>9} {'by CPU':>7} {'overlap':>8} of the cores"
    )
    table = []
    for name in seconds:
        cells: dict[str, Any] = dict(name=name, seconds=seconds[name], cpu_seconds=cpu[name])
        if name.startswith(OURS):
            alone = [seconds[name.replace(OURS, DECODING)], seconds[NETWORK]]
            cells |= dict(overlap=max(alone) / seconds[name], of_the_cores=sum(alone) / seconds[name])
            if PLAIN in seconds:
                cells |= dict(plain_is=seconds[PLAIN] / seconds[name], plain_is_by_cpu=cpu[PLAIN] / cpu[name])
        table.append(cells)
        ratios = [f"{cells[key]:.2f}×" if key in cells else "" for key in ("plain_is", "plain_is_by_cpu")]
        shares = [f"{cells[key]:.0%}" if key in cells else "" for key in ("overlap", "of_the_cores")]
        rate = len(case.files) / seconds[name]
        print(
            f"{name:28} {rate:8.2f} {seconds[name]:8.2f} {cpu[name]:8.2f} {ratios[0]:>9} {ratios[1]:>7} "
            f"{shares[0]:>8} {shares[1]:>12}"
        )
    difference = None
    if plain:
        difference = max(float((a - b).abs().max() / a.max()) for a, b in zip(ours, plain, strict=True))
        print(f"difference {difference:.1e} of the largest probability")
    else:
        print(f"{PLAIN}: left out (torchcodec is not installed, or nobody else has this network)")
    return dict(
        model=case.model, files=len(case.files), clips=case.clips, batch=case.batch, threads=case.threads,
        difference=difference, rows=table,
    )  # fmt: skip


# ---- who answers ----------------------------------------------------------------------------------------------------


def network(case: Case) -> tuple[Any, dict[str, nn.Module]]:
    """Our network, and the other form of it for each modality of the files, with the same random weights."""
    torch.manual_seed(SEED)
    small: dict[str, Any] = {"spec": TINY} if case.tiny else {}
    model: Any = timm.create_model(case.model, **small)
    pathways = {modality: model.default_pathway(modality) for modality in set(map(modality_of, case.files))}
    made: dict[str, nn.Module] = {}
    for pathway in sorted(set(pathways.values())):
        torch.manual_seed(SEED)  # each of them draws the norms of the whole network, which are to stay the same
        same = peers.same_network(case.model, peers.Pathway(model, pathway, model.default_task(pathway, pathway)))
        if same is not None:
            made[pathway] = same[1].eval()
    return model.eval(), {modality: made[way] for modality, way in pathways.items() if way in made}


def our_side(case: Case, workers: Sequence[int]) -> tuple[dict[str, Callable[[], Any]], list[Tensor]]:
    """Whoever runs in our process, by name; and the probabilities of each file."""
    made: dict[str, Any] = dict(protocol=case.protocol, batch_size=case.batch, device=case.device, top=1)
    predictor = Predictor(network(case)[0], **made)
    files = [(path, modality_of(path)) for path in case.files]
    read = [read_file(path, predictor.routes[modality].reader) for path, modality in files]
    scored = list(score_read(read, predictor.routes, batch_size=case.batch))
    answers = [predictor.routes[each.modality].probabilities(each.scores) for each in scored if each.scores is not None]

    def answering(count: int) -> Callable[[], Any]:
        own = Predictor(predictor.model, **made, workers=count)
        return lambda: list(own(case.files))

    def decoding(count: int) -> Callable[[], Any]:
        idle: dict[str, Any] = {modality: _Idle(route) for modality, route in predictor.routes.items()}
        return lambda: list(score_files(files, idle, batch_size=case.batch, workers=count))

    runs: dict[str, Callable[[], Any]] = {}
    for count in workers:
        runs[f"{OURS}{_with(count)}"] = answering(count)
        runs[f"{DECODING}{_with(count)}"] = decoding(count)
    runs[NETWORK] = lambda: list(score_read(read, predictor.routes, batch_size=case.batch))
    return runs, answers


def _with(workers: int) -> str:
    return f", {workers} workers" if workers else ""


class _Idle:
    """A route whose network answers at once."""

    outputs = "scores"

    def __init__(self, route: Any) -> None:
        self.reader, self.device = route.reader, torch.device("cpu")

    def score(self, views: Tensor) -> Tensor:
        return torch.zeros(len(views), 1)


def plain_side(case: Case, _: Sequence[int]) -> tuple[dict[str, Callable[[], Any]], list[Tensor]]:
    """The plain pipeline, if what it is made of is there; and the probabilities of each file."""
    model, others = network(case)
    if not peers.is_installed("torchcodec") or any(modality_of(path) not in others for path in case.files):
        return {}, []
    others = {modality: other.to(case.device) for modality, other in others.items()}
    views = {modality: case.protocol.spec(model.spec, modality) for modality in others}
    answers: list[Tensor] = []

    @torch.inference_mode()
    def run() -> None:
        answers.clear()
        for path in case.files:
            modality = modality_of(path)
            spec = views[modality]
            if modality == VIDEO:
                pixels = torchcodec_clips(path, spec, case)
            else:
                pixels = pillow_image(path, spec, frames=model.image_frames if IMAGE not in model.pathways else None)
            logits = others[modality](normalize(pixels.to(case.device), spec))
            answers.append(logits.softmax(-1).mean(0).cpu())

    run()
    return {PLAIN: run}, list(answers)


def torchcodec_clips(path: str, spec: InputSpec, case: Case) -> Tensor:
    """The clips of a video (clips, 3, T, H, W) uint8, each frame decoded once."""
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    decoder = VideoDecoder(path, num_ffmpeg_threads=case.threads)
    facts = decoder.metadata
    clips = uniform_clips(
        facts.num_frames, spec.clip, num_clips=case.clips, rate=facts.average_fps, starts=case.protocol.starts
    )
    wanted = sorted({number for clip in clips for number in clip})
    frames = framed(decoder.get_frames_at(wanted).data, spec)  # (N, 3, H, W)
    place = {number: row for row, number in enumerate(wanted)}
    return torch.stack([frames[[place[number] for number in clip]].transpose(0, 1) for clip in clips])


def pillow_image(path: str, spec: InputSpec, *, frames: int | None) -> Tensor:
    """An image (1, 3, H, W) uint8, or a clip (1, 3, T, H, W) in which nothing moves."""
    with Image.open(path) as opened:
        picture = framed(torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1), spec)
    return picture[None] if frames is None else picture[None, :, None].expand(-1, -1, frames, -1, -1)


def framed(frames: Tensor, spec: InputSpec) -> Tensor:
    """(..., 3, H, W) uint8, resized and cropped in the centre by torchvision."""
    size = spec.resize if isinstance(spec.resize, tuple) else fit_short_side(*frames.shape[-2:], short_side=spec.resize)
    return F.center_crop(F.resize(frames, list(size), antialias=True), list(spec.crop))


if __name__ == "__main__":
    main()
