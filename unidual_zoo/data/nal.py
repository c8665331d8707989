"""NAL units, of which packets of H.264 (ITU-T H.264) and HEVC (ITU-T H.265) are made.

Only as much is read of them as tells where decoding may start, frames from fields, and one sequence from the next.
"""

from __future__ import annotations

from collections.abc import Iterator

H264_SLICES, H264_IDR, H264_SEQUENCE, H264_PARAMETERS = (1, 5), 5, 7, frozenset((7, 8))
H264_WITHOUT_SLICE = frozenset(range(6, 16))  # messages, parameter sets, delimiters
H264_CHROMA_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # they state a chroma format
CHROMA_444 = 3
HEVC_LAST_SLICE, HEVC_SEQUENCE, HEVC_PARAMETERS = 31, 33, frozenset((32, 33, 34))
HEVC_WITHOUT_SLICE = frozenset(range(32, 48))
HEVC_BROKEN_LINKS, HEVC_RANDOM_ACCESS = (16, 17, 18), (19, 20, 21)  # BLA; IDR and CRA

SLICE_START = 32  # bytes of a slice that are sure to hold the flags of fields
LONGEST_CODE = 32  # bits of an Exp-Golomb code's zeros


def nal_length_size(header: bytes, codec: str) -> int:
    """Bytes of the length before each NAL unit in packets of MP4 and Matroska; 0: start codes (H.264 annex B)."""
    if len(header) < 23 or header[0] != 1:
        return 0
    return (header[4 if codec == "h264" else 21] & 3) + 1


def nal_units(data: bytes, length_size: int) -> Iterator[int]:
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


def nal_unit(data: bytes, start: int, length_size: int) -> bytes:
    """The NAL unit whose header is at `start`, without zeros at its end."""
    if length_size:
        stop = start + int.from_bytes(data[start - length_size : start], "big")
    else:
        stop = data.find(b"\0\0\1", start) % (len(data) + 1)  # -1: its end
    return data[start:stop].rstrip(b"\0")


def header_sequences(header: bytes, codec: str) -> set[bytes]:
    """The sequence parameter sets in a stream's header: avcC or hvcC (ISO/IEC 14496-15), or by start codes."""
    if nal_length_size(header, codec) == 0:
        units = [nal_unit(header, start, 0) for start in nal_units(header, 0)]
    elif codec == "h264":
        units, _ = _sized_units(header, 6, header[5] & 0x1F)
    else:
        units, at = [], 23
        for _ in range(header[22]):
            array, at = _sized_units(header, at + 3, int.from_bytes(header[at + 1 : at + 3], "big"))
            units += array
    return {unit for unit in units if is_sequence(unit, codec)}


def _sized_units(header: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """That many NAL units, each after its length in two bytes; where they end."""
    units = []
    for _ in range(count):
        size = int.from_bytes(header[at : at + 2], "big")
        if at + 2 >= len(header):
            break
        units.append(header[at + 2 : at + 2 + size].rstrip(b"\0"))
        at += 2 + size
    return units, at


def is_sequence(unit: bytes, codec: str) -> bool:
    """Whether it is a sequence parameter set; in HEVC that of the base layer."""
    if codec == "h264":
        return unit[:1] != b"" and unit[0] & 0x1F == H264_SEQUENCE
    in_base_layer = len(unit) > 1 and unit[0] & 1 == 0 and unit[1] >> 3 == 0
    return in_base_layer and unit[0] >> 1 == HEVC_SEQUENCE


def field_flag(sequence: bytes) -> int | None:
    """Where a slice of an H.264 sequence says whether it is of a field; None if all its pictures are frames.

    It is the number of bits between `pic_parameter_set_id` and `field_pic_flag` (H.264, 7.3.2.1.1 and 7.3.3). A
    parameter set that is cut short is a ValueError.
    """
    bits = _Bits(sequence[1:])
    profile = bits.take(8)
    bits.take(16)  # constraints and level
    bits.golomb()  # its number
    separate_planes = False
    if profile in H264_CHROMA_PROFILES:
        chroma = bits.golomb()
        separate_planes = chroma == CHROMA_444 and bool(bits.take(1))
        bits.skip_golombs(2)  # bit depths
        bits.take(1)  # lossless
        if bits.take(1):
            for i in range(12 if chroma == CHROMA_444 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    number_bits = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.skip_golombs(2)
        bits.skip_golombs(bits.golomb())
    bits.golomb()  # references
    bits.take(1)  # gaps
    bits.skip_golombs(2)  # width and height
    return None if bits.take(1) else number_bits + 2 * separate_planes


def parity(slice_start: bytes, flag: int) -> int | None:
    """A slice without its NAL header -> 0 of a top field, 1 of a bottom field, None of a frame; see `field_flag`."""
    bits = _Bits(slice_start)
    bits.skip_golombs(3)  # first macroblock, type, parameter set
    bits.take(flag)
    return bits.take(1) if bits.take(1) else None


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    latest = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (latest + (code + 1 >> 1) * (1 if code & 1 else -1)) % 256
        latest = following or latest


class _Bits:
    """A NAL unit bit by bit, without its emulation prevention bytes (H.264, 7.4.1)."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        if count > self._left:
            raise ValueError(f"{count} bits are needed, {self._left} are left")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """The next Exp-Golomb code, unsigned (H.264, 9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros == LONGEST_CODE:
                raise ValueError(f"a code of more than {LONGEST_CODE} zeros")
        return (1 << zeros) - 1 + self.take(zeros)

    def skip_golombs(self, count: int) -> None:
        for _ in range(count):
            self.golomb()
