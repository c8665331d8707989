"""Tiny media files for tests: videos in many codecs and containers, written by PyAV, and what they should read as."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition

from unidual_zoo.data import probe, read_frames
from unidual_zoo.data.decode import open_video

DEFAULTS = {  # x265 and SVT-AV1 kept from printing; x264's mbtree reads unwritten memory: other bytes at every encode
    "libx264": {"mbtree": "0"},
    "libx265": {"x265-params": "log-level=none"},
    "libsvtav1": {"svtav1-params": "lp=1"},
}
X265 = {"x265-params": "log-level=none:keyint=10:bframes=3:b-adapt=0"}
MP4_FOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


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


def join(sources: Sequence[Path], path: Path, *, dispositions: Sequence[int] = ()) -> Path:
    """Copy the first video stream of every source to one file, with these dispositions."""
    with ExitStack() as stack:
        new = stack.enter_context(av.open(str(path), "w"))
        opened = [stack.enter_context(av.open(str(source))) for source in sources]
        copies = [new.add_stream_from_template(container.streams.video[0]) for container in opened]
        for copy, disposition in zip(copies, dispositions, strict=False):
            copy.disposition = Disposition(disposition)
        for container, copy in zip(opened, copies, strict=True):
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    new.mux(packet)
    return path


def packets_of(path: Path) -> list[bytes]:
    """The data of every packet of the video."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def overwrite(path: Path, number: int, start: int = 0, stop: int | None = None, *, data: bytes = b"\0") -> Path:
    """Write over the bytes `start` to `stop` of a packet, in the file, with repetitions of `data`."""
    packet, whole = packets_of(path)[number], path.read_bytes()
    assert whole.count(packet) == 1, "the packet must be in one piece, and no other like it"
    length = len(packet[start:stop])
    at = whole.index(packet) + start
    path.write_bytes(whole[:at] + (data * length)[:length] + whole[at + length :])
    return path


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of an MP4 file."""
    return struct.pack(">I4s", 8 + sum(map(len, contents)), kind) + b"".join(contents)


def edit_boxes(data: bytes, change: Callable[[bytes, bytes], bytes]) -> bytes:
    """An MP4 file with `change(kind, content)` in place of every box's content; the media data must come first."""
    edited, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + size]
        edited += box(kind, edit_boxes(content, change) if kind in MP4_FOLDERS else change(kind, content))
        at += size
    return edited


def write_jpegs(path: Path, jpegs: Sequence[bytes], *, size: tuple[int, int]) -> Path:
    """Write JPEG files as the packets of a video; `size` is the (height, width) in the container's header."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuvj420p"
        for number, jpeg in enumerate(jpegs):
            _mux(container, stream, jpeg, number)
    return path


def write_palette(path: Path, num_frames: int = 6, *, size: tuple[int, int] = (48, 64)) -> Path:
    """Write pictures with a palette, which only the first packet brings: index i is the colour (i, 255 - i, i).

    The index is row + column + 9 * frame.
    """
    ramp = np.arange(256)
    palette = np.stack([np.full(256, 255), ramp, ramp[::-1], ramp], axis=1).astype(np.uint8)  # alpha first
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("rawvideo", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "pal8"
        for number in range(num_frames):
            indices = np.add.outer(np.arange(size[0]), np.arange(size[1])) + 9 * number
            frame = av.VideoFrame.from_ndarray((indices.astype(np.uint8), palette), format="pal8")  # pyright: ignore
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_fields(path: Path, num_frames: int = 10) -> Path:
    """Write grey H.264 of 16x32 pixels, 25 frames a second, in which every field is a packet of its own, by hand.

    Field i is of the brightness 40 + 8 * i: one macroblock of plain samples (I_PCM). No encoder in FFmpeg makes fields.
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=50)
        stream.height, stream.width, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(2 * num_frames):
            units = [b"\x09\xf0"] + ([FIELD_SEQUENCE, FIELD_PARAMETERS] if number % 2 == 0 else [])
            units.append(field_slice(number, brightness=40 + 8 * number))
            _mux(container, stream, b"".join(b"\0\0\0\1" + unit for unit in units), number, rate=50)
    return path


def field_slice(number: int, *, brightness: int) -> bytes:
    """The NAL unit of a field of 16x16 pixels; even ones are top fields and IDR, odd ones the bottom fields to them."""
    bits = BitWriter().golomb(0, 7, 0).bits(4, 0).bits(1, 1).bits(1, number % 2)  # an I slice, frame 0, of a field
    bits = bits.bits(1, 0) if number % 2 else bits.golomb(number // 2 % 2).bits(2, 0)  # references
    bits = bits.golomb(0, 1).golomb(25)  # no change of the quantiser, no deblocking; I_PCM
    return (b"\x61" if number % 2 else b"\x65") + bits.end(bytes([brightness]) * 256 + bytes([128]) * 128)


class BitWriter:
    """Writes the payload of an H.264 NAL unit: fixed numbers and Exp-Golomb codes."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def bits(self, count: int, value: int) -> BitWriter:
        return BitWriter(self.text + format(value, f"0{count}b"))

    def golomb(self, *values: int) -> BitWriter:
        codes = (format(value + 1, "b") for value in values)
        return BitWriter(self.text + "".join("0" * (len(code) - 1) + code for code in codes))

    def end(self, samples: bytes = b"") -> bytes:
        """The bytes, with plain samples at a whole byte, the stop bit, and emulation prevention."""
        text = self.text + "0" * (-len(self.text) % 8) if samples else self.text
        text += "".join(format(sample, "08b") for sample in samples) + "1"
        text += "0" * (-len(text) % 8)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
        return re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)


# Main profile, 16x32 in fields or frames, output in the order of decoding: nothing is delayed.
FIELD_SEQUENCE = b"\x67" + (
    BitWriter().bits(8, 77).bits(16, 30).golomb(0, 0, 2, 1).bits(1, 0).golomb(0, 0).bits(5, 0b00101)
    .bits(9, 1).bits(1, 1).golomb(0, 0, 10, 10, 0, 1).end()
)  # fmt: skip
FIELD_PARAMETERS = b"\x68" + (
    BitWriter().golomb(0, 0).bits(2, 0).golomb(0, 0, 0).bits(3, 0).golomb(0, 0, 0).bits(3, 0b100).end()
)  # fmt: skip


def _mux(container, stream, data: bytes, number: int, *, rate: int = 25) -> None:
    packet = av.Packet(data)
    packet.stream, packet.time_base = stream, Fraction(1, rate)
    packet.pts = packet.dts = number
    packet.is_keyframe = True
    container.mux(packet)


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


def full_decode(path: Path, *, stream: int = 0) -> list[np.ndarray]:
    """Every frame of the `stream`-th video by the plainest means: PyAV's own loop, RGB, turned for display.

    As ffmpeg does, it skips empty packets and goes on behind one that cannot be decoded. One thread, because what
    FFmpeg paints in place of damaged blocks depends on the number of threads.
    """
    frames = []
    with av.open(str(path)) as container:
        video = container.streams.video[stream]
        video.codec_context.thread_count = 1
        for packet in (*_demuxed(container, video), None):
            with suppress(FFmpegError):
                for frame in video.codec_context.decode(packet):
                    picture = frame.to_ndarray(format="rgb24")
                    frames.append(np.rot90(picture, round(frame.rotation / 90)).copy())
    return frames


def _demuxed(container, video) -> Iterator[av.Packet]:
    with suppress(FFmpegError):
        yield from (packet for packet in container.demux(video) if packet.size)


def assert_exact(path: Path, frames: Sequence[np.ndarray], *, seed: int = 0) -> int:
    """Reads of single, last, repeated, unordered and strided frames equal the full decode's, as does their number."""
    n = len(frames)
    rng = np.random.default_rng(seed)
    asks = [[int(i)] for i in rng.permutation(n)[:8]]
    asks += [[n - 1], [n // 2, 0, n - 1, n // 2], list(range(0, n, 4)), list(range(n)), rng.integers(0, n, 5)]
    for ask in asks:
        got = read_frames(path, ask)
        assert got.dtype == np.uint8
        assert got.shape == (len(ask), *frames[0].shape)
        assert all(np.array_equal(got[k], frames[i]) for k, i in enumerate(ask)), f"frames {ask} of {path.name} differ"
    with open_video(path) as video:
        streamed = list(video.stream(range(1, n, 3)))
    assert [number for number, _ in streamed] == list(range(1, n, 3))
    assert all(np.array_equal(frame, frames[number]) for number, frame in streamed)
    assert probe(path).frames == n
    return len(asks)
