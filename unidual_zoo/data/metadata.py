"""What in an image file are not pixels, and the file without it.

Pillow reads a file from its start, and a profile, a comment or a date that it cannot read stands between it and the
pixels. Pure functions of bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

PNG, JPEG, AVIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"ftyp"
TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

PNG_TEXTS = (b"iTXtXML:com.adobe.xmp\0", b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0")
JPEG_ORIENTATIONS = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")
JPEG_COLOURS = {
    0xE0: (b"JFIF", 14),
    0xEE: (b"Adobe", 12),
}  # marker -> how it begins, bytes below which libjpeg skips it
JPEG_COMMENT, JPEG_SCAN = 0xFE, 0xDA
TIFF_ENTRY = 12  # bytes
TIFF_PIXELS = frozenset(  # the tags without which pixels are not what they are (TIFF 6.0, and libtiff's own)
    (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334, 338, 339)
    + (340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532)
)
TIFF_ORIENTATION = 274
LARGEST_TEXT = 2**20  # bytes unpacked, as Pillow allows


def leaner(data: bytes) -> Iterator[bytes]:
    """The bytes of an image file -> the same pixels with less metadata: first without what says nothing about its
    orientation, then without any. A version that equals the one before is left out; of an unknown format there is none.
    """
    if strip := _stripper(data):
        latest = data
        for keep_orientation in (True, False):
            version = strip(data, keep_orientation)
            if version != latest:
                yield version
            latest = version


def _stripper(data: bytes) -> Callable[[bytes, bool], bytes] | None:
    if data.startswith(PNG):
        return _png
    if data.startswith(JPEG):
        return _jpeg
    if data[:4] in TIFF_ORDERS:
        return _tiff
    return _avif if data[4:8] == AVIF else None


def _png(data: bytes, keep_orientation: bool) -> bytes:
    """Critical chunks, which have a capital first letter, and of the others those that may tell the orientation."""
    kept, place = [PNG], len(PNG)
    while place < len(data):
        stop = place + 12 + int.from_bytes(data[place : place + 4], "big")  # length, kind, the data, checksum
        chunk = data[place:stop]
        if not chunk[4:5].islower() or (keep_orientation and _png_tells_orientation(chunk)):
            kept.append(chunk)
        place = stop
    return b"".join(kept)


def _png_tells_orientation(chunk: bytes) -> bool:
    named = chunk[4:-4]  # kind and data
    if zlib.crc32(named).to_bytes(4, "big") != chunk[-4:]:
        return False
    if named.startswith(PNG_TEXTS):
        return not named.startswith(b"zTXt") or _is_small(named.partition(b"\0")[2][1:])
    return named.startswith(b"eXIf")


def _is_small(packed: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, LARGEST_TEXT)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def _jpeg(data: bytes, keep_orientation: bool) -> bytes:
    """Everything but comments and application segments, of which those stay that libjpeg takes for colours."""
    kept, place = [data[:2]], 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker, stop = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker == JPEG_SCAN:
            break
        content = data[place + 4 : stop]
        begins, least = JPEG_COLOURS.get(marker, (b"", 0))
        if begins:
            keep = content.startswith(begins) and len(content) >= least
        elif 0xE0 <= marker <= 0xEF or marker == JPEG_COMMENT:
            keep = keep_orientation and content.startswith(JPEG_ORIENTATIONS)
        else:
            keep = True
        if keep:
            kept.append(data[place:stop])
        place = stop
    return b"".join((*kept, data[place:]))


def _tiff(data: bytes, keep_orientation: bool) -> bytes:
    """The first image's directory with fewer entries; all else stays where it is, because offsets point to it."""
    order = TIFF_ORDERS[data[:4]]
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
    except struct.error:
        return data
    places = range(start + 2, min(start + 2 + count * TIFF_ENTRY, len(data) - TIFF_ENTRY + 1), TIFF_ENTRY)
    entries = [data[place : place + TIFF_ENTRY] for place in places]
    wanted = TIFF_PIXELS | ({TIFF_ORIENTATION} if keep_orientation else set())
    entries = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in wanted]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)  # no further image
    return data[:start] + directory + data[start + len(directory) :]


def _avif(data: bytes, keep_orientation: bool) -> bytes:
    """The item that holds EXIF gets a kind that nobody knows. An AVIF is turned by a property, which stays."""
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"meta":
            box = data[place : place + size].replace(b"Exif", b"none")
            return data[:place] + box + data[place + size :]
        if size < 8:
            break
        place += size
    return data
