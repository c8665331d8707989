"""NAL units on hand-made bytes: where they begin, which are sequence parameter sets, and what is a field."""

import pytest
from media import FIELD_SEQUENCE, BitWriter, field_slice

from unidual_zoo.data.nal import field_flag, header_sequences, nal_unit, nal_units, parity

H264_HEADER = bytes([1, 77, 0, 30, 0xFF, 0xE1]) + b"\0\x0b" + b"\x67sequence.." + b"\1" + b"\0\x0b" + b"\x68parameters"
HEVC_HEADER = (
    bytes([1, *[0] * 20, 3, 2])  # NAL units after 4 bytes; two arrays
    + (b"\x20\0\1" + b"\0\4" + b"\x40\1vp")
    + (b"\x21\0\2" + b"\0\4" + b"\x42\1sp" + b"\0\5" + b"\x42\x09sp2")  # the second is of another layer
)


def sequence(profile=77, *, chroma=None, scaling=(), number_bits=4, order=(2,), frames_only=0):
    """An H.264 sequence parameter set (7.3.2.1.1) up to `frame_mbs_only_flag` and a little more."""
    bits = BitWriter().bits(8, profile).bits(16, 30).golomb(0)
    if chroma is not None:
        bits = bits.golomb(chroma)
        bits = bits.bits(1, 1) if chroma == 3 else bits
        bits = bits.golomb(0, 0).bits(1, 0).bits(1, int(bool(scaling)))
        for codes in scaling:
            bits = bits.bits(1, int(bool(codes))).golomb(*codes)
    bits = bits.golomb(number_bits - 4, order[0])
    if order[0] == 0:
        bits = bits.golomb(*order[1:])
    elif order[0] == 1:
        bits = bits.bits(1, 0).golomb(*order[1:])
    return b"\x67" + bits.golomb(1).bits(1, 0).golomb(0, 0).bits(1, frames_only).bits(3, 0b101).end()


def test_units_by_length_and_by_start_code():
    units = [b"\x67ab", b"\x68c", b"\x65" + bytes(5) + b"d"]
    lengths = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    assert [lengths[at] for at in nal_units(lengths, 4)] == [0x67, 0x68, 0x65]
    codes = b"\0" + b"".join(b"\0\0\1" + unit for unit in units)
    assert [codes[at] for at in nal_units(codes, 0)] == [0x67, 0x68, 0x65]
    assert list(nal_units(b"", 4)) == list(nal_units(b"abc", 0)) == []
    assert [nal_unit(lengths, at, 4) for at in nal_units(lengths, 4)] == units
    assert [nal_unit(codes, at, 0) for at in nal_units(codes, 0)] == units


@pytest.mark.parametrize(
    ("header", "codec", "found"),
    [
        (H264_HEADER, "h264", {b"\x67sequence.."}),
        (b"\0\0\0\1\x67abc\0\0\0\1\x68de", "h264", {b"\x67abc"}),
        (HEVC_HEADER, "hevc", {b"\x42\1sp"}),
        (b"\0\0\1\x40\1vp\0\0\1\x42\1sp", "hevc", {b"\x42\1sp"}),
        (H264_HEADER[:10], "h264", set()),  # too short to be one
        (HEVC_HEADER[:33], "hevc", set()),  # it ends after the first array
        (HEVC_HEADER[:30] + b"\xff\xff\xff", "hevc", set()),  # 65,535 units that are not there
        (b"", "h264", set()),
    ],
)
def test_sequences_in_a_stream_header(header, codec, found):
    assert header_sequences(header, codec) == found


FLAT, FALLS = (0,) * 16, (2, 14)  # a list that stays at 8; one that goes to 8 - 1, and by 7 - 7 ends


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({}, 4),
        ({"number_bits": 9}, 9),
        ({"frames_only": 1}, None),
        ({"order": (0, 3)}, 4),
        ({"order": (1, 0, 0, 2, 5, 6), "number_bits": 5}, 5),
        ({"profile": 100, "chroma": 1}, 4),
        ({"profile": 100, "chroma": 1, "frames_only": 1}, None),
        ({"profile": 100, "chroma": 1, "scaling": [FLAT, (), FALLS, (), (), (), (), ()]}, 4),
        ({"profile": 244, "chroma": 3, "number_bits": 6}, 6 + 2),  # planes apart: two more bits before the flag
        ({"profile": 244, "chroma": 3, "scaling": [FLAT] + [()] * 11}, 4 + 2),
    ],
)
def test_where_a_slice_says_that_it_is_of_a_field(changes, flag):
    assert field_flag(sequence(**changes)) == flag


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_a_sequence_that_is_cut_short(length):
    with pytest.raises(ValueError, match="bits are needed"):
        field_flag(sequence()[:length])
    with pytest.raises(ValueError, match=r"bits are needed|more than 32 zeros"):
        field_flag(b"\x67\x4d\0\x1e" + bytes(9))


def test_parity():
    assert field_flag(FIELD_SEQUENCE) == 4
    assert [parity(field_slice(i, brightness=40)[1:], 4) for i in range(4)] == [0, 1, 0, 1]
    of_a_frame = BitWriter().golomb(0, 7, 0).bits(4, 9).bits(1, 0).end()
    assert parity(of_a_frame, 4) is None
    far = BitWriter().golomb(70_000, 7, 200).bits(4, 0).bits(2, 0b11).end()  # zeros that need emulation prevention
    assert parity(far, 4) == 1
