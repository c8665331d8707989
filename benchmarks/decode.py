"""How fast files become pixels, and what they cost in memory: this package against the others that are installed.

    uv run benchmarks/decode.py                                   # on files made on the spot
    uv run benchmarks/decode.py --data /data/videos --images /data/photos --rounds 5 --memory-clips 10000

What is run, each by one thread:

    clip        16 frames with stride 4 from a random place, short side 128
    clips10     10 such clips spread over the file: decoding once, against a seek for each
    short       `clip` of the file encoded anew, short side 128 and a key frame every 16, against the file itself
    jpeg        a photo to 224×224 by way of a short side of 256
    null        every frame of a file decoded and dropped, `ffmpeg -f null` beside PyAV
    memory      resident memory after many clips in one process, and open files

All contestants run in turn, round after round, and the median counts; CPU seconds are those of all threads, and the
ones to look at on a machine that others use, too. Random places are the same for all. `memory` of a row is the peak of
a first round above what the process had before it. A library that is not installed is named and left out. The files
made on the spot: 340×256, 30 frames/s, 10 s, H.264, a key frame every 235 frames, as most of Kinetics; and the same at
1280×720. The last line is one JSON object.

Cost: three minutes on one core. To expect: figures in docs/results/reading.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from unidual_zoo.data import jpeg
from unidual_zoo.data.datasets import load_clips, load_image
from unidual_zoo.data.decode import fit_short_side, probe
from unidual_zoo.data.guarded import Guard
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import VideoInfo, is_image, is_video
from unidual_zoo.data.sampling import random_clip, uniform_clips
from unidual_zoo.data.transforms import Framing, eval_transform
from unidual_zoo.spec import ClipSpec, InputSpec

CLIP = ClipSpec(length=16, stride=4)
SHORT_SIDE = 128
CLIPS = 10
IMAGE_SPEC = InputSpec(resize=256, crop=(224, 224))
OURS = "unidual-zoo"
MADE = {"kinetics": (256, 340), "720p": (720, 1280)}  # height, width
FRAMES, RATE, KEY_FRAMES = 300, 30, 235
CASES = ("clip", "clips10", "short", "null", "jpeg", "memory")
SHORT_GOP = {"g": "16", "crf": "20", "tune": "fastdecode"}
WARM_CLIPS = 200  # before memory is looked at

Read = Callable[[str, Sequence[Sequence[int]]], Any]  # a file, the frame numbers of its clips


@dataclass
class Row:
    """A contestant: what it runs in a round, what a round cost (seconds), and its peak of memory (bytes)."""

    name: str
    run: Callable[[int], Any]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: int | None = None


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
                found.append(race(f"{case}, {name}", rows, options, per=per, count=len(paths)))
        first = next(iter(sources.values()))
        if "jpeg" in options.cases:
            photos = images(options, Path(folder), first[0])
            found.append(race("jpeg", image_rows(photos), options, per="image", count=len(photos)))
        held = memory_over(first, options.memory_clips) if "memory" in options.cases else None
    machine = dict(cpu=processor(), cores=os.cpu_count(), **versions())
    line = json.dumps(
        {"benchmark": "decode", **machine, "rounds": options.rounds, "missing": missing, "tables": found, "held": held}
    )
    if options.json:
        options.json.write_text(line + "\n")
    print(line)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of videos in place of those made on the spot")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs in place of frames of a video")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--made", nargs="+", choices=list(MADE), default=list(MADE), help="which files to make")
    parser.add_argument("--files", type=int, default=8, help="of a folder, at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-clips", type=int, default=10_000, help="clips of the case `memory`")
    parser.add_argument("--json", type=Path, help="keep the last line in this file")
    parser.add_argument("--quick", action="store_true", help="one round of tiny files: does it run at all")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.memory_clips = 1, 3
    return options


# ---- files ----------------------------------------------------------------------------------------------------------


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
        name: [str(write_video(folder / f"{name}.mp4", *size))] for name, size in MADE.items() if name in options.made
    }


def write_video(path: Path, height: int, width: int, *, frames: int = FRAMES) -> Path:
    """A video with the key frames of Kinetics: a picture of soft shapes that drifts under a square, with some noise."""
    rng = np.random.default_rng(0)
    shapes = torch.from_numpy(rng.random((1, 3, 12, 16), np.float32))
    scene = F.resize(shapes, [height * 2, width * 2], antialias=True)[0].permute(1, 2, 0).numpy() * 255
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    options = {"g": str(KEY_FRAMES), "keyint_min": str(KEY_FRAMES), "sc_threshold": "0", "crf": "23"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            top, left = number * height // (2 * frames), number * width // (2 * frames)
            picture = scene[top : top + height, left : left + width] + np.roll(grain, 7 * number, 1)
            side, at = height // 4, (3 * number) % (width // 2)
            picture[side : 2 * side, at : at + side] = 255 - picture[side : 2 * side, at : at + side]
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def short_copy(path: str, folder: Path) -> str:
    """The video encoded anew: short side SHORT_SIDE, few frames from a key frame to any other."""
    copy = str(folder / f"short_{Path(path).stem}.mp4")
    with av.open(path) as old, av.open(copy, "w") as new:
        source = old.streams.video[0]
        rate = source.average_rate or RATE
        stream: Any = new.add_stream("libx264", rate=rate, options=SHORT_GOP)
        height, width = fit_short_side(source.height, source.width, short_side=SHORT_SIDE)
        stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
        for number, frame in enumerate(old.decode(source)):
            small: Any = frame.reformat(stream.width, stream.height, "yuv420p")
            small.pts, small.time_base = number, 1 / rate
            new.mux(stream.encode(small))
        new.mux(stream.encode())
    return copy


def images(options: argparse.Namespace, folder: Path, video: str) -> list[str]:
    """JPEGs: those of the folder, else frames of a video at the usual size of a photo of ImageNet."""
    if options.images:
        names = [
            name for name in files_below(options.images).files if is_image(name) and name.endswith((".jpg", ".jpeg"))
        ]
        if not names:
            raise SystemExit(f"{options.images}: no JPEGs")
        return [str(options.images / name) for name in names[: 4 * options.files]]
    paths = []
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 40 == 0:
                path = folder / f"{number}.jpg"
                picture = frame.to_image().resize((500, 375), Image.Resampling.BICUBIC)
                picture.save(path, quality=90)
                paths.append(str(path))
    return paths


# ---- who reads ------------------------------------------------------------------------------------------------------


def small(frames: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 -> the same with a short side of SHORT_SIDE."""
    return F.resize(frames, list(fit_short_side(*frames.shape[-2:], short_side=SHORT_SIDE)), antialias=True)


def ours(path: str, clips: Sequence[Sequence[int]]) -> Any:
    height, width = fit_short_side(*size_of(path), short_side=SHORT_SIDE)
    return load_clips(path, clips, Framing((height, width), (height, width)))


@lru_cache
def info_of(path: str) -> VideoInfo:
    """What everyone is told: it is not what is measured."""
    return probe(path)


def size_of(path: str) -> tuple[int, int]:
    """(height, width)."""
    return info_of(path).height, info_of(path).width


def naive(path: str, clips: Sequence[Sequence[int]]) -> Any:
    """PyAV from the start to the last frame that is wanted, each wanted one made RGB, then resized."""
    wanted = {number for clip in clips for number in clip}
    frames = []
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number >= max(wanted):
                break
    return small(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


def seeking(path: str, clips: Sequence[Sequence[int]]) -> Any:
    """PyAV with a seek for each clip, in one open file."""
    found = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = stream.average_rate or RATE, stream.time_base or 1
        for clip in clips:
            container.seek(int(clip[0] / rate / base) + (stream.start_time or 0), stream=stream)
            frames = []
            for frame in container.decode(stream):
                number = round(float((frame.pts - (stream.start_time or 0)) * base * rate)) if frame.pts else 0
                if number in clip:
                    frames.append(frame.to_ndarray(format="rgb24"))
                if number >= clip[-1]:
                    break
            found.append(small(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)))
    return found


def torchcodec_reader(seek_mode: str) -> Read:
    decoders, transforms = import_module("torchcodec.decoders"), import_module("torchcodec.transforms")

    def read(path: str, clips: Sequence[Sequence[int]]) -> Any:
        size = fit_short_side(*size_of(path), short_side=SHORT_SIDE)
        decoder = decoders.VideoDecoder(
            path, seek_mode=seek_mode, num_ffmpeg_threads=1, transforms=[transforms.Resize(size)]
        )
        return decoder.get_frames_at(sorted({number for clip in clips for number in clip})).data

    return read


def opencv_reader() -> Read:
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"

    def read(path: str, clips: Sequence[Sequence[int]]) -> Any:
        wanted = sorted({number for clip in clips for number in clip})
        height, width = fit_short_side(*size_of(path), short_side=SHORT_SIDE)
        capture = cv2.VideoCapture(path)
        capture.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
        frames = []
        for number in range(wanted[0], wanted[-1] + 1):
            capture.grab()
            if number in wanted:
                picture = capture.retrieve()[1]
                picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
                frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        capture.release()
        return np.stack(frames)

    return read


def decord_reader() -> Read:
    decord = import_module("decord")

    def read(path: str, clips: Sequence[Sequence[int]]) -> Any:
        height, width = fit_short_side(*size_of(path), short_side=SHORT_SIDE)
        reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
        return reader.get_batch(sorted({number for clip in clips for number in clip})).asnumpy()

    return read


PEERS: dict[str, tuple[str, Callable[[], Read]]] = {
    "torchcodec, exact": ("torchcodec.decoders", lambda: torchcodec_reader("exact")),
    "torchcodec, approximate": ("torchcodec.decoders", lambda: torchcodec_reader("approximate")),
    "OpenCV": ("cv2", opencv_reader),
    "decord": ("decord", decord_reader),
}


def absent() -> dict[str, str]:
    """What cannot run here, and why."""
    why = {name: said for name, (module, _) in PEERS.items() if (said := why_not(module))}
    if not shutil.which("ffmpeg"):
        why["ffmpeg -f null"] = "there is no program ffmpeg"
    if not jpeg.INSTALLED:
        why["simplejpeg"] = "it is not installed: pip install 'unidual-zoo[jpeg]'"
    return why


def why_not(module: str) -> str | None:
    """Why a module cannot be imported, None if it can."""
    try:
        import_module(module)
    except Exception as error:  # torchcodec raises a RuntimeError of many lines where it finds no FFmpeg
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def peers() -> Iterator[tuple[str, Read]]:
    """Those that can be imported."""
    yield from ((name, make()) for name, (module, make) in PEERS.items() if why_not(module) is None)


# ---- the cases ------------------------------------------------------------------------------------------------------


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
    """A random clip of the file encoded anew, and of the file."""
    copies = {path: short_copy(path, folder) for path in paths}
    yield Row(OURS, lambda seed: [ours(copies[path], random_clips(path, seed)) for path in paths])
    yield Row(f"{OURS}, original", lambda seed: [ours(path, random_clips(path, seed)) for path in paths])


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


def pillow(path: str) -> torch.Tensor:
    """Decoded, resized and cropped by Pillow alone."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    height, width = fit_short_side(picture.height, picture.width, short_side=256)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = (height - 224) // 2, (width - 224) // 2
    return torch.from_numpy(np.array(picture.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)


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


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- the race -------------------------------------------------------------------------------------------------------


def race(case: str, rows: Iterator[Row], options: argparse.Namespace, *, per: str, count: int) -> dict[str, Any]:
    """Runs everyone in turn, and prints the table: of one `per`, of which a round reads `count`."""
    racing = list(rows)
    for row in racing:
        row.memory = peak_of(row)
    for number in range(options.rounds + 1):
        for row in racing:
            begin, cpu = time.perf_counter(), cpu_seconds()
            row.run(number)
            if number:  # the first round warms up
                row.seconds.append((time.perf_counter() - begin) / count)
                row.cpu.append((cpu_seconds() - cpu) / count)
    print(f"\n{case}\n{'':28} {per + 's/s':>9} {'CPU ms':>9} {'ours is':>8} {'memory':>9}")
    first, table = statistics.median(racing[0].cpu), []
    for row in racing:
        seconds, cpu = statistics.median(row.seconds), statistics.median(row.cpu)
        table.append(
            dict(name=row.name, per_second=1 / seconds, cpu_ms=cpu * 1e3, times=cpu / first, memory=row.memory)
        )
        memory = "" if row.memory is None else f"{row.memory / 2**20:.0f} MiB"
        print(f"{row.name:28} {1 / seconds:9.1f} {cpu * 1e3:9.1f} {cpu / first:7.2f}× {memory:>9}")
    return {"case": case, "per": per, "rows": table}


def cpu_seconds() -> float:
    """Of this process and of those that it has run."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_of(row: Row) -> int | None:
    """The peak of resident memory of a process that runs it once, above what it had before; None off Linux."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None
    guard = Guard(lambda _: _peak(row), seconds=0)
    try:
        return guard("")
    finally:
        guard.close()


def _peak(row: Row) -> int:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what is held now
    before = resident()
    row.run(0)
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return max(0, int(line.split()[1]) * 1024 - before)


def processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "av": av.__version__, "ffmpeg": str(av.ffmpeg_version_info)}
    found |= {"torch": torch.__version__, "pillow": PIL.__version__}
    for module in ("torchcodec", "cv2", "decord", "simplejpeg"):
        if why_not(module) is None:
            found[module] = str(import_module(module).__version__)
    return found


if __name__ == "__main__":
    main()
