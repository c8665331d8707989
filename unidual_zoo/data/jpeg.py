"""JPEGs by simplejpeg, which brings libjpeg-turbo without Pillow's detours."""

from __future__ import annotations

import os
from importlib.util import find_spec
from io import BytesIO

import numpy as np

MAX_HELD_BYTES = 2**28  # of a file, which is held as a whole; a larger one is Pillow's
COLOURS = ("YCbCr", "Gray")  # how most JPEGs store them; what others mean is Pillow's to know
INSTALLED = find_spec("simplejpeg") is not None


def decode_jpeg(source: str | BytesIO, divisor: int = 1) -> np.ndarray | None:
    """A JPEG, a path or its bytes -> (H, W, 3) uint8 RGB as stored, its sides divided by 1, 2, 4 or 8 and rounded up.

    None where simplejpeg is not installed, or there is anything about the file that it does not like: another decoder
    must then say what the pixels are, or what is wrong.
    """
    if not INSTALLED:
        return None
    import simplejpeg

    if isinstance(source, str) and os.stat(source).st_size > MAX_HELD_BYTES:
        return None
    try:
        data = source.getvalue() if isinstance(source, BytesIO) else _bytes_of(source)
        *sides, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in COLOURS:
            return None
        height, width = map(int, sides)
        lowest, narrowest = (height // divisor, width // divisor) if divisor > 1 else (0, 0)  # 0: any
        return simplejpeg.decode_jpeg(data, "RGB", min_height=lowest, min_width=narrowest, min_factor=divisor)
    except ValueError:
        return None


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
