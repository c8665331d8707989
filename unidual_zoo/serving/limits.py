"""What a request may cost, and the answer to one that is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from unidual_zoo.data.decode import Video
from unidual_zoo.data.images import stated_size
from unidual_zoo.data.media import MediaError, is_image
from unidual_zoo.data.warned import collected


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is taken from clients.

    `requests` are those that are received, read and waiting together, further ones are told to come back. Of an image
    and of a frame of a video `pixels` are allowed, of a video `frames`: as the file states them, before anything of it
    is decoded. `receive_seconds` are those that an upload or a download may take.
    """

    request_bytes: int = 100 * 2**20
    pixels: int = 60_000_000
    frames: int = 20_000
    requests: int = 32
    receive_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be more than 0, got {value}")


@dataclass(eq=False)
class Refused(Exception):
    """A request that is answered with this status and one sentence."""

    status: int
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)


def check_media(path: str, limits: Limits) -> None:
    """Raises a MediaError if a file states more than the limits allow, or is a video that cannot be opened.

    What an image states may be out of Pillow's reach; then the reader's own limit holds.
    """
    if is_image(path):
        frames, size = 1, None
        with contextlib.suppress(MediaError):
            size = stated_size(path)
    else:
        with collected(), Video(path) as video:
            frames, *size = video.stated
    if frames > limits.frames:
        raise MediaError(path, f"it has {frames:,} frames, at most {limits.frames:,} are allowed")
    if size and size[0] * size[1] > limits.pixels:
        height, width = size
        raise MediaError(path, f"its pictures have {width}x{height} pixels, at most {limits.pixels:,} are allowed")
