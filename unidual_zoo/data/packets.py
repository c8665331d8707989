"""What the packets of a video stream tell without decoding: its frames in display order, and where decoding may start.

A decoder that starts in the middle of a file, or that leaves frames out, gives the pixels of a full decode only under
conditions that depend on the codec. `frame_index` checks them and returns None where one fails: then the only exact way
is to decode from the first packet. In doubt it returns None.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import av

H264_SLICES, H264_IDR, H264_PARAMETERS = (1, 5), 5, (7, 8)
HEVC_LAST_SLICE, HEVC_PARAMETERS = 31, (32, 33, 34)
HEVC_BROKEN_LINKS, HEVC_RANDOM_ACCESS = (16, 17, 18), (19, 20, 21)  # BLA; IDR and CRA
VP9_SUPERFRAME = 0b110

SKIPPING = ("h264", "hevc")  # codecs that mark frames which no other frame needs
GAP = 1.5  # in usual steps between frames


class PacketNote(NamedTuple):
    """What matters of one packet."""

    pts: int | None
    shown: bool = True  # False: its frame is outside the container's edit list, and decoders drop it
    restart: bool = False  # a decoder may start here: what is displayed from here on needs nothing before it
    parameters: bool = False  # it carries parameter sets (H.264, HEVC)
    layer: int = 0  # temporal sub-layer (HEVC)
    sound: bool = True  # False: damaged, or without a frame of its own


@dataclass(frozen=True)
class FrameIndex:
    """The frames in display order with their time stamps and packets, and the packets at which decoding may start."""

    pts: Sequence[int]
    packets: Sequence[int]
    restarts: Sequence[int]
    restart_pts: Sequence[int]
    skippable: Sequence[bool]  # of each packet: may the decoder leave it out if it calls it non-reference?

    def runs(self, frames: Sequence[int]) -> list[tuple[int, int]]:
        """The ranges (start, stop) of packets that must be decoded for these ascending frame numbers, in order."""
        runs: list[tuple[int, int]] = []
        for frame in frames:
            start = self.restarts[bisect_right(self.restart_pts, self.pts[frame]) - 1]
            stop = self.packets[frame] + 1
            if runs and start <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(runs[-1][1], stop))
            else:
                runs.append((start, stop))
        return runs


def frame_index(notes: Sequence[PacketNote], *, codec: str, reorders: bool = False) -> FrameIndex | None:
    """The index of packets in decoding order, or None if only decoding from the first packet is sure to be exact.

    `reorders`: the decoder says that it puts frames in another order, so that time stamps that ascend in decoding order
    are not those of display.
    """
    pts = [note.pts for note in notes if note.pts is not None and note.sound]
    if not pts or len(set(pts)) < len(notes):
        return None
    order = sorted((stamp, position) for position, stamp in enumerate(pts) if notes[position].shown)
    if not order or not notes[0].restart or pts[0] != min(pts):
        return None  # packets before the first restart, or displayed before it, may give no frame
    if any(order[0][0] < stamp < order[-1][0] for stamp, note in zip(pts, notes, strict=True) if not note.shown):
        return None
    if reorders and len(pts) > 1 and pts == sorted(pts):
        return None
    gaps = _has_gaps([stamp for stamp, _ in order])
    if gaps and codec == "hevc":
        return None  # its decoder drops frames whose references are lost
    restarts = _restarts(notes, pts)
    if restarts is None:
        return None
    # What H.264 decoders put in place of a lost reference depends on the frames around it.
    skips = codec in SKIPPING and not gaps
    top = max(note.layer for note in notes)
    return FrameIndex(
        pts=[stamp for stamp, _ in order],
        packets=[position for _, position in order],
        restarts=restarts,
        restart_pts=[pts[position] for position in restarts],
        skippable=[skips and note.layer == top for note in notes],
    )


def _has_gaps(stamps: Sequence[int]) -> bool:
    """Whether some packets may be lost: a step in time is much longer than the usual one."""
    steps = sorted(after - before for before, after in pairwise(stamps))
    return bool(steps) and steps[-1] >= GAP * steps[len(steps) // 2]


def _restarts(notes: Sequence[PacketNote], pts: Sequence[int]) -> list[int] | None:
    """Packets at which decoding may start, or None if at one of them display order contradicts decoding order."""
    latest = list(accumulate(pts, max))
    restarts = []
    header_in_force = True  # no packet so far has replaced the parameter sets of the file's header
    for position, note in enumerate(notes):
        if note.restart:
            if position and latest[position - 1] >= pts[position]:
                return None
            if position == 0 or header_in_force or note.parameters:
                restarts.append(position)
        header_in_force = header_in_force and not note.parameters
    return restarts


class NoteTaker:
    """Reads the notes of one stream's packets. Those of a codec that is always decoded from the start are not sound."""

    def __init__(self, stream: av.VideoStream) -> None:
        codec = stream.codec_context
        name = codec.codec.canonical_name
        self.codec = name
        self.reorders = name in SKIPPING and codec.has_b_frames
        self._length_size = _nal_length_size(codec.extradata or b"", name) if name in SKIPPING else 0
        readers: dict[str, Callable[[av.Packet], PacketNote]]
        readers = {"h264": self._h264, "hevc": self._hevc, "vp9": _vp9_note, "av1": _key_note}
        self._read = readers.get(name, _key_note if codec.codec.intra_only else None)
        # After a seek 4:4:4 H.264 is garbage: its decoder needs a message that only the first packet carries.
        if name == "h264" and any(kind in (codec.pix_fmt or "444") for kind in ("444", "gbr")):
            self._read = None

    def __call__(self, packet: av.Packet) -> PacketNote:
        if self._read is None or packet.is_corrupt or packet.has_sidedata("new_extradata"):
            return PacketNote(packet.pts, sound=False)
        return self._read(packet)

    def _h264(self, packet: av.Packet) -> PacketNote:
        data = bytes(packet)
        parameters = False
        for start in _nal_units(data, self._length_size):
            kind = data[start] & 0x1F
            if kind in H264_SLICES:
                return PacketNote(packet.pts, not packet.is_discard, kind == H264_IDR, parameters)
            parameters = parameters or kind in H264_PARAMETERS
        return PacketNote(packet.pts, sound=False)

    def _hevc(self, packet: av.Packet) -> PacketNote:
        data = bytes(packet)
        parameters = False
        for start in _nal_units(data, self._length_size):
            kind = (data[start] >> 1) & 0x3F
            if kind <= HEVC_LAST_SLICE:
                layer = (data[start + 1] & 0x7) - 1
                sound = kind not in HEVC_BROKEN_LINKS
                restart = kind in HEVC_RANDOM_ACCESS
                return PacketNote(packet.pts, not packet.is_discard, restart, parameters, layer, sound)
            parameters = parameters or kind in HEVC_PARAMETERS
        return PacketNote(packet.pts, sound=False)


def _key_note(packet: av.Packet) -> PacketNote:
    return PacketNote(packet.pts, not packet.is_discard, packet.is_keyframe)


def _vp9_note(packet: av.Packet) -> PacketNote:
    """Its first bits: marker 2, profile 2, (reserved 1 in profile 3,) show_existing_frame, frame_type, show_frame."""
    data = memoryview(packet)
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]
    existing, inter, shown = bits & 0x08, bits & 0x04, bits & 0x02
    superframe = data[-1] >> 5 == VP9_SUPERFRAME
    sound = bool(superframe or existing or shown)
    return PacketNote(packet.pts, not packet.is_discard, not existing and not inter, sound=sound)


def _nal_length_size(extradata: bytes, codec: str) -> int:
    """Bytes of the length before each NAL unit in packets of MP4 and Matroska; 0: start codes (ITU-T H.264 annex B)."""
    if len(extradata) < 23 or extradata[0] != 1:
        return 0
    return (extradata[4 if codec == "h264" else 21] & 3) + 1


def _nal_units(data: bytes, length_size: int) -> Iterator[int]:
    """Positions of the headers of the NAL units in a packet."""
    if length_size:
        start = length_size
        while start + 1 < len(data):
            yield start
            start += int.from_bytes(data[start - length_size : start], "big") + length_size
    else:
        start = data.find(b"\0\0\1") + 3
        while 3 <= start < len(data) - 1:
            yield start
            start = data.find(b"\0\0\1", start) + 3
