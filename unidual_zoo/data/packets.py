"""What the packets of a video stream tell without decoding: its frames in display order, and where decoding may start.

A decoder that starts in the middle of a file, or that leaves frames out, gives the pixels of a full decode only under
conditions that depend on the codec. `frame_index` checks them and returns None where one fails: then the only exact way
is to decode from the first packet. In doubt it returns None.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from statistics import median
from typing import NamedTuple

import av
from av.packet import PacketSideData

from unidual_zoo.data.nal import (
    H264_IDR,
    H264_PARAMETERS,
    H264_SEQUENCE,
    H264_SLICES,
    H264_WITHOUT_SLICE,
    HEVC_BROKEN_LINKS,
    HEVC_LAST_SLICE,
    HEVC_PARAMETERS,
    HEVC_RANDOM_ACCESS,
    HEVC_SEQUENCE,
    HEVC_WITHOUT_SLICE,
    SLICE_START,
    field_flag,
    header_sequences,
    is_sequence,
    nal_length_size,
    nal_unit,
    nal_units,
    parity,
)

VP8_SHOWN = 0x10
VP9_MARKER, VP9_SUPERFRAME = 0b10, 0b110
MPEG4_PLACEHOLDER = 8  # bytes at most: such a packet says that there is no new picture
FIELD, FRAME = 1, 2

SKIPPING = ("h264", "hevc")  # codecs that mark frames which no other frame needs
GAP = 1.5  # in usual steps between frames
JUMP, JUMP_SECONDS = 10, 1.0  # in usual steps, and at least: a longer step in time is none between frames
BLANK, BEGINNING = bytes(16), 64  # a packet that has so many zeros at its beginning may have been written over
JPEG_START = b"\xff\xd8"
HARMLESS_SIDE_DATA = frozenset(  # what comes with a packet and changes no pixel of others
    ("mpegts_stream_id", "matroska_block_additional", "a53_cc", "afd", "prft", "s12m_timecode", "dynamic_hdr10_plus")
    + ("mastering_display_metadata", "content_light_level", "stereo_3d", "spherical", "quality_stats", "cpb_properties")
    + ("strings_metadata", "metadata_update")
)


class PacketNote(NamedTuple):
    """What matters of one packet."""

    pts: int | None
    shown: bool = True  # False: its frame is outside the container's edit list, and decoders drop it
    restart: bool = False  # a decoder may start here: what is displayed from here on needs nothing before it
    parameters: bool = False  # it carries parameter sets (H.264, HEVC)
    layer: int = 0  # temporal sub-layer (HEVC)
    sound: bool = True  # False: damaged, or without a frame of its own, or it changes the decoder
    fields: int = FRAME  # what it promises: a frame, one FIELD of a frame, or 0, nothing to see


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
    if not notes:
        return None
    stamps, shown, restart, parameters, layers, sound, _ = zip(*notes, strict=True)
    pts = [stamp for stamp in stamps if stamp is not None]
    if not all(sound) or len(set(pts)) < len(notes):
        return None
    order = sorted((position for position in range(len(pts)) if shown[position]), key=pts.__getitem__)
    if not order or not restart[0] or pts[0] != min(pts):
        return None  # packets before the first restart, or displayed before it, may give no frame
    displayed = [pts[position] for position in order]
    if not all(shown) and any(displayed[0] < pts[i] < displayed[-1] for i in range(len(pts)) if not shown[i]):
        return None
    if reorders and len(pts) > 1 and pts == sorted(pts):
        return None
    gaps = _has_gaps(displayed)
    if gaps and codec == "hevc":
        return None  # its decoder drops frames whose references are lost
    restarts = _restarts(restart, parameters, pts)
    if restarts is None:
        return None
    # What H.264 decoders put in place of a lost reference depends on the frames around it.
    skips = codec in SKIPPING and not gaps
    top = max(layers)
    return FrameIndex(
        pts=displayed,
        packets=order,
        restarts=restarts,
        restart_pts=[pts[position] for position in restarts],
        skippable=[skips and layer == top for layer in layers],
    )


def _has_gaps(stamps: Sequence[int]) -> bool:
    """Whether some packets may be lost: a step in time is much longer than the usual one."""
    steps = sorted(after - before for before, after in pairwise(stamps))
    return bool(steps) and steps[-1] >= GAP * steps[len(steps) // 2]


def _restarts(restart: Sequence[bool], parameters: Sequence[bool], pts: Sequence[int]) -> list[int] | None:
    """Packets at which decoding may start, or None if at one of them display order contradicts decoding order."""
    latest = list(accumulate(pts, max))
    positions = [position for position, may_start in enumerate(restart) if may_start]
    if any(position and latest[position - 1] >= pts[position] for position in positions):
        return None
    replaced = parameters.index(True) if True in parameters else len(parameters)
    # Behind the packet that replaces the parameter sets of the file's header, only those that bring their own.
    return [position for position in positions if position <= replaced or parameters[position]]


def promised_frames(notes: Sequence[PacketNote]) -> int:
    """How many frames a decoder should give."""
    return (sum(note.fields for note in notes if note.shown) + 1) // FRAME


def steps_in_time(stamps: Sequence[int], time_base: Fraction) -> tuple[list[int], list[int]]:
    """The steps between the time stamps of frames as they are displayed: those from frame to frame, and jumps.

    Some containers give the stamps of decoding, which go back by a few frames and are no jumps.
    """
    steps = [after - before for before, after in pairwise(stamps)]
    back = JUMP * median(map(abs, steps or [0]))
    ahead = max(back, float(JUMP_SECONDS / time_base))
    return [step for step in steps if -back <= step <= ahead], [step for step in steps if not -back <= step <= ahead]


class NoteTaker:
    """Reads the notes of one stream's packets. Those of a codec that is always decoded from the start are not sound."""

    def __init__(self, stream: av.VideoStream) -> None:
        codec = stream.codec_context
        name = codec.codec.canonical_name
        self.codec = name
        self.reorders = name in SKIPPING and codec.has_b_frames
        readers: dict[str, Callable[[av.Packet, bytes], PacketNote]] = {
            "h264": self._h264,
            "hevc": self._hevc,
            "vp8": _vp8_note,
            "vp9": _vp9_note,
            "av1": _key_note,
            "mpeg4": _mpeg4_note,
            "mjpeg": _mjpeg_note,
        }
        self._read = readers.get(name, _key_note if codec.codec.intra_only else _unsound_note)
        self._looked_at = len(BLANK) if codec.codec.intra_only else BEGINNING
        # After a seek 4:4:4 H.264 is garbage: its decoder needs a message that only the first packet carries.
        self._in_doubt = name == "h264" and any(kind in (codec.pix_fmt or "444") for kind in ("444", "gbr"))
        self._pictures_began = False
        self._field_flag: int | None = None
        self._sequences: set[bytes] = set()
        if name in SKIPPING:
            header = codec.extradata or b""
            self._length_size = nal_length_size(header, name)
            self._meet(header_sequences(header, name))

    def __call__(self, packet: av.Packet) -> PacketNote:
        beginning = bytes(memoryview(packet)[: self._looked_at])
        try:
            note = self._read(packet, beginning)
        except ValueError:  # it is shorter than its own header
            note = _unsound_note(packet)
        if beginning.count(0) >= len(BLANK) and BLANK in beginning:  # to count is the faster of the two
            return note._replace(sound=False, fields=FRAME)
        if self._in_doubt or packet.is_corrupt or any(map(_changes_decoder, packet.iter_sidedata())):
            return note._replace(sound=False)
        return note

    def _h264(self, packet: av.Packet, beginning: bytes) -> PacketNote:
        if self._field_flag is None and 0 < self._length_size < len(beginning) - 1:
            kind = beginning[self._length_size] & 0x1F
            if kind in H264_SLICES:  # the packet begins with one, as most do: nothing else is to be looked for
                self._pictures_began = True
                return PacketNote(packet.pts, not packet.is_discard, kind == H264_IDR)
        data = bytes(packet)
        units = nal_units(data, self._length_size)
        kinds: list[int] = []
        sequences: set[bytes] = set()
        for start in units:
            kind = data[start] & 0x1F
            if kind in H264_SLICES:
                self._meet(sequences)
                self._pictures_began = True
                fields = FRAME if self._field_flag is None else self._count_fields(data, start, units)
                parameters = not H264_PARAMETERS.isdisjoint(kinds)
                return PacketNote(
                    packet.pts, not packet.is_discard, kind == H264_IDR, parameters, 0, fields == FRAME, fields
                )
            kinds.append(kind)
            if kind == H264_SEQUENCE:
                sequences.add(nal_unit(data, start, self._length_size))
        self._meet(sequences)
        return _unsound_note(packet, fields=0 if kinds and H264_WITHOUT_SLICE.issuperset(kinds) else FRAME)

    def _count_fields(self, data: bytes, first: int, others: Iterable[int]) -> int:
        """How many fields the slices are of, of which the first and other NAL units begin here; of a frame, two."""
        assert self._field_flag is not None
        starts = chain([first], (start for start in others if data[start] & 0x1F in H264_SLICES))
        parities = {parity(data[start + 1 :][:SLICE_START], self._field_flag) for start in starts}
        return FRAME if None in parities else len(parities) * FIELD

    def _hevc(self, packet: av.Packet, _: bytes) -> PacketNote:
        data = bytes(packet)
        kinds: list[int] = []
        sequences: set[bytes] = set()
        for start in nal_units(data, self._length_size):
            kind = (data[start] >> 1) & 0x3F
            if kind <= HEVC_LAST_SLICE:
                self._meet(sequences)
                self._pictures_began = True
                parameters = not HEVC_PARAMETERS.isdisjoint(kinds)
                layer = (data[start + 1] & 0x7) - 1
                sound = kind not in HEVC_BROKEN_LINKS
                return PacketNote(
                    packet.pts, not packet.is_discard, kind in HEVC_RANDOM_ACCESS, parameters, layer, sound
                )
            kinds.append(kind)
            if kind == HEVC_SEQUENCE and is_sequence(unit := nal_unit(data, start, self._length_size), self.codec):
                sequences.add(unit)
        self._meet(sequences)
        return _unsound_note(packet, fields=0 if kinds and HEVC_WITHOUT_SLICE.issuperset(kinds) else FRAME)

    def _meet(self, sequences: set[bytes]) -> None:
        """These sequence parameter sets are in force from here on.

        A decoder that meets new ones between pictures starts anew, and may drop frames that it has not given yet.
        """
        if sequences <= self._sequences:
            return
        self._in_doubt = self._in_doubt or self._pictures_began
        self._sequences = sequences
        if self.codec == "h264":
            try:
                flags = {field_flag(sequence) for sequence in sequences}
            except ValueError:
                flags = {None, 0}
            self._in_doubt = self._in_doubt or len(flags) > 1
            self._field_flag = flags.pop() if len(flags) == 1 else None


def _changes_decoder(side_data: PacketSideData) -> bool:
    """Whether what comes with a packet changes how others are decoded: a palette, a header."""
    try:
        return side_data.data_type not in HARMLESS_SIDE_DATA
    except IndexError:  # of a kind that PyAV cannot name
        return True


def _unsound_note(packet: av.Packet, _: bytes = b"", *, fields: int = FRAME) -> PacketNote:
    return PacketNote(packet.pts, not packet.is_discard, sound=False, fields=fields)


def _key_note(packet: av.Packet, _: bytes) -> PacketNote:
    return PacketNote(packet.pts, not packet.is_discard, packet.is_keyframe)


def _vp8_note(packet: av.Packet, beginning: bytes) -> PacketNote:
    """Its first bits: 3 of size, show_frame, version 3, inter (RFC 6386, 9.1)."""
    return _unsound_note(packet, fields=FRAME if beginning[0] & VP8_SHOWN else 0)


def _vp9_note(packet: av.Packet, _: bytes) -> PacketNote:
    """Its first bits: marker 2, profile 2, (reserved 1 in profile 3,) show_existing_frame, frame_type, show_frame."""
    data = memoryview(packet)
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]
    existing, inter, shown = bits & 0x08, bits & 0x04, bits & 0x02
    superframe = data[-1] >> 5 == VP9_SUPERFRAME
    damaged = data[0] >> 6 != VP9_MARKER
    shows = bool(superframe or existing or shown or damaged)
    return PacketNote(
        packet.pts,
        shown=not packet.is_discard,
        restart=not existing and not inter,
        sound=shows and not damaged,
        fields=FRAME if shows else 0,
    )


def _mjpeg_note(packet: av.Packet, beginning: bytes) -> PacketNote:
    sound = beginning.startswith(JPEG_START)
    return PacketNote(packet.pts, not packet.is_discard, packet.is_keyframe, sound=sound)


def _mpeg4_note(packet: av.Packet, _: bytes) -> PacketNote:
    return _unsound_note(packet, fields=FRAME if packet.size > MPEG4_PLACEHOLDER else 0)
