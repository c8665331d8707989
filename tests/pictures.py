"""Tiny image files for tests, to the byte where a writer would not write them so."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RGB = Image.fromarray(PIXELS)
SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6  # to be turned by 90 degrees clockwise
EXIF = SIDEWAYS.tobytes()


def save(path: Path, image: Image.Image, **settings) -> Path:
    image.save(path, **settings)
    return path


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tiff(*entries: tuple[int, int, int, int], pixels: bytes = PIXELS.tobytes()) -> bytes:
    """A TIFF of PIXELS with further entries (tag, type, count, value)."""
    short, long = 3, 4
    entries = (
        (256, short, 1, 9), (257, short, 1, 6), (258, short, 1, 8), (259, short, 1, 1), (262, short, 1, 2),
        (277, short, 1, 3), *entries,
    )  # fmt: skip
    if not any(tag == 324 for tag, *_ in entries):
        entries += ((273, long, 1, 8), (278, short, 1, 6), (279, long, 1, len(pixels)))
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    start = struct.pack("<4sI", b"II*\0", 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(entries)) + directory + bytes(4)


def png_with(*chunks: bytes, after: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    return png(9, 6, rows, before=b"".join(chunks), after=after)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """An RGB PNG file of rows of pixels, each begun by its filter, with chunks before and after them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + png_chunk(b"IEND", b"")
