"""What one file may cost at most. Each limit can be changed by an environment variable, which loader processes inherit.

    UNIDUAL_MAX_IMAGE_PIXELS   pixels of an image
    UNIDUAL_MAX_FRAME_PIXELS   pixels of a frame of a video
    UNIDUAL_MAX_PACKETS        packets of a video, and so its frames
    UNIDUAL_MAX_READ_BYTES     bytes of the frames of one read
    UNIDUAL_FILE_MEMORY        bytes that reading a file may take on top, where a process of its own reads it
    UNIDUAL_FILE_SECONDS       seconds that reading a file may take; 0: as long as it takes

They are read once, when the package is imported. The last two hold where files are read by a process that can be ended
(`data/guarded.py`).
"""

from __future__ import annotations

import os


def limit(name: str, default: int) -> int:
    """The whole number that the environment variable UNIDUAL_`name` gives, else the default.

    Raises:
        ValueError: it gives no whole number above 0.
    """
    given = os.environ.get(f"UNIDUAL_{name}", "")
    if given and not (given.isascii() and given.isdecimal() and int(given)):
        raise ValueError(f"UNIDUAL_{name} must be a whole number above 0, got {given!r}")
    return int(given or default)


def seconds_from_environment() -> float:
    """UNIDUAL_FILE_SECONDS, 0 without it: files may take as long as they do.

    Raises:
        ValueError: it is no number of seconds.
    """
    given = os.environ.get("UNIDUAL_FILE_SECONDS", "") or "0"
    try:
        return check_seconds(float(given))
    except ValueError:
        raise ValueError(f"UNIDUAL_FILE_SECONDS must be a number of seconds, or 0, got {given!r}") from None


def check_seconds(seconds: float) -> float:
    """The number of seconds, if it is one: from 0 to a day.

    Raises:
        ValueError: it is none.
    """
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"seconds for a file must be from 0 (no limit) to {LONGEST_SECONDS:,}, got {seconds}")
    return seconds


LONGEST_SECONDS = 86_400
MAX_IMAGE_PIXELS = limit("MAX_IMAGE_PIXELS", 150_000_000)
MAX_FRAME_PIXELS = limit("MAX_FRAME_PIXELS", 35_651_584)  # level 6.2 of H.264 and HEVC; 8K has 33 million
MAX_PACKETS = limit("MAX_PACKETS", 2**20)  # 11 hours at 25 frames a second
MAX_READ_BYTES = limit("MAX_READ_BYTES", 2**31)  # 345 frames of 1920x1080 at once
FILE_MEMORY = limit("FILE_MEMORY", 4 * 2**30)
FILE_SECONDS = seconds_from_environment()
