"""The index of packets on hand-made notes: when it is given, and which packets a frame needs."""

from fractions import Fraction
from types import SimpleNamespace
from typing import get_args

import av
import pytest
from av.packet import PacketSideData, PktSideDataT
from media import FIELD_PARAMETERS, FIELD_SEQUENCE, BitWriter, field_slice

from unidual_zoo.data.packets import NoteTaker, PacketNote, frame_index, promised_frames, steps_in_time


def notes(stamps, *, restarts=(0,), **changes):
    """Notes of packets with these time stamps; `changes`: the positions where a field is not its default."""
    made = [PacketNote(pts, restart=i in restarts) for i, pts in enumerate(stamps)]
    for field, positions in changes.items():
        for i in positions:
            default = PacketNote._field_defaults[field]
            made[i] = made[i]._replace(**{field: 1 if field == "layer" else not default})
    return made


# Two groups in decoding order, I P b b each, displayed as I b b P.
GROUPS = [0, 3, 1, 2, 4, 7, 5, 6]


def test_frames_are_packets_in_display_order():
    index = frame_index(notes(GROUPS, restarts=(0, 4)), codec="h264", reorders=True)
    assert index is not None
    assert index.pts == [0, 1, 2, 3, 4, 5, 6, 7]
    assert index.packets == [0, 2, 3, 1, 4, 6, 7, 5]
    assert (index.restarts, index.restart_pts) == ([0, 4], [0, 4])
    assert index.skippable == [True] * 8


@pytest.mark.parametrize(
    ("frames", "runs"),
    [
        ([0], [(0, 1)]),
        ([3], [(0, 2)]),
        ([2, 3], [(0, 4)]),
        ([4], [(4, 5)]),
        ([0, 6], [(0, 1), (4, 8)]),
        ([2, 4], [(0, 5)]),  # the first run ends where the second begins: one
        ([7], [(4, 6)]),
    ],
)
def test_runs(frames, runs):
    index = frame_index(notes(GROUPS, restarts=(0, 4)), codec="h264")
    assert index is not None
    assert index.runs(frames) == runs


def test_a_picture_before_its_key_frame_in_display_order_needs_the_group_before():
    """An open group: 4 refers to 3, and is sent after the key frame 6."""
    index = frame_index(notes([0, 3, 1, 2, 6, 4, 5, 7], restarts=(0, 4)), codec="hevc", reorders=True)
    assert index is not None
    assert index.runs([4]) == [(0, 6)]
    assert index.runs([6]) == [(4, 5)]
    assert index.runs([1, 7]) == [(0, 3), (4, 8)]


@pytest.mark.parametrize(
    "unsure",
    [
        [],
        notes([0, None, 2]),
        notes([0, 1, 1]),
        notes([0, 1, 2], sound=[1]),
        notes([0, 1, 2], restarts=()),  # the first packet needs what came before it
        notes([1, 0, 2, 3]),  # a picture displayed before the first key frame
        notes([0, 1, 2, 3], shown=[2]),  # an edit list with a hole
        notes([0, 1, 2], shown=[0, 1, 2]),
        notes([0, 1, 9, 5, 6], restarts=(0, 3)),  # time jumps back at a key frame
    ],
)
def test_in_doubt_there_is_no_index(unsure):
    assert frame_index(unsure, codec="h264") is None


def test_ascending_stamps_of_a_decoder_that_reorders_are_those_of_decoding():
    assert frame_index(notes([0, 1, 2]), codec="h264", reorders=True) is None
    assert frame_index(notes([0]), codec="h264", reorders=True) is not None
    assert frame_index(notes([0, 2, 1]), codec="h264", reorders=True) is not None


def test_frames_outside_the_edit_list_are_no_frames():
    index = frame_index(notes(range(-2, 6), shown=[0, 1, 7]), codec="h264")
    assert index is not None
    assert index.pts == [0, 1, 2, 3, 4]
    assert index.runs([0]) == [(0, 3)]


def test_gaps_in_time_may_be_lost_packets():
    gap = notes([0, 10, 20, 40, 50])
    assert frame_index(gap, codec="hevc") is None
    index = frame_index(gap, codec="h264")
    assert index is not None
    assert not any(index.skippable)
    uneven = frame_index(notes([0, 33, 67, 100, 134]), codec="hevc")  # milliseconds
    assert uneven is not None
    assert all(uneven.skippable)


def test_only_the_highest_layer_and_only_of_codecs_with_marked_frames_is_skippable():
    layered = frame_index(notes(range(4), layer=[1, 3]), codec="hevc")
    assert layered is not None
    assert layered.skippable == [False, True, False, True]
    plain = frame_index(notes(range(4)), codec="vp9")
    assert plain is not None
    assert plain.skippable == [False] * 4


@pytest.mark.parametrize(
    ("parameters", "restarts"),
    [
        ([], [0, 2, 4, 6]),
        ([0, 2, 4, 6], [0, 2, 4, 6]),
        ([0], [0]),  # the file's header may be out of date from there on
        ([3], [0, 2]),
        ([3, 6], [0, 2, 6]),
    ],
)
def test_decoding_starts_only_where_the_parameter_sets_are_known(parameters, restarts):
    index = frame_index(notes(range(8), restarts=(0, 2, 4, 6), parameters=parameters), codec="h264")
    assert index is not None
    assert index.restarts == restarts


def test_what_packets_promise():
    assert promised_frames(notes([0, 3, 1, 2])) == 4
    assert promised_frames(notes([0, 3, 1, 2], shown=[1], sound=[2])) == 3
    fields = [PacketNote(i, fields=1) for i in range(5)]
    assert promised_frames(fields) == 3  # the last is of a frame whose other field is not there
    assert promised_frames([*notes([0, 1]), PacketNote(2, fields=0)]) == 2


@pytest.mark.parametrize(
    ("stamps", "steps", "jumps"),
    [
        ([0, 40, 80, 120], [40, 40, 40], []),
        ([0, 40, 80, 99_080, 99_120], [40, 40, 40], [99_000]),
        ([0, 40, 80, 480, 520], [40, 40, 400, 40], []),  # a pause of less than a second
        ([0, 40, 80, 1480, 1520], [40, 40, 40], [1400]),
        ([0, 40, 80, 0, 40, 80], [40, 40, -80, 40, 40], []),  # by 2 frames, as where stamps are those of decoding
        ([0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 400, 440, 0, 40], [40] * 12, [-440]),
        ([0, 3000, 6000, 9000], [3000, 3000, 3000], []),  # one frame every three seconds
        ([5], [], []),
    ],
)
def test_steps_and_jumps_in_milliseconds(stamps, steps, jumps):
    assert steps_in_time(stamps, Fraction(1, 1000)) == (steps, jumps)


def taker(codec, extradata=b"", *, intra_only=False, pix_fmt="yuv420p"):
    names = SimpleNamespace(canonical_name=codec, intra_only=intra_only)
    context = SimpleNamespace(codec=names, extradata=extradata, has_b_frames=False, pix_fmt=pix_fmt)
    return NoteTaker(SimpleNamespace(codec_context=context))  # pyright: ignore[reportArgumentType]


def packet(*units, start_code=b"\0\0\1", pts=0):
    made = av.Packet(b"".join(start_code + unit for unit in units))
    made.pts, made.is_keyframe = pts, True
    return made


TOP, BOTTOM = (field_slice(i, brightness=50) for i in range(2))
OF_A_FRAME = b"\x65" + BitWriter().golomb(0, 7, 0).bits(4, 0).bits(1, 0).end(bytes(range(9, 40)))
DELIMITER, MESSAGE = b"\x09\xf0", b"\x06\x05\x01\x80"


@pytest.mark.parametrize(
    ("units", "fields", "sound"),
    [
        ([FIELD_SEQUENCE, FIELD_PARAMETERS, TOP], 1, False),
        ([FIELD_SEQUENCE, FIELD_PARAMETERS, TOP, TOP], 1, False),  # two slices of it
        ([FIELD_SEQUENCE, FIELD_PARAMETERS, TOP, MESSAGE, BOTTOM], 2, True),
        ([FIELD_SEQUENCE, FIELD_PARAMETERS, OF_A_FRAME], 2, True),
        ([DELIMITER, MESSAGE], 0, False),
        ([DELIMITER, b"\x78strange"], 2, False),
        ([b""], 2, False),
    ],
)
def test_fields_of_h264(units, fields, sound):
    note = taker("h264")(packet(*units))
    assert (note.fields, note.sound) == (fields, sound)


def test_other_parameter_sets_between_pictures_are_no_sound_going_on():
    """A decoder drops what it has not given when they come; the same ones again, or first ones, change nothing."""
    other = b"\x67" + FIELD_SEQUENCE[1:3] + b"\x28" + FIELD_SEQUENCE[4:]  # of level 4
    header = b"\0\0\0\1" + FIELD_SEQUENCE
    for sequences, sound in [
        ([b"", b"", b""], [True, True, True]),
        ([FIELD_SEQUENCE, b"", FIELD_SEQUENCE], [True, True, True]),
        ([other, b"", other], [True, True, True]),
        ([b"", other, b""], [True, False, False]),
        ([other, b"", FIELD_SEQUENCE], [True, True, False]),
    ]:
        take_note = taker("h264", header)
        assert [take_note(packet(DELIMITER, unit or MESSAGE, OF_A_FRAME)).sound for unit in sequences] == sound
    hevc = taker("hevc")
    slices = [packet(b"\x42\1" + parameters, b"\x26\1\xaf" + bytes(range(40))) for parameters in (b"a", b"a", b"b")]
    assert [hevc(each).sound for each in slices] == [True, True, False]


@pytest.mark.parametrize(
    ("codec", "data", "fields", "sound"),
    [
        ("vp8", b"\x10rest", 2, False),
        ("vp8", b"\x01rest", 0, False),  # for reference only
        ("vp9", b"\x82rest", 2, True),
        ("vp9", b"\x80rest", 0, False),  # not to be shown
        ("vp9", b"\x02rest", 2, False),  # without its marker
        ("vp9", b"\x82" + bytes(40), 2, False),  # written over
        ("mpeg4", b"\0\0\1\xb6a long one", 2, False),
        ("mpeg4", b"\0\0\1\xb6abc", 0, False),  # no new picture
        ("mpeg4", bytes(30), 2, False),
        ("mjpeg", b"\xff\xd8rest", 2, True),
        ("mjpeg", b"rest", 2, False),
        ("theora", b"\x80rest", 2, False),
    ],
)
def test_notes_of_other_codecs(codec, data, fields, sound):
    note = taker(codec, intra_only=codec == "mjpeg")(packet(data, start_code=b""))
    assert (note.fields, note.sound) == (fields, sound)


@pytest.mark.parametrize(
    ("kind", "sound"),
    [("palette", False), ("new_extradata", False), ("param_change", False), ("mpegts_stream_id", True), (None, False)],
)
def test_what_comes_with_a_packet_and_changes_the_decoder(kind, sound):
    kinds = get_args(PktSideDataT)
    beside = av.Packet(b"\xff\xd8rest")
    beside.set_sidedata(PacketSideData(kinds.index(kind) if kind else len(kinds) + 9, 4))  # one that has no name
    assert taker("mjpeg", intra_only=True)(beside).sound is sound
