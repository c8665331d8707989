"""The index of packets on hand-made notes: when it is given, and which packets a frame needs."""

import pytest

from unidual_zoo.data.packets import PacketNote, _nal_units, frame_index


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


def test_nal_units_by_length_and_by_start_code():
    units = [b"\x67ab", b"\x68c", b"\x65" + bytes(5) + b"d"]
    lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert [lengths[at] for at in _nal_units(lengths, 4)] == [0x67, 0x68, 0x65]
    codes = b"\0" + b"".join(b"\0\0\1" + unit for unit in units)
    assert [codes[at] for at in _nal_units(codes, 0)] == [0x67, 0x68, 0x65]
    assert list(_nal_units(b"", 4)) == list(_nal_units(b"abc", 0)) == []
