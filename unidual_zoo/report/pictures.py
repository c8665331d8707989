"""Small pictures of files for a page: a photo's, and of a video a strip of frames, as `data:` addresses."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from unidual_zoo.data.decode import open_video
from unidual_zoo.data.images import read_image
from unidual_zoo.data.media import MediaError
from unidual_zoo.data.warned import collected
from unidual_zoo.spec import VIDEO

SIDE, STRIP_SIDE = 280, 110  # pixels: a photo's longer side, the height of a strip
FRAMES = 4  # of a strip
QUALITY = 70


def preview(path: str, modality: str) -> str | None:
    """A JPEG of the file as `data:image/jpeg;base64,…`; None if the file cannot be read (any more)."""
    try:
        with collected():  # what reading warns of was told in the evaluation
            picture = strip(path) if modality == VIDEO else photo(path)
    except (MediaError, OSError):
        return None
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return data_address(buffer.getvalue(), "image/jpeg")


def photo(path: str) -> Image.Image:
    """The image, no larger than SIDE."""
    picture = Image.fromarray(read_image(path))
    picture.thumbnail((SIDE, SIDE))
    return picture


def strip(path: str) -> Image.Image:
    """Frames from the middle of each quarter of a video, side by side, no higher than STRIP_SIDE."""
    with open_video(path) as video:
        numbers = strip_frames(video.frames)
        frames = video.read(numbers)  # (T, H, W, C)
    picture = Image.fromarray(np.concatenate(list(frames), axis=1))
    picture.thumbnail((picture.width, STRIP_SIDE))
    return picture


def strip_frames(num_frames: int) -> list[int]:
    """The numbers of a strip's frames: the middle one of each of FRAMES equal parts; each once."""
    return sorted({min(num_frames - 1, int((part + 0.5) * num_frames / FRAMES)) for part in range(FRAMES)})


def data_address(content: bytes, kind: str) -> str:
    """The content of a file as an address that stands in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
