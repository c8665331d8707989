"""Videos to pixels: `probe`, `read_frames` and `open_video`.

They are decoded by PyAV, whose wheel brings FFmpeg. Frame i is the i-th frame of a full decode, bit for bit, but a
read decodes as little as it can: it notes the time stamps of all packets, starts at the last packet before the wanted
frames from which decoding is exact, leaves out frames that no other frame needs, and stops at the last wanted one.
Where this is not known to be exact (`packets.frame_index`), or does not give the frames it should, the file is decoded
from its start. One thread: loaders run one process per core.
"""

from __future__ import annotations

import math
import operator
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from unidual_zoo.data.media import (
    MediaError,
    PathLike,
    VideoInfo,
    check_file,
)
from unidual_zoo.data.packets import FrameIndex, NoteTaker, PacketNote, frame_index
from unidual_zoo.data.stacks import StackedClip, is_stacked

HELD_BYTES = 64 * 2**20  # packets, or counted frames, that take more memory are read or decoded again
UNKNOWN_RATE = Fraction(25)  # FFmpeg's own guess where a stream states no time
RATE_TOLERANCE = 0.01
LAST_FRAME, LAST_FRAME_SHARE = 1.0, 0.1  # seconds and share of a stated duration that the last frame may last

Size = Callable[[int, int], tuple[int, int]]  # displayed (height, width) -> (height, width) to scale to


def probe(path: PathLike) -> VideoInfo:
    """A video file -> its `VideoInfo`; a warning if it ends early.

    A file without a decodable frame is a MediaError.
    """
    with open_video(path) as video:
        return video.info()


def read_frames(path: PathLike, indices: Iterable[int], short_side: int | None = None) -> np.ndarray:
    """Frames of a video by number -> (T, H, W, 3) uint8 RGB in the order asked, rotated for display.

    Numbers count from 0 in display order, may repeat and come in any order; one outside the video is an IndexError.
    `short_side` scales frames, bilinear, so that the shorter side has exactly that many pixels and the longer one
    floor(short_side * longer / shorter). A file that cannot be read is a MediaError; if a wanted frame is damaged or
    missing, the error names it. A stream whose frame size changes is scaled to the size of the first frame read.
    """
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be 1 pixel or more, or None, got {short_side}")
    with open_video(path) as video:
        return video.read(indices, size=partial(fit_short_side, short_side=short_side) if short_side else None)


def fit_short_side(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """(height, width) scaled so that the shorter side is `short_side`; the longer is rounded down as in torchvision."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def open_video(path: PathLike) -> Video | StackedClip:
    """A video file, or a clip of a stack, for a `with` statement."""
    return StackedClip(path) if is_stacked(path) else Video(path)


class Video:
    """An open video file: how many frames it has, at which rate, and their pixels. Use it in a `with` statement."""

    def __init__(self, path: PathLike) -> None:
        check_file(path)
        self._path = os.fspath(path)
        self._packets: list[av.Packet] | None = None  # all of them, unless they are too large
        self._pictures: list[av.VideoFrame] | None = None  # all frames, if they had to be counted and are small
        self._damage: str | None = None  # why decoding from the start ended early
        with self._explained("it cannot be opened as a video"):
            self._open()
            self._index = self._note_packets()
        self._stamps: Sequence[int | None] | None = self._index.pts if self._index else None

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_) -> None:
        self._packets = self._pictures = None
        self._container.close()

    @property
    def frames(self) -> int:
        """The number of frames a full decode gives; counted by decoding only where the packets do not tell."""
        return len(self._time_stamps())

    @property
    def rate(self) -> float:
        """Average frames per second: what the file states, or, if its time stamps say otherwise, what they say."""
        stamps = self._time_stamps()
        stated = self._stream.average_rate or self._stream.guessed_rate or UNKNOWN_RATE
        first, last = stamps[0], stamps[-1]
        if first is None or last is None or last <= first or self._stream.time_base is None:
            return float(stated)
        measured = (len(stamps) - 1) / ((last - first) * self._stream.time_base)
        return float(stated if abs(measured - stated) <= RATE_TOLERANCE * stated else measured)

    def info(self) -> VideoInfo:
        """See `probe`."""
        frames, rate = self.frames, self.rate
        first = next((frame for _, frame in self._decode_all()), None)
        if first is None:
            raise self._no_frame()
        display = Display.of(first)
        height, width = display.size(first.height, first.width)
        return VideoInfo(frames, rate, width, height, display.rotation, frames / rate)

    def read(self, indices: Iterable[int], *, size: Size | None = None) -> np.ndarray:
        """Frames by number -> (T, H, W, 3) uint8; see `read_frames`. `size` says what to scale them to."""
        numbers = [operator.index(i) for i in indices]
        if not numbers:
            return self.read([0], size=size)[:0]
        wanted = sorted(set(numbers))
        if wanted[0] < 0:
            raise self._out_of_range(wanted[0])
        if self._index is not None and wanted[-1] >= len(self._index.pts):
            raise self._out_of_range(wanted[-1])
        with self._explained("its frames cannot be decoded"):
            pictures = self._index and self._read_runs(self._index, wanted, Painter(size))
            pictures = pictures or self._read_from_start(wanted, Painter(size))
        return np.stack([pictures[i] for i in numbers])

    def _open(self) -> None:
        """Open the file: nothing demuxed, nothing decoded."""
        # Not the bare path: FFmpeg takes "a:b.mp4" for protocol a. Metadata in unknown encodings is no reason to fail.
        self._container: InputContainer = av.open(os.path.abspath(self._path), metadata_errors="ignore")
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            reason = "its video is damaged, or of a codec without a decoder" if streams else "it has no video stream"
            sound = ", only sound" if self._container.streams.audio and not streams else ""
            self._container.close()
            raise MediaError(self._path, reason + sound)
        self._stream = streams[0]
        self._codec = self._stream.codec_context
        self._codec.thread_count = 1

    def _reopen(self) -> None:
        """Back to the first packet, with a decoder that has seen nothing."""
        self._container.close()
        self._open()

    def _demux(self) -> Iterator[av.Packet]:
        """All packets of the stream in decoding order."""
        if self._packets is not None:
            yield from self._packets
            return
        for packet in self._container.demux(self._stream):
            if packet.size == 0 and packet.dts is None:  # PyAV's mark of the end
                return
            yield packet

    def _note_packets(self) -> FrameIndex | None:
        """The index of all frames where the packets tell it surely; on the way the packets are kept."""
        take_note = NoteTaker(self._stream)
        notes, packets, held_bytes = [], [], 0
        ended_well = True
        try:
            for packet in self._demux():
                notes.append(take_note(packet))
                held_bytes += packet.size
                if held_bytes <= HELD_BYTES:
                    packets.append(packet)
        except FFmpegError:
            ended_well = False  # decoding from the start will meet it again, at its place
        else:
            self._packets = packets if held_bytes <= HELD_BYTES else None
        promised = len(self._stream.index_entries) if "mp4" in self._container.format.name else 0
        self._promised = max(promised, len(notes))
        self._truncated = promised > len(notes)
        if self._truncated:
            warnings.warn(f"{self._path} ends early, after {len(notes)} of its {promised} packets", stacklevel=4)
        stated = self._stated_seconds()
        if stated and stated - (seconds := self._seconds(notes)) > max(LAST_FRAME, LAST_FRAME_SHARE * stated):
            warnings.warn(f"{self._path} ends early, after {seconds:.1f} of its {stated:.1f} seconds", stacklevel=4)
        return frame_index(notes, codec=take_note.codec, reorders=take_note.reorders) if ended_well else None

    def _seconds(self, notes: Sequence[PacketNote]) -> float:
        """The latest time stamp."""
        latest = max((note.pts for note in notes if note.pts is not None), default=0)
        return float(latest * (self._stream.time_base or 0))

    def _stated_seconds(self) -> float:
        """How long the video lasts by its own tag, which FFmpeg and others write in Matroska and WebM; 0 without."""
        parts = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self._stream.metadata.get("DURATION", ""))
        hours, minutes, seconds = map(float, parts.groups()) if parts else (0, 0, 0)
        return 3600 * hours + 60 * minutes + seconds

    def _read_runs(self, index: FrameIndex, wanted: Sequence[int], paint: Painter) -> dict[int, np.ndarray] | None:
        """The wanted frames by decoding only what they need; None if the decoder does not give what the index says."""
        numbers = {index.pts[i]: i for i in wanted}
        pictures: dict[int, np.ndarray] = {}
        latest = None
        try:
            for frame in self._decode_runs(index, index.runs(wanted), needed=numbers):
                if not _regular(frame, latest):
                    return None
                latest = frame.pts
                if latest in numbers:
                    pictures[numbers[latest]] = paint(frame)
        except FFmpegError:
            return None
        return pictures if len(pictures) == len(wanted) else None

    def _decode_runs(
        self, index: FrameIndex, runs: Sequence[tuple[int, int]], *, needed: Collection[int]
    ) -> Iterator[av.VideoFrame]:
        """Frames of these ranges of packets. The decoder may leave out those whose time stamps are not `needed`."""
        if self._packets is None:
            self._reopen()
        codec = self._codec
        packets = enumerate(self._demux())
        reached = 0
        for start, stop in runs:
            codec.flush_buffers()
            for position, packet in islice(packets, start - reached, stop - reached):
                leave_out = index.skippable[position] and packet.pts not in needed
                codec.skip_frame = "NONREF" if leave_out else "DEFAULT"
                yield from codec.decode(packet)
            yield from codec.decode(None)
            reached = stop

    def _read_from_start(self, wanted: Sequence[int], paint: Painter) -> dict[int, np.ndarray]:
        """The wanted frames by decoding everything up to the last of them."""
        pictures: dict[int, np.ndarray] = {}
        number = -1
        for number, frame in self._decode_all():
            if number == wanted[len(pictures)]:
                pictures[number] = paint(frame)
            if number == wanted[-1]:
                return pictures
        if self._stamps is None:
            self._stamps = [None] * (number + 1)
        raise self._out_of_range(wanted[len(pictures)])

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of a full decode, up to the first packet that cannot be decoded, which `_damage` explains."""
        if self._pictures is not None:
            yield from enumerate(self._pictures)
            return
        if self._codec.is_open or self._packets is None:
            self._reopen()
        number = -1
        try:
            for packet in chain(self._demux(), [None]):
                for frame in self._codec.decode(packet):
                    number += 1
                    yield number, frame
        except FFmpegError as error:
            self._damage = error.strerror

    def _time_stamps(self) -> Sequence[int | None]:
        """The time stamp of every frame that a full decode gives, in the stream's unit; at least one frame."""
        if self._stamps is None:
            stamps, pictures, held_bytes = [], [], 0
            for _, frame in self._decode_all():
                stamps.append(frame.pts)
                held_bytes += sum(plane.buffer_size for plane in frame.planes)
                if held_bytes <= HELD_BYTES:
                    pictures.append(frame)
            self._stamps = stamps
            self._pictures = pictures if held_bytes <= HELD_BYTES else None
        if not self._stamps:
            raise self._no_frame()
        return self._stamps

    def _no_frame(self) -> MediaError:
        return MediaError(self._path, f"it has no video frame that can be decoded ({self._damage or 'no data'})")

    def _out_of_range(self, number: int) -> Exception:
        """Why there is no frame of this number: the file never held one, or it cannot be decoded."""
        frames = self.frames
        lost = frames <= number < self._promised and (self._damage or self._truncated)
        if lost or 0 <= number < frames:
            why = self._damage or "the file ends early"
            return MediaError(self._path, f"frame {number} of {self._promised} cannot be decoded ({why})")
        return IndexError(f"{self._path}: frame {number} was asked, but its {frames} frames are 0 to {frames - 1}")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn FFmpeg's errors into MediaError."""
        try:
            yield
        except (FFmpegError, UnicodeError) as error:
            raise MediaError(self._path, f"{what} ({getattr(error, 'strerror', error)})") from None


def _regular(frame: av.VideoFrame, latest: int | None) -> bool:
    """Whether a frame, displayed after one with time stamp `latest`, may be taken for the one of its packet.

    Two packets may hold one interlaced frame; frames given in another order than their time stamps have stamps that are
    not those of display; and what FFmpeg paints over damage depends on what it decoded before.
    """
    in_order = frame.pts is not None and (latest is None or frame.pts > latest)
    return in_order and not frame.interlaced_frame and not frame.is_corrupt


class Display(NamedTuple):
    """How a stored frame is displayed: x' = a*x + c*y, y' = b*x + d*y, all of them -1, 0 or 1 times a scale."""

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Display:
        """From the display matrix that the container or the stream gives the frame."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return cls() if matrix is None else cls(*np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())

    @property
    def transposes(self) -> bool:
        return abs(self.b) + abs(self.c) > abs(self.a) + abs(self.d)

    @property
    def rotation(self) -> int:
        """Degrees clockwise, the nearest of 0, 90, 180, 270."""
        return round(math.degrees(math.atan2(self.b, self.a)) / 90) % 4 * 90

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Stored (height, width) -> displayed, and back."""
        return (width, height) if self.transposes else (height, width)

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) as stored -> as displayed, a view; rotations by multiples of 90 degrees, and mirrorings."""
        if self.transposes:
            return picture.swapaxes(0, 1)[:: -1 if self.b < 0 else 1, :: -1 if self.c < 0 else 1]
        return picture[:: -1 if self.d < 0 else 1, :: -1 if self.a < 0 else 1]


class Painter:
    """Decoded frames -> displayed (H, W, 3) uint8 RGB, all of one size and turned as the first; one swscale context."""

    def __init__(self, size: Size | None) -> None:
        self._size = size
        self._reformatter = VideoReformatter()
        self._stored: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self._stored is None:
            self._display = Display.of(frame)
            shown = self._display.size(frame.height, frame.width)
            self._stored = self._display.size(*(self._size(*shown) if self._size else shown))
        height, width = self._stored
        # Bilinear, and an area average when it makes smaller.
        picture = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return self._display.turn(picture.to_ndarray())
