"""Whether files are read as fast as a network trains on them: joint training of images and videos, examples a second.

    uv run benchmarks/throughput.py                                   # the shipped networks, on files made on the spot
    uv run benchmarks/throughput.py --models unidual34_aux --gpu-rate unidual34_aux=900 --cores 1

Half of the examples are photos (500×375 JPEGs) and half are random clips of videos like those of Kinetics (340×256, 10
s, a key frame every 235 frames), or of the same videos as `unidual pack --short-side 128 --gop 16` makes them
("short"); each is read, resized, cropped and augmented as `unidual finetune` does. *Reads* is how many of them one core
reads in a second of its time; *trains* how many a step of the joint objective, forward, backward and update, does on
this machine's CPU in a second of a core's. Both are counted in CPU time, because machines are shared. If reads is above
trains, then the cores that train are fed by fewer than as many again.

A GPU that trains R examples/s needs R / reads cores. R is not known here: `--gpu-rate NAME=R` takes one that you have
measured. Without it the table says up to which rate one core suffices, and how many FLOP/s of convolutions and matrix
products the GPU then does. The last line is one JSON object.

Cost: four minutes on two cores. Measured figures: docs/results/reading.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from decode import packed_copy
from made_files import FRAMES, SIZES, write_photos, write_video
from race import processor, tell, versions
from torch.utils.flop_counter import FlopCounterMode

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.joint import JointDataset, JointSampler, collate
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.training.objective import TOTAL, JointObjective

MODELS = ("unidual_efficientnet_lite0", "unidual10_aux")
TASKS = {"images": (IMAGE, 10), "videos": (VIDEO, 10)}
BATCH = 4  # half of it images
FILES = ("kinetics", "short")


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        media = make_files(Path(folder), quick=options.quick)
        for name in options.models:
            small: dict[str, Any] = {"width": 1 / 16} if options.quick else {}
            model: Any = timm.create_model(name, tasks=TASKS, **small)
            trains, flops = training(model, media["kinetics"], options.rounds)
            for files in FILES:
                reads = reading(model, media[files], options.examples)
                found.append(row(name, files, reads, trains, flops, options))
    machine = dict(cpu=processor(), cores=usable_cores(), threads=options.threads, **versions())
    tell({"benchmark": "throughput", **machine, "rows": found}, options.json)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--gpu-rate", action="append", default=[], help="NAME=EXAMPLES/S that a GPU trains; repeatable")
    parser.add_argument("--cores", type=int, default=1, help="CPU cores for each GPU")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of a training step")
    parser.add_argument("--examples", type=int, default=64, help="that are read, of each kind of files")
    parser.add_argument("--rounds", type=int, default=3, help="training steps, of which the median counts")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help="tiny files and networks: does it run at all")
    options = parser.parse_args(argv)
    if options.quick:
        options.examples, options.rounds = 4, 1
    return options


def make_files(folder: Path, *, quick: bool) -> dict[str, dict[str, MediaSet]]:
    """The training files of each kind."""
    size = (48, 64) if quick else SIZES["kinetics"]
    video = str(write_video(folder / "video.mp4", *size, frames=20 if quick else FRAMES))
    photos = write_photos(folder, video)
    videos = {"kinetics": video, "short": packed_copy(video, folder / "short")}
    return {
        kind: {
            "images": MediaSet(IMAGE, ("x",), tuple(photos), (0,) * len(photos)),
            "videos": MediaSet(VIDEO, ("x",), (path,), (0,)),
        }
        for kind, path in videos.items()
    }


def loader(model: Any, media: Mapping[str, MediaSet], examples: int) -> Callable[[], Any]:
    """Reads a batch of that many examples, the next with every call."""
    data = JointDataset(media, clip=model.spec.clip, transform=train_transform(model.spec, flip=True))
    sampler = JointSampler({task: len(each) for task, each in media.items()}, batch_size=examples, epoch_size=examples)
    steps = iter(range(10**9))
    return lambda: collate([data[draw] for draw in sampler.batch(next(steps))])


def reading(model: Any, media: Mapping[str, MediaSet], examples: int) -> float:
    """Examples that are read in a second of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader process
    read = loader(model, media, examples)
    read()
    begin = time.process_time()
    read()
    taken = time.process_time() - begin
    torch.set_num_threads(threads)
    return examples / taken


def training(model: Any, media: Mapping[str, MediaSet], rounds: int) -> tuple[float, float]:
    """Examples that are trained on in a second of one core, and the FLOPs of one, forward and backward."""
    objective = JointObjective(model).train()
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e-4, momentum=0.9)
    batch = loader(model, media, BATCH)().data

    def step() -> None:
        optimizer.zero_grad()
        objective(batch)[TOTAL].backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()  # which also warms up
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        step()
        seconds.append(time.process_time() - begin)
    return BATCH / statistics.median(seconds), counter.get_total_flops() / BATCH


def row(
    name: str, files: str, reads: float, trains: float, flops: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Prints what follows for one network and kind of files, and returns it as plain data."""
    found = dict(model=name, files=files, reads_per_core=reads, trains_per_core=trains, gflops_per_example=flops / 1e9)
    found |= dict(reads_over_trains=reads / trains, tflops_one_core_feeds=reads * flops / 1e12)
    print(
        f"{name}, {files} files: a core reads {reads:.1f} examples/s and trains on {trains:.2f}, {reads / trains:.0f} "
        f"times fewer; one core per GPU suffices up to {reads:.0f} examples/s, {reads * flops / 1e12:.1f} TFLOP/s"
    )
    for given in options.gpu_rate:
        model, _, rate = given.rpartition("=")
        if model == name:
            cores = float(rate) / reads
            found |= dict(gpu_rate=float(rate), cores_needed=cores, suffices=cores <= options.cores)
            verdict = "suffices" if cores <= options.cores else "does not suffice"
            print(f"    a GPU at {rate} examples/s needs {cores:.1f} cores: {options.cores} {verdict}")
    return found


if __name__ == "__main__":
    main()
