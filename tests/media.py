"""Tiny media files for tests: videos in many codecs and containers, written by PyAV, and what they should read as."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

DEFAULTS = {  # x265 and SVT-AV1 kept from printing; x264's mbtree reads unwritten memory: other bytes at every encode
    "libx264": {"mbtree": "0"},
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"svtav1-params": "lp=1"},
}


def scene(num_frames: int, height: int = 48, width: int = 64, *, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8: a texture that drifts and changes, so that every frame differs from every other."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height // 4 + 8, width // 4 + 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = []
    for t in range(num_frames):
        frame = texture[t % 24 :, (2 * t) % 40 :][:height, :width].copy()
        frame[:6, : 2 + 3 * t % (width - 4)] = (7 * t) % 256
        frames.append(frame)
    return np.stack(frames)


def write_video(
    path: Path,
    num_frames: int = 30,
    *,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int | Fraction = 25,
    options: Mapping[str, str] | None = None,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    mirror: bool = False,
    format: str | None = None,
    sound: bool = False,
    seed: int = 0,
) -> Path:
    """Write a video of `scene` frames and return its path.

    `size` is (height, width); `pts` time stamps in units of 1 / rate (default 0, 1, 2...); `rotation` degrees clockwise
    for display; `options` are the encoder's, besides `DEFAULTS`.
    """
    with av.open(str(path), "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=DEFAULTS.get(codec, {}) | dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if rotation or mirror:
            stream.set_display_rotation(-rotation, hflip=mirror)
        beep = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, picture in enumerate(scene(num_frames, *size, seed=seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number if pts is None else pts[number], 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if beep is not None:
            container.mux(_silence(beep, seconds=float(num_frames / rate)))
    return path


def remux(
    source: Path,
    path: Path,
    keep: Callable[[int, av.Packet], bool] = lambda i, packet: True,
    *,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Copy those packets of a video for which `keep(number in the file, packet)` is true to another file."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=dict(options or {})) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in old.demux(stream) if packet.size):
            if keep(number, packet):
                packet.stream = copy
                new.mux(packet)
    return path


def write_sound(path: Path, seconds: float = 1.0) -> Path:
    """Write a file that holds sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        container.mux(_silence(stream, seconds))
    return path


def _silence(stream, seconds: float) -> list[av.Packet]:
    packets = []
    for start in range(0, int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        packets += stream.encode(frame)
    return packets + stream.encode()


def full_decode(path: Path) -> list[np.ndarray]:
    """Every frame by the plainest means: PyAV's own loop, RGB, turned for display. Ends at the first error.

    One thread, because what FFmpeg paints in place of damaged blocks depends on the number of threads.
    """
    frames = []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        try:
            for frame in container.decode(video=0):
                picture = frame.to_ndarray(format="rgb24")
                frames.append(np.rot90(picture, round(frame.rotation / 90)).copy())
        except FFmpegError:
            pass
    return frames


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """An RGB PNG file of rows of pixels, each begun by its filter, with chunks before and after them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + png_chunk(b"IEND", b"")
