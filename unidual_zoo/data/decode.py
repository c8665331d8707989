"""Videos to pixels: `probe`, `read_frames` and `open_video`.

They are decoded by PyAV, whose wheel brings FFmpeg. Frame i is the i-th frame of a full decode, bit for bit, but a
read decodes as little as it can: it notes the time stamps of all packets, starts at the last packet before the wanted
frames from which decoding is exact, leaves out frames that no other frame needs, and stops at the last wanted one.
Where this is not known to be exact (`packets.frame_index`), or does not give the frames it should, the file is decoded
from its start. One thread: loaders run one process per core.

A packet that cannot be decoded is left out, as ffmpeg does, and decoding goes on. Whatever is found wrong with a file
that can be read all the same is one `MediaWarning` when the file is closed.

What a file may cost: FFmpeg's index of an MP4 600 MB (MAX_SAMPLES), what is known of its packets 400 MB (MAX_PACKETS),
packets and frames that are kept HELD_BYTES each, the frames of one read MAX_READ_BYTES; and the decoder has up to 17
frames of MAX_FRAME_PIXELS, 0.9 GB in 8-bit 4:2:0. A file that asks for more is refused; `data/limits.py` says how the
limits are raised.
"""

from __future__ import annotations

import math
import operator
import os
import re
import warnings
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import Flags, InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from unidual_zoo.data.limits import MAX_FRAME_PIXELS, MAX_PACKETS, MAX_READ_BYTES
from unidual_zoo.data.media import (
    MediaError,
    MediaWarning,
    PathLike,
    VideoInfo,
    check_file,
    file_boundary,
    is_media,
)
from unidual_zoo.data.members import NamedBytes, is_member, known_frames, read_member
from unidual_zoo.data.mp4 import samples_in, stated_samples
from unidual_zoo.data.packets import (
    GAP,
    FrameIndex,
    NoteTaker,
    PacketNote,
    frame_index,
    promised_frames,
    steps_in_time,
)
from unidual_zoo.data.stacks import StackedClip, is_stacked
from unidual_zoo.names import counted

MAX_SAMPLES = 2**23  # of all tracks of an MP4 together
HELD_BYTES = 64 * 2**20  # packets, or counted frames, that take more memory are read or decoded again
PACKET_BYTES = 1024  # that a packet takes besides its data
UNKNOWN_RATE = Fraction(25)  # FFmpeg's own guess where a stream states no time
RATE_TOLERANCE = 0.01
LAST_FRAME, LAST_FRAME_SHARE = 1.0, 0.1  # seconds and share of a stated duration that the last frame may last
STRICT_LAST_FRAMES = 2.5  # usual frames that the last one may last to a strict reader
DEFAULT_BONUS = 5_000_000  # pixels that a file's default stream counts more when ffmpeg chooses one
STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

# Containers that hold their packets themselves. Others (playlists, concat scripts) name further files, or are pictures.
CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,mxf,nut,dv,rm,wtv,gif,ivf,"
    "h264,hevc,m4v,mpegvideo,av1,obu,vc1,mjpeg,yuv4mpegpipe"
)
OPEN_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
CODEC_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}
COUNTLESS = ("mpegts", "mpeg")  # containers that do not say how many frames there should be
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}  # a packet with any fault is undecodable, none is mended

Size = Callable[[int, int], tuple[int, int]]  # displayed (height, width) -> (height, width) to scale to


def probe(path: PathLike) -> VideoInfo:
    """A video file -> its `VideoInfo`; a MediaWarning if something is wrong with it, as that it ends early.

    A file without a decodable frame is a MediaError.
    """
    with open_video(path) as video:
        return video.info()


def read_frames(path: PathLike, indices: Iterable[int], short_side: int | None = None) -> np.ndarray:
    """Frames of a video by number -> (T, H, W, 3) uint8 RGB in the order asked, rotated for display.

    Numbers count from 0 in display order, may repeat and come in any order; one outside the video is an IndexError.
    `short_side` scales frames, bilinear, so that the shorter side has exactly that many pixels and the longer one
    floor(short_side * longer / shorter). A file that cannot be read is a MediaError; if a wanted frame is lost, the
    error names it. Of a damaged file the frames are those that ffmpeg gives, with a MediaWarning. A stream whose frame
    size changes is scaled to the size of the first frame read.
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


def read_clips(
    video: Video | StackedClip,
    clips: Sequence[Sequence[int]] | Callable[[int, float], Sequence[Sequence[int]]],
    *,
    size: Size | None = None,
) -> tuple[Sequence[Sequence[int]], list[int], np.ndarray]:
    """The clips, the numbers of all their frames, ascending, and these frames (N, H, W, 3) uint8, each decoded once.

    `clips` are lists of frame numbers, or a function that makes them of the video's number of frames and rate. It makes
    them again if decoding shows that the video has fewer frames than its packets promise.
    """
    while True:
        frames = video.frames
        chosen = clips(frames, video.rate) if callable(clips) else clips
        numbers = sorted(set(chain.from_iterable(chosen)))
        try:
            pictures = video.read(numbers, size=size)
        except (MediaError, IndexError):
            if not callable(clips) or video.frames == frames:
                raise
        else:
            if not callable(clips) or video.frames == frames:
                return chosen, numbers, pictures


class Video:
    """An open video file: how many frames it has, at which rate, and their pixels. Use it in a `with` statement.

    What is wrong with the file is one `MediaWarning` at the end of that. Where decoding contradicts what the packets
    promise, as behind damage, `frames` and `rate` change to what it gives. `size` is the (height, width) of the frames
    as they are displayed, once some are read.

    `strict`: FFmpeg shall find fault with what it could mend. Frames are then lost that others see, so this is for
    telling damaged files from whole ones. `data`: the file's bytes, if they need not be read at the path.
    """

    size: tuple[int, int]

    def __init__(self, path: PathLike, *, strict: bool = False, data: bytes | None = None) -> None:
        self._path = os.fspath(path)
        self._strict = strict
        self._codec_options = CODEC_OPTIONS | (STRICT if strict else {})
        known = None
        self._bytes = data  # of a file that lies within another, too
        if data is None and is_member(path):
            self._bytes = read_member(path)
            known = None if strict else known_frames(path)
        elif data is None:
            check_file(path)
        self._packets: list[av.Packet] | None = None  # all of them, unless they are too large
        self._pictures: list[av.VideoFrame] | None = None  # all frames, if they had to be counted and are small
        self._cut: str | None = None  # why there are no more packets, if that is not the end
        self._empty = 0  # packets without data
        self._missing = 0  # packets that the container states, and does not have
        self._faults: dict[str, None] = {}  # what is wrong with the file, each once, in order
        self._undecodable: dict[int, str | None] = {}  # position of a packet -> what FFmpeg says of it
        self._corrupt: set[int] = set()  # frames that FFmpeg marks as damaged
        self._stamps: Sequence[int | None] | None = None  # of all frames, once they have been decoded
        what = "" if is_media(path) else "it is neither an image nor a video by its name, and "
        with self._explained(f"{what}it cannot be opened as a video"):
            self._open()
            try:
                # Packets that are not looked at are found by their time stamps.
                self._seeks = known is not None and self._agrees_with(known)
                self._index = known if self._seeks else self._note_packets()
            except BaseException:
                self._container.close()
                raise

    def __enter__(self) -> Video:
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        self._packets = self._pictures = None
        self._container.close()
        faults = [*self._faults, *self._decoding_faults()]
        if faults and error is None:
            warnings.warn(MediaWarning(self._path, "; ".join(faults)), stacklevel=2)

    @property
    def frames(self) -> int:
        """The number of frames a full decode gives; counted by decoding only where the packets do not tell."""
        return len(self._time_stamps())

    @property
    def index(self) -> FrameIndex | None:
        """Where its frames lie, if its packets tell it surely."""
        return self._index

    @property
    def stated(self) -> tuple[int, int, int]:
        """(frames, height, width) as packets and header state them, for whoever decides whether to decode at all."""
        return self._promised, self._codec.height, self._codec.width

    @property
    def rate(self) -> float:
        """Average frames per second: what the file states, or, if its time stamps say otherwise, what they say.

        Jumps in time, which are no step between frames, do not count.
        """
        stamps = self._time_stamps()
        stated = self._stream.average_rate or self._stream.guessed_rate or UNKNOWN_RATE
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps) or self._stream.time_base is None:
            return float(stated)
        steps, jumps = steps_in_time(known, self._stream.time_base)
        if jumps:
            longest = float(max(map(abs, jumps)) * self._stream.time_base)
            self._faults[f"its time stamps make {counted(len(jumps), 'jump')} of up to {longest:.1f} s"] = None
        if sum(steps) <= 0:
            return float(stated)
        measured = len(steps) / (sum(steps) * self._stream.time_base)
        return float(stated if abs(measured - stated) <= RATE_TOLERANCE * stated else measured)

    def info(self) -> VideoInfo:
        """See `probe`."""
        self._time_stamps()  # where frames must be counted, the first is not decoded twice
        with self._explained("its frames cannot be decoded"):
            first = next((frame for _, frame in self._decode_all()), None)
            if first is None:
                raise self._no_frame()
            display = Display.of(first)
        height, width = display.size(first.height, first.width)
        frames, rate = self.frames, self.rate
        return VideoInfo(frames, rate, width, height, display.rotation, frames / rate)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self._codec.codec.canonical_name

    def survey(self, count: int, *, side: int) -> np.ndarray:
        """Decodes everything -> (N, side, side) uint8, grey pictures of N <= `count` frames spread over the video.

        After it everything that decoding can find wrong with the file has been found.
        """
        wanted = {(2 * i + 1) * self._promised // (2 * count) for i in range(count)}
        reformatter = VideoReformatter()
        pictures = []
        with self._explained("its frames cannot be decoded"):
            for number, frame in self._decode_all():
                if number in wanted:
                    grey = reformatter.reformat(
                        frame, width=side, height=side, format="gray", interpolation="AREA", threads=1
                    )
                    pictures.append(grey.to_ndarray())
        if not self._stamps:
            raise self._no_frame()
        if self._container.format.name in COUNTLESS:
            steps = np.diff(np.sort([stamp for stamp in self._stamps if stamp is not None]))
            if gaps := int((steps >= GAP * np.median(steps)).sum()) if len(steps) else 0:
                self._faults[f"{counted(gaps, 'gap')} in its time stamps where packets may be missing"] = None
        return np.stack(pictures) if pictures else np.empty((0, side, side), np.uint8)

    def read(self, indices: Iterable[int], *, size: Size | None = None) -> np.ndarray:
        """Frames by number -> (T, H, W, 3) uint8; see `read_frames`. `size` says what to scale them to."""
        numbers = [operator.index(i) for i in indices]
        if not numbers:
            return self.read([0], size=size)[:0]
        if min(numbers) < 0:
            raise self._out_of_range(min(numbers))
        if self._index is not None and max(numbers) >= len(self._index.pts):
            raise self._out_of_range(max(numbers))
        with self._explained("its frames cannot be decoded"):
            pictures = self._index and self._read_runs(self._index, Pictures(self._path, numbers, size))
            pictures = pictures or self._read_from_start(Pictures(self._path, numbers, size))
        if pictures.missing:
            raise self._out_of_range(pictures.missing[0])
        self.size = pictures.shown
        return pictures.array

    def each(self, *, size: Size | None = None) -> Iterator[np.ndarray]:
        """All frames in turn, (H, W, 3) uint8 as `read` gives them; each is decoded once, and none is kept."""
        pictures = Pictures(self._path, [0], size)
        with self._explained("its frames cannot be decoded"):
            for _, frame in self._decode_all():
                yield pictures.picture(frame)
        if not self._stamps:
            raise self._no_frame()

    def stream(self, numbers: Sequence[int], *, size: Size | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(number, frame (H, W, 3) uint8) of ascending numbers, as `read` gives them, one at a time; none is kept.

        Those that there turn out not to be are left out. Each is decoded once; a file whose packets promise what the
        decoder does not give is decoded again from its start, up to where it had come.
        """
        pictures, wanted = Pictures(self._path, [0], size), deque(numbers)
        with self._explained("its frames cannot be decoded"):
            for given in self._wanted_frames(self._index, numbers) if self._index is not None else ():
                if given is None or given[0] != wanted[0]:
                    break
                yield wanted.popleft(), pictures.picture(given[1])
            if not wanted:
                return
            for number, frame in self._decode_all():
                if number == wanted[0]:
                    yield wanted.popleft(), pictures.picture(frame)
                if not wanted:
                    return

    def _open(self) -> None:
        """Open the file: nothing demuxed, nothing decoded."""
        source = None if self._bytes is None else NamedBytes(self._path, self._bytes)
        if (samples := samples_in(source) if source else stated_samples(self._path)) > MAX_SAMPLES:
            raise MediaError(self._path, f"its tables state {samples:,} samples, at most {MAX_SAMPLES:,} are read")
        # Not the bare path: FFmpeg takes "a:b.mp4" for protocol a. Metadata in unknown encodings is no reason to fail.
        self._container: InputContainer = av.open(
            source or os.path.abspath(self._path),
            "r",
            options=self._codec_options,
            container_options=OPEN_OPTIONS,
            metadata_errors="ignore",
        )
        if "mp4" in self._container.format.name:  # its packets all have time stamps: FFmpeg need not look for some
            self._container.flags &= ~Flags.gen_pts.value
        streams = [stream for stream in self._container.streams.video if not stream.disposition & STILLS]
        best = max(streams, key=_preference, default=None)
        if best is None or best.codec_context is None:
            reason = "its video is damaged, or of a codec without a decoder" if streams else "it has no video stream"
            sound = ", only sound" if self._container.streams.audio and not streams else ""
            self._container.close()
            raise MediaError(self._path, reason + sound)
        self._stream = best
        self._codec = best.codec_context
        self._codec.thread_count = 1
        self._codec.options = self._codec_options
        width, height = self._codec.width, self._codec.height
        if width * height > MAX_FRAME_PIXELS:
            self._container.close()
            raise MediaError(self._path, _too_large(f"its frames have {width}x{height} = {width * height:,} pixels"))
        if len(streams) > 1:
            chosen = f"stream {best.index} of the file, {width}x{height}"
            self._faults[f"it has {len(streams)} video streams; {chosen}, is read"] = None

    def _reopen(self) -> None:
        """Back to the first packet, with a decoder that has seen nothing."""
        self._container.close()
        self._open()

    def _demux(self) -> Iterator[av.Packet]:
        """All packets of the stream in decoding order, but for empty ones, which ffmpeg skips, too."""
        if self._packets is not None:
            yield from self._packets
            return
        empty = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
                elif packet.dts is not None or packet.pts is not None:  # without both it is PyAV's mark of the end
                    empty += 1
        except FFmpegError as error:
            self._cut = error.strerror
        self._empty = empty

    def _agrees_with(self, index: FrameIndex) -> bool:
        """Whether an index that came from elsewhere has the frames that the header states; so many are promised."""
        self._promised = len(index.pts)
        step = index.pts[1] - index.pts[0] if len(index.pts) > 1 else self._stream.duration
        stated = (len(self._stream.index_entries), self._stream.start_time, self._stream.duration)
        return stated == (self._promised, index.pts[0], self._promised * (step or 0))

    def _note_packets(self) -> FrameIndex | None:
        """The index of all frames where the packets tell it surely; on the way the packets are kept."""
        take_note = NoteTaker(self._stream)
        stated = len(self._stream.index_entries) if "mp4" in self._container.format.name else 0
        notes, packets, held_bytes, marked = [], [], 0, 0
        for packet in self._demux():
            notes.append(take_note(packet))
            marked += packet.is_corrupt
            if len(notes) > MAX_PACKETS or stated > MAX_PACKETS:
                raise MediaError(
                    self._path, f"it has more than {MAX_PACKETS:,} packets (UNIDUAL_MAX_PACKETS allows more)"
                )
            held_bytes += packet.size + PACKET_BYTES
            if held_bytes <= HELD_BYTES:
                packets.append(packet)
        if self._cut is None and held_bytes <= HELD_BYTES:
            self._packets = packets
        if stated > len(notes) + self._empty:  # FFmpeg leaves out empty packets of some codecs
            self._empty = max(self._empty, sum(entry.size == 0 for entry in self._stream.index_entries))
        self._missing = max(0, stated - len(notes) - self._empty)
        self._promised = promised_frames(notes) + self._empty
        if marked and self._strict:  # something is missing in it, or before it (MPEG transport streams)
            self._faults[f"its container marks {counted(marked, 'packet')} as damaged"] = None
        self._note_end(notes)
        if self._cut is not None:
            return None
        return frame_index(notes, codec=take_note.codec, reorders=take_note.reorders)

    def _note_end(self, notes: Sequence[PacketNote]) -> None:
        """What is wrong with the number of packets, of which the container states some, and with their duration."""
        count = len(notes) + self._empty
        if self._missing:
            self._faults[f"it ends early, after {count} of its {count + self._missing} packets"] = None
        elif self._cut is not None:
            self._faults[f"it ends early, after {counted(count, 'packet')} ({self._cut})"] = None
        seconds = self._stated_seconds()
        allowed = max(self._last_frame(), LAST_FRAME_SHARE * seconds)
        if seconds and seconds - (latest := self._seconds(notes)) > allowed:
            self._faults[f"it ends early, after {latest:.1f} of its {seconds:.1f} seconds"] = None
        if self._empty:
            self._faults[f"it has {counted(self._empty, 'empty packet')}"] = None

    def _decoding_faults(self) -> list[str]:
        """What is wrong with the frames, as far as they have been decoded."""
        why = next((f" ({reason})" for reason in self._undecodable.values()), "")
        faults = []
        if self._stamps is not None and len(self._stamps) < self._promised:
            faults.append(
                f"it gives {len(self._stamps)} of the {counted(self._promised, 'frame')} that its packets promise{why}"
            )
        elif self._undecodable:
            faults.append(f"it has {counted(len(self._undecodable), 'undecodable packet')}{why}")
        if self._corrupt:
            faults.append(f"it has {counted(len(self._corrupt), 'damaged frame')}")
        return faults

    def _last_frame(self) -> float:
        """Seconds that the last frame may last; to a strict reader not many times as long as the others."""
        rate = self._stream.average_rate if self._strict else None
        return min(LAST_FRAME, STRICT_LAST_FRAMES / float(rate)) if rate else LAST_FRAME

    def _seconds(self, notes: Sequence[PacketNote]) -> float:
        """The latest time stamp."""
        latest = max((note.pts for note in notes if note.pts is not None), default=0)
        return float(latest * (self._stream.time_base or 0))

    def _stated_seconds(self) -> float:
        """How long the video lasts by its own tag, which FFmpeg and others write in Matroska and WebM; 0 without."""
        parts = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self._stream.metadata.get("DURATION", ""))
        hours, minutes, seconds = map(float, parts.groups()) if parts else (0, 0, 0)
        return 3600 * hours + 60 * minutes + seconds

    def _read_runs(self, index: FrameIndex, pictures: Pictures) -> Pictures | None:
        """The pictures by decoding only what they need; None if the decoder does not give what the index says."""
        for given in self._wanted_frames(index, pictures.missing):
            if given is None:
                return None
            pictures.add(*given)
        return None if pictures.missing else pictures

    def _wanted_frames(self, index: FrameIndex, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame] | None]:
        """(number, frame) of ascending numbers by decoding only what they need.

        The last is None if the decoder does not give what the index says.
        """
        numbers = {index.pts[i]: i for i in wanted}
        latest = None
        try:
            for frame in self._decode_runs(index, index.runs(wanted), needed=numbers):
                if not _regular(frame, latest):
                    yield None
                    return
                latest = frame.pts
                if latest in numbers:
                    yield numbers[latest], frame
        except FFmpegError:
            yield None

    def _decode_runs(
        self, index: FrameIndex, runs: Sequence[tuple[int, int]], *, needed: Collection[int]
    ) -> Iterator[av.VideoFrame]:
        """Frames of these ranges of packets. The decoder may leave out those whose time stamps are not `needed`."""
        codec = self._codec
        for packets in self._seek_runs(index, runs) if self._seeks else self._find_runs(runs):
            codec.flush_buffers()
            for position, packet in packets:
                leave_out = index.skippable[position] and packet.pts not in needed
                codec.skip_frame = "NONREF" if leave_out else "DEFAULT"
                yield from codec.decode(packet)
            yield from codec.decode(None)

    def _find_runs(self, runs: Sequence[tuple[int, int]]) -> Iterator[Iterable[tuple[int, av.Packet]]]:
        """The packets of each range with their positions, on the way through all packets."""
        if self._packets is None:
            self._reopen()
        packets = enumerate(self._demux())
        reached = 0
        for start, stop in runs:
            yield islice(packets, start - reached, stop - reached)
            reached = stop

    def _seek_runs(
        self, index: FrameIndex, runs: Sequence[tuple[int, int]]
    ) -> Iterator[Iterable[tuple[int, av.Packet]]]:
        """The same by a seek to each. Where that leads elsewhere, frames will be missing and all packets looked at."""
        for start, stop in runs:
            self._container.seek(index.restart_pts[bisect_left(index.restarts, start)], stream=self._stream)
            yield zip(range(start, stop), self._demux(), strict=False)

    def _read_from_start(self, pictures: Pictures) -> Pictures:
        """The pictures by decoding everything up to the last of them; without those that there are not.

        Where decoding contradicts the index it goes on to the end, so that the frames are counted.
        """
        wanted = iter(pictures.missing)
        following = next(wanted, None)
        has_index = self._index is not None
        for number, frame in self._decode_all():
            if number == following:
                pictures.add(number, frame)
                following = next(wanted, None)
            if following is None and (self._index is not None) == has_index:
                break
        return pictures

    def _decode_all(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of a full decode. Where it contradicts the index, there is no index from then on."""
        if self._pictures is not None:
            yield from enumerate(self._pictures)
            return
        if self._codec.is_open or self._packets is None:
            self._reopen()
        stamps: list[int | None] = []
        for position, packet in enumerate(chain(self._demux(), [None])):
            for frame in self._decode(position, packet):
                number = len(stamps)
                stamps.append(frame.pts)
                if frame.is_corrupt:
                    self._corrupt.add(number)
                if self._index is not None and list(self._index.pts[number : number + 1]) != [frame.pts]:
                    self._index = None
                yield number, frame
        if self._index is not None and len(stamps) < len(self._index.pts):
            self._index = None
        self._stamps = stamps

    def _decode(self, position: int, packet: av.Packet | None) -> list[av.VideoFrame]:
        """The frames that the decoder gives for a packet, none if that cannot be decoded."""
        try:
            return self._codec.decode(packet)
        except FFmpegError as error:
            if not self._codec.is_open:  # nor will it be for the next
                raise
            self._undecodable[position] = error.strerror
            return []

    def _time_stamps(self) -> Sequence[int | None]:
        """The time stamp of every frame that a full decode gives, in the stream's unit; at least one frame."""
        if self._index is not None:
            return self._index.pts
        if self._stamps is None:
            pictures, held_bytes = [], 0
            with self._explained("its frames cannot be decoded"):
                for _, frame in self._decode_all():
                    held_bytes += sum(plane.buffer_size for plane in frame.planes)
                    if held_bytes <= HELD_BYTES:
                        pictures.append(frame)
            self._pictures = pictures if held_bytes <= HELD_BYTES else None
        if not self._stamps:
            raise self._no_frame()
        return self._stamps

    def _no_frame(self) -> MediaError:
        why = next(iter(self._undecodable.values()), self._cut or "no data")
        if self._codec.width == 0:  # as FFmpeg leaves it where MAX_FRAME_PIXELS or the header forbid to decode
            why = f"{why}; its size is not known, or beyond {MAX_FRAME_PIXELS:,} pixels"
        return MediaError(self._path, f"it has no video frame that can be decoded ({why})")

    def _out_of_range(self, number: int) -> Exception:
        """Why there is no frame of this number: the file never held one, or it cannot be decoded."""
        frames, promised = self.frames, self._promised + self._missing
        why = next(iter(self._undecodable.values()), self._cut or ("the file ends early" if self._missing else None))
        if 0 <= number < frames or (number < promised and number >= frames and why):
            return MediaError(self._path, f"frame {number} of {promised} cannot be decoded ({why or 'it is missing'})")
        return IndexError(f"{self._path}: frame {number} was asked, but its {frames} frames are 0 to {frames - 1}")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Whatever FFmpeg or PyAV raise becomes a MediaError."""
        with file_boundary(self._path):
            try:
                yield
            except FFmpegError as error:
                raise MediaError(self._path, f"{what} ({error.strerror})") from None


def _preference(stream: av.VideoStream) -> tuple[bool, bool, int]:
    """What ffmpeg chooses a stream by: whether it is the default, and its size; but a single picture comes last."""
    codec = stream.codec_context
    if codec is None:
        return False, False, 0
    is_default = bool(stream.disposition & Disposition.default)
    return True, stream.frames != 1, codec.width * codec.height + DEFAULT_BONUS * is_default


def _regular(frame: av.VideoFrame, latest: int | None) -> bool:
    """Whether a frame, displayed after one with time stamp `latest`, may be taken for the one of its packet.

    Two packets may hold one interlaced frame; frames given in another order than their time stamps have stamps that are
    not those of display; and what FFmpeg paints over damage depends on what it decoded before.
    """
    in_order = frame.pts is not None and (latest is None or frame.pts > latest)
    return in_order and not frame.interlaced_frame and not frame.is_corrupt


def _too_large(size: str) -> str:
    return f"{size}, at most {MAX_FRAME_PIXELS:,} are read (UNIDUAL_MAX_FRAME_PIXELS allows more)"


class Display(NamedTuple):
    """How a stored frame is displayed: x' = a*x + c*y, y' = b*x + d*y, all of them -1, 0 or 1 times a scale."""

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Display:
        """From the display matrix that the container, the stream or EXIF gives the frame."""
        matrix = _display_matrix(frame)
        return cls() if matrix is None else cls(*np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist())

    @property
    def transposes(self) -> bool:
        """Whether rows become columns, by the same terms that make the angle of a distorted matrix in FFmpeg."""
        return abs(self.b) * math.hypot(self.a, self.c) > abs(self.a) * math.hypot(self.b, self.d)

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


def _display_matrix(frame: av.VideoFrame) -> bytes | None:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV stops at side data of a kind that it cannot name: FFmpeg's are more with every version
        entries: Any = SideDataContainer.__new__(SideDataContainer)
        with suppress(ValueError):
            entries.__init__(frame)  # those before it; the matrix is among the first
        named = (entries[i] for i in range(len(entries) - 1))
        matrix = next((entry for entry in named if entry.type.name == "DISPLAYMATRIX"), None)
    return None if matrix is None else bytes(matrix)


class Pictures:
    """Frames asked for by number -> `array`, displayed (T, H, W, 3) uint8 RGB, in the order asked.

    All have the size of the first that comes and are turned as that one; they share one swscale context.
    """

    def __init__(self, path: str, numbers: Sequence[int], size: Size | None) -> None:
        self._path = path
        self._count = len(numbers)
        self._rows: dict[int, list[int]] = {}  # number of a frame that has not come -> its places in the array
        for row, number in enumerate(numbers):
            self._rows.setdefault(number, []).append(row)
        self._size = size
        self._reformatter = VideoReformatter()
        self._stored: tuple[int, int] | None = None

    @property
    def missing(self) -> list[int]:
        """The numbers of frames that have not come, ascending."""
        return sorted(self._rows)

    def add(self, number: int, frame: av.VideoFrame) -> None:
        """The frame of a missing number has come."""
        picture = self.picture(frame)
        for row in self._rows.pop(number):
            self.array[row] = picture

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame -> (H, W, 3) uint8, scaled and turned."""
        height, width = self._stored or self._lay_out(frame)
        # Bilinear, and an area average when it makes smaller.
        stored = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        return self._display.turn(stored.to_ndarray())

    def _lay_out(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Make the array for frames like this one -> (height, width) to scale to before they are turned."""
        self._display = Display.of(frame)
        self.shown = self._display.size(frame.height, frame.width)  # (height, width) before they are scaled
        height, width = self._size(*self.shown) if self._size else self.shown
        if height * width > MAX_FRAME_PIXELS:
            raise MediaError(
                self._path, _too_large(f"its frames, scaled to {width}x{height}, have {height * width:,} pixels")
            )
        if (needed := self._count * height * width * 3) > MAX_READ_BYTES:
            what = f"{counted(self._count, 'frame')} of {width}x{height} would take {needed:,} bytes"
            raise MediaError(
                self._path, f"{what}, at most {MAX_READ_BYTES:,} are read at once (UNIDUAL_MAX_READ_BYTES)"
            )
        self.array = np.empty((self._count, height, width, 3), np.uint8)
        self._stored = self._display.size(height, width)
        return self._stored
