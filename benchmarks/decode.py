"""How fast files become pixels, and what they cost in memory: this package against the others that are installed.

    uv run benchmarks/decode.py                                   # on files made on the spot
    uv run benchmarks/decode.py --data /data/videos --images /data/photos --rounds 5 --memory-clips 10000

What is run, each by one thread:

    clip        16 frames with stride 4 from a random place, short side 128
    clips10     10 such clips spread over the file: decoding once, against a seek for each
    short       `clip` of the file as `unidual pack --short-side 128 --gop 16` makes it, in its shard and as a file of
                its own, against the file itself
    jpeg        a photo to 224×224 by way of a short side of 256
    null        every frame of a file decoded and dropped, `ffmpeg -f null` beside PyAV
    memory      resident memory after many clips in one process, and open files

Random places are the same for all, and who reads is in `readers.py`; a library that is not installed is named and left
out. How costs are counted is in `race.py`. The files made on the spot (`made_files.py`) are like most of Kinetics,
340×256, and the same at 1280×720. The last line is one JSON object.

Cost: three minutes on one core. To expect: figures in docs/results/reading.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from made_files import SIZES, write_photos, write_video
from race import Row, open_files, processor, race, resident, tell, versions
from readers import OURS, SHORT_SIDE, Read, absent, info_of, naive, ours, peers, pillow, seeking

from unidual_zoo.cores import usable_cores
from unidual_zoo.data import jpeg
from unidual_zoo.data.datasets import MediaSet, load_image, read_media
from unidual_zoo.data.decode import Video
from unidual_zoo.data.guarded import Guard
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_image, is_video
from unidual_zoo.data.members import read_file
from unidual_zoo.data.packing import Packing, pack
from unidual_zoo.data.sampling import random_clip, uniform_clips
from unidual_zoo.data.transforms import eval_transform
from unidual_zoo.spec import VIDEO, ClipSpec, InputSpec

CLIP = ClipSpec(length=16, stride=4)
CLIPS = 10
IMAGE_SPEC = InputSpec(resize=256, crop=(224, 224))
CASES = ("clip", "clips10", "short", "null", "jpeg", "memory")
SHORT_GOP = 16
WARM_CLIPS = 200  # before memory is looked at


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = videos(options, Path(folder))
        missing = absent()
        for name, why in missing.items():
            print(f"{name}: left out ({why})")
        for name, paths in sources.items():
            cases = {
                "clip": (clip_rows(paths), "clip"),
                "clips10": (clips_rows(paths), "video"),
                "short": (short_rows(paths, Path(folder)), "clip"),
                "null": (null_rows(paths), "video"),
            }
            for case in (case for case in cases if case in options.cases):
                rows, per = cases[case]
                found.append(race(f"{case}, {name}", rows, rounds=options.rounds, per=per, count=len(paths)))
        first = next(iter(sources.values()))
        if "jpeg" in options.cases:
            photos = images(options, Path(folder), first[0])
            found.append(race("jpeg", image_rows(photos), rounds=options.rounds, per="image", count=len(photos)))
        held = memory_over(first, options.memory_clips) if "memory" in options.cases else None
    machine = dict(cpu=processor(), cores=usable_cores(), **versions())
    tell(
        {"benchmark": "decode", **machine, "rounds": options.rounds, "missing": missing, "tables": found, "held": held},
        options.json,
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of videos in place of those made on the spot")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs in place of frames of a video")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--made", nargs="+", choices=list(SIZES), default=list(SIZES), help="which files to make")
    parser.add_argument("--files", type=int, default=8, help="of a folder, at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-clips", type=int, default=10_000, help="clips of the case `memory`")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help="one round of tiny files: does it run at all")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.memory_clips = 1, 3
    return options


def videos(options: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The files of each kind."""
    if options.data:
        names = [name for name in files_below(options.data).files if is_video(name)][: options.files]
        if not names:
            raise SystemExit(f"{options.data}: no videos")
        return {options.data.name: [str(options.data / name) for name in names]}
    if options.quick:
        return {"tiny": [str(write_video(folder / "tiny.mp4", 48, 64, frames=20))]}
    return {
        name: [str(write_video(folder / f"{name}.mp4", *size))] for name, size in SIZES.items() if name in options.made
    }


def images(options: argparse.Namespace, folder: Path, video: str) -> list[str]:
    """JPEGs: those of the folder, else frames of a video at the usual size of a photo of ImageNet."""
    if options.images:
        names = [
            name for name in files_below(options.images).files if is_image(name) and name.endswith((".jpg", ".jpeg"))
        ]
        if not names:
            raise SystemExit(f"{options.images}: no JPEGs")
        return [str(options.images / name) for name in names[: 4 * options.files]]
    return write_photos(folder, video)


def random_clips(path: str, seed: int) -> list[list[int]]:
    return [random_clip(info_of(path).frames, CLIP, rng=np.random.default_rng(seed))]


def clip_rows(paths: Sequence[str]) -> Iterator[Row]:
    """A random clip of each file, another in each round."""
    for name, read in [(OURS, ours), ("PyAV, naive", naive), ("PyAV, seek", seeking), *peers()]:
        yield Row(name, lambda seed, read=read: [read(path, random_clips(path, seed)) for path in paths])


def clips_rows(paths: Sequence[str]) -> Iterator[Row]:
    """Ten clips spread over each file."""
    clips = {path: uniform_clips(info_of(path).frames, CLIP, num_clips=CLIPS) for path in paths}

    def once(read: Read) -> Callable[[int], Any]:
        return lambda _: [read(path, clips[path]) for path in paths]

    def each(read: Read) -> Callable[[int], Any]:
        return lambda _: [[read(path, [clip]) for clip in clips[path]] for path in paths]

    yield Row(OURS, once(ours))
    yield Row(f"{OURS}, ten calls", each(ours))
    yield Row("PyAV, naive, once", once(naive))
    yield Row("PyAV, ten seeks", once(seeking))
    for name, read in peers():
        yield Row(f"{name}, once", once(read))


def short_rows(paths: Sequence[str], folder: Path) -> Iterator[Row]:
    """A random clip of the file as `unidual pack` encodes it anew, in a shard and taken out of it, and of the file."""
    packed = {path: packed_copy(path, folder / f"short_{Path(path).stem}") for path in paths}
    copies = {path: unpacked(packed[path], path, folder) for path in paths}
    yield Row(f"{OURS}, shard", lambda seed: [ours(packed[path], random_clips(path, seed)) for path in paths])
    yield Row(f"{OURS}, file", lambda seed: [ours(copies[path], random_clips(path, seed)) for path in paths])
    yield Row(f"{OURS}, original", lambda seed: [ours(path, random_clips(path, seed)) for path in paths])


def packed_copy(path: str, folder: Path) -> str:
    """The video as `unidual pack` encodes it anew, in a shard of its own."""
    media = MediaSet(VIDEO, ("any",), (path,), (0,))
    list(pack({"": media}, folder, Packing(short_side=SHORT_SIDE, gop=SHORT_GOP)))
    return read_media(folder, modality=VIDEO).files[0]


def unpacked(packed: str, path: str, folder: Path) -> str:
    """That video as a file; prints what encoding it anew did to size and quality."""
    copy = folder / f"short_{Path(path).stem}.mp4"
    copy.write_bytes(read_file(packed))
    sizes = (os.path.getsize(path), copy.stat().st_size)
    print(f"\n{Path(path).name} encoded anew: {sizes[1]:,} bytes of {sizes[0]:,}, {decibels(path, copy):.1f} dB")
    return str(copy)


def decibels(path: str, copy: Path) -> float:
    """The mean PSNR of a copy's RGB frames against those of the file, scaled to its size."""
    with Video(copy) as new, Video(path) as old:
        pairs = zip(new.each(), old.each(size=lambda *_: (new.stated[1], new.stated[2])), strict=True)
        errors = [np.square(one.astype(np.float32) - other).mean() for one, other in pairs]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))))


def null_rows(paths: Sequence[str]) -> Iterator[Row]:
    """All frames, decoded and dropped."""

    def drop(path: str) -> None:
        with av.open(path) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for _ in container.decode(video=0):
                pass

    yield Row("PyAV", lambda _: [drop(path) for path in paths])
    if program := shutil.which("ffmpeg"):
        command = [program, "-v", "error", "-threads", "1", "-i"]
        yield Row(
            "ffmpeg -f null",
            lambda _: [
                subprocess.run([*command, path, "-map", "0:v:0", "-f", "null", "-"], check=True) for path in paths
            ],
        )


def image_rows(paths: Sequence[str]) -> Iterator[Row]:
    transform = eval_transform(IMAGE_SPEC)

    def by(installed: bool) -> Callable[[int], Any]:
        def run(_: int) -> None:
            before, jpeg.INSTALLED = jpeg.INSTALLED, installed
            for path in paths:
                load_image(path, transform)
            jpeg.INSTALLED = before

        return run

    if jpeg.INSTALLED:
        yield Row(f"{OURS}, simplejpeg", by(True))
    yield Row(f"{OURS}, Pillow", by(False))
    yield Row("Pillow", lambda _: [pillow(path) for path in paths])


def memory_over(paths: Sequence[str], count: int) -> dict[str, Any]:
    """Resident memory (bytes) and open files of a process after some clips, and after many."""
    guard = Guard(read_many, seconds=0)
    try:
        facts = guard(paths[0], list(paths), count)
    finally:
        guard.close()
    print(f"\nmemory: {facts}")
    return facts


def read_many(_: str, paths: Sequence[str], count: int) -> dict[str, Any]:
    begin = time.perf_counter()
    warm = min(WARM_CLIPS, count // 2)
    early: dict[str, int] = {}
    for number in range(count):
        path = paths[number % len(paths)]
        ours(path, random_clips(path, number))
        if number == warm:
            early = {"resident": resident(), "files": open_files()}
    return {
        "clips": count, "clips_per_second": count / (time.perf_counter() - begin), "resident_early": early["resident"],
        "resident_late": resident(), "files_early": early["files"], "files_late": open_files(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
