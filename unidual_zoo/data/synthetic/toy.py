"""The embedded data: an image task and a video task, drawn by a program and written once as real JPEG and MP4 files.

`toy_objects` asks which of ten kinds of object an image shows. `toy_actions` has twelve classes as Kinetics has 400:
mostly the object tells (a frame is enough), two objects are split by the direction in which they move. Everything
follows from a seed, and file i of a split has the same bytes however many files are made.

The files lie in `~/.cache/unidual-zoo` (or the folder that the environment variable UNIDUAL_CACHE names) as
`toy-v2-seed0/toy_objects/train/bird/00000.jpg`, so that `toy-v2-seed0/toy_objects` can be given to any command. Those
that are lost are drawn again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.synthetic.motion import Layer, make_clip
from unidual_zoo.data.synthetic.scenes import draw_background, draw_clutter, draw_object
from unidual_zoo.progress import Progress
from unidual_zoo.spec import IMAGE, VIDEO, packaged_classes

VERSION = 2  # part of the folder's name: raise it when what is drawn changes, and train the shipped weights anew
SPLITS = ("train", "test")
TASKS = {"toy_objects": IMAGE, "toy_actions": VIDEO}
COUNTS = {"toy_objects": {"train": 4000, "test": 1000}, "toy_actions": {"train": 2000, "test": 500}}
SIZES = ((96, 128), (90, 120), (96, 96), (84, 112), (128, 96))  # (height, width) of images and videos
NUM_FRAMES = (45, 64)  # least and most
RATE = 25
ENCODER = "libx264"
# B-frames, and a key frame every second. With mbtree the bytes would depend on memory that x264 reads unwritten.
ENCODING = {"preset": "veryfast", "crf": "26", "bf": "2", "g": "25", "mbtree": "0"}
JPEG_QUALITY = (40, 95)
FACING_SHARE = 0.75  # of what moves to a side looks that way; the others move backwards

# Class of toy_actions -> its object and the motions it may have.
ACTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "bird flying": ("bird", ("move left", "move right", "move up")),
    "boat sailing": ("boat", ("move left", "move right")),
    "car driving": ("car", ("move left", "move right")),
    "cup bouncing": ("cup", ("bounce",)),
    "fish swimming left": ("fish", ("move left",)),
    "fish swimming right": ("fish", ("move right",)),
    "house coming closer": ("house", ("grow",)),
    "key turning anticlockwise": ("key", ("spin anticlockwise",)),
    "key turning clockwise": ("key", ("spin clockwise",)),
    "mushroom growing": ("mushroom", ("grow",)),
    "tree swaying": ("tree", ("sway",)),
    "umbrella falling": ("umbrella", ("move down",)),
}
CAMERAS = ("still", "shake", "zoom in", "zoom out")


def cache_folder() -> Path:
    """The folder of all cached data: UNIDUAL_CACHE if it is set, else `~/.cache/unidual-zoo`."""
    return Path(os.environ.get("UNIDUAL_CACHE") or Path.home() / ".cache" / "unidual-zoo").expanduser()


def images(split: str, *, count: int | None = None, seed: int = 0, workers: int | None = None) -> MediaSet:
    """The images of `toy_objects` for "train" or "test", drawn and written at the first call.

    `count` (default `COUNTS`) files, their classes in turn; each count and seed has a folder of its own, in which
    nothing else counts. `workers` threads draw (default: one per processor, at most four).
    """
    return _media("toy_objects", split, count=count, seed=seed, workers=workers)


def videos(split: str, *, count: int | None = None, seed: int = 0, workers: int | None = None) -> MediaSet:
    """The videos of `toy_actions` for "train" or "test", as `images`. A PyAV without libx264 is a RuntimeError."""
    return _media("toy_actions", split, count=count, seed=seed, workers=workers)


def task_folder(task: str, *, split: str, count: int | None = None, seed: int = 0) -> Path:
    """The folder in which a task's folder `split` lies, or will lie: what a command line takes as data."""
    if task not in TASKS or split not in SPLITS:
        raise ValueError(f"no embedded data {task!r} {split!r}, allowed: {', '.join(TASKS)}; {', '.join(SPLITS)}")
    size = "" if count in (None, COUNTS[task][split]) else f"-{count}"
    return cache_folder() / f"toy-v{VERSION}-seed{seed}" / f"{task}{size}"


def _media(task: str, split: str, *, count: int | None, seed: int, workers: int | None) -> MediaSet:
    folder = task_folder(task, split=split, count=count, seed=seed) / split
    count = COUNTS[task][split] if count is None else count
    if count < 1:
        raise ValueError(f"the embedded data need 1 file or more, got count {count}")
    files = [folder / name for name in _names(task, count)]
    if missing := [index for index, file in enumerate(files) if not _is_there(file)]:
        _build(folder, missing, task=task, count=count, seed=seed, workers=workers)
    classes = packaged_classes(task)
    order = sorted(range(count), key=lambda index: files[index].parts)  # as `read_media` has them
    return MediaSet(
        TASKS[task],
        classes,
        files=tuple(str(files[index]) for index in order),
        labels=tuple(index % len(classes) for index in order),
    )


def _names(task: str, count: int) -> list[Path]:
    """`class/00000.jpg` of each file by its number."""
    classes, ending = packaged_classes(task), ".jpg" if TASKS[task] == IMAGE else ".mp4"
    return [Path(classes[index % len(classes)]) / f"{index:05d}{ending}" for index in range(count)]


def _is_there(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _build(target: Path, indices: Sequence[int], *, task: str, count: int, seed: int, workers: int | None) -> None:
    """Draw files by number in a folder beside `target`, and give it that name or, where it is there, move them in.

    So `target` is complete from the first, and what is lost later comes back file by file.
    """
    if TASKS[task] == VIDEO and ENCODER not in av.codecs_available:
        raise RuntimeError(f"this PyAV ({av.__version__}) cannot encode with {ENCODER}: install the wheel of av")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        message = f"cannot write the embedded data to {target.parent} ({error.strerror}): set UNIDUAL_CACHE"
        raise OSError(message) from error
    with scratch as name:
        unfinished = Path(name) / target.name
        files = _names(task, count)
        for index in indices:
            (unfinished / files[index]).parent.mkdir(parents=True, exist_ok=True)

        def write(index: int) -> None:
            key = (seed, list(TASKS).index(task), SPLITS.index(target.name), index)
            file = unfinished / files[index]
            _write(file.with_suffix(""), task=task, label=file.parent.name, rng=np.random.default_rng(key))

        # Threads are enough: warping and encoding leave the interpreter's lock. Torch's own would stand in their way.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers or min(4, usable_cores())) as pool:
                bar = f"drawing {task}/{target.name}"
                list(Progress(pool.map(write, indices), total=len(indices), desc=bar, unit="file", mininterval=0.5))
        finally:
            torch.set_num_threads(threads)
        if target.is_dir():
            _fill(target, unfinished, [files[index] for index in indices])
        else:
            _move(unfinished, target)


def _move(unfinished: Path, target: Path) -> None:
    """Rename a finished folder. One that another process has put there meanwhile has the same bytes and stays."""
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _fill(target: Path, folder: Path, files: Sequence[Path]) -> None:
    """Move files of a folder to where they are missing in `target`."""
    for file in files:
        (target / file).parent.mkdir(exist_ok=True)
        os.replace(folder / file, target / file)


def _write(stem: Path, *, task: str, label: str, rng: np.random.Generator) -> None:
    """Draw one file of a class and write it as `stem` + .jpg or .mp4."""
    if TASKS[task] == IMAGE:
        picture = Image.fromarray(draw_image(label, rng=rng))
        picture.save(stem.with_suffix(".jpg"), quality=int(rng.integers(*JPEG_QUALITY, endpoint=True)))
    else:
        write_video(stem.with_suffix(".mp4"), draw_video(label, rng=rng))


def write_video(path: Path, frames: np.ndarray) -> None:
    """Frames (T, H, W, 3) uint8 RGB, H and W even -> an H.264 file at `RATE` frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(ENCODER, rate=RATE, options=ENCODING)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes would depend on the number of threads
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def draw_image(name: str, *, rng: np.random.Generator) -> np.ndarray:
    """A picture of an object of `toy_objects` -> (H, W, 3) uint8."""
    image, layers = _scene(name, motion="still", side=(0.3, 0.75), tilt=0.6, clutter=(12, 6), rng=rng)
    return make_clip(image, motion="still", num_frames=1, rng=rng, layers=layers, noise=rng.uniform(2, 20))[0]


def draw_video(action: str, *, rng: np.random.Generator) -> np.ndarray:
    """A clip of a class of `toy_actions` -> (T, H, W, 3) uint8."""
    name, motions = ACTIONS[action]
    motion = motions[rng.integers(len(motions))]
    image, layers = _scene(name, motion=motion, side=(0.4, 0.8), tilt=0.4, clutter=(9, 4), rng=rng)
    return make_clip(
        image,
        motion=CAMERAS[rng.integers(len(CAMERAS))],
        num_frames=int(rng.integers(NUM_FRAMES[0], NUM_FRAMES[1], endpoint=True)),
        rng=rng,
        layers=layers,
        noise=rng.uniform(2, 12),
        drift=0.2,
    )


def _scene(
    name: str,
    *,
    motion: str,
    side: tuple[float, float],
    tilt: float,
    clutter: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Layer]]:
    """A background, and its layers: clutter, the object (moving), something in front of it.

    `side` is the range of the object's size in short sides of the frame, `tilt` its greatest angle, `clutter` the
    greatest number of shapes behind and before it.
    """
    size = SIZES[rng.integers(len(SIZES))]
    facing, other = ("right", "left") if motion == "move right" else ("left", "right")
    share = FACING_SHARE if motion in ("move left", "move right") else 0.5
    pixels = draw_object(
        name,
        side=round(min(size) * rng.uniform(*side)),
        rng=rng,
        facing=facing if rng.random() < share else other,
    )
    x, y, angle = rng.uniform((-0.2, -0.2, -tilt), (0.2, 0.2, tilt))
    behind, before = (
        draw_clutter(size, num_shapes=int(rng.integers(most, endpoint=True)), rng=rng) for most in clutter
    )
    layers = [
        Layer(pixels=behind),
        Layer(pixels=pixels, motion=motion, x=x, y=y, angle=angle),
        Layer(pixels=before),
    ]
    return draw_background(size, rng=rng), layers
