"""Who reads in benchmarks of reading: this package, and the others that are installed, each by one thread.

A reader takes a file and the frame numbers of its clips, and gives their frames with a short side of SHORT_SIDE.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import av
import numpy as np
import torch
from made_files import RATE
from PIL import Image
from torchvision.transforms.v2 import functional as F

from unidual_zoo.data import jpeg
from unidual_zoo.data.datasets import load_clips
from unidual_zoo.data.decode import fit_short_side, probe
from unidual_zoo.data.media import VideoInfo
from unidual_zoo.data.transforms import Framing

OURS = "unidual-zoo"
SHORT_SIDE = 128

Read = Callable[[str, Sequence[Sequence[int]]], Any]  # a file, the frame numbers of its clips


def to_short_side(frames: torch.Tensor) -> torch.Tensor:
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
    return to_short_side(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2))


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
            found.append(to_short_side(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)))
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


def pillow(path: str) -> torch.Tensor:
    """Decoded, resized and cropped by Pillow alone."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    height, width = fit_short_side(picture.height, picture.width, short_side=256)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = (height - 224) // 2, (width - 224) // 2
    return torch.from_numpy(np.array(picture.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)
