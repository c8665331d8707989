"""Image files to pixels, by Pillow."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from unidual_zoo.data.media import MediaError, PathLike, check_file
from unidual_zoo.data.stacks import is_stacked, read_stacked

MAX_IMAGE_PIXELS = 150_000_000  # a larger image is refused before it is decoded; as RGB it would take 450 MB
ORIENTATION = 0x0112  # the EXIF tag

_filters = threading.Lock()


def read_image(path: PathLike) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Every mode ends as RGB: palette, greyscale and 1-bit images are expanded, CMYK is converted as Pillow does, of
    16-bit samples the high byte is kept, and floats count from 0 to 1, or to 255 if there is one above 1. Alpha is
    dropped, as timm and torchvision do (`Image.convert("RGB")`): a transparent pixel has the colour that is stored for
    it. Of an animation the first frame is read. A file that is no image, is damaged or cut short, or has more than
    MAX_IMAGE_PIXELS pixels, is a MediaError. An entry of a stack (`data/stacks.py`) is read as it is.
    """
    if is_stacked(path):
        return np.array(read_stacked(path, ndim=3))
    check_file(path)
    try:
        with _quiet():
            image = Image.open(path)
        with image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise _too_large(path, f"{image.width}x{image.height} = {image.width * image.height:,} pixels")
            image.load()
            with _quiet():
                orientation = image.getexif().get(ORIENTATION, 1)
            return _turned(_rgb(image), orientation)
    except MediaError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit: beyond it the size is only in the message
        raise _too_large(path, f"{int(re.findall(r'[0-9]+', str(error))[0]):,} pixels") from None
    except Image.UnidentifiedImageError:
        raise MediaError(path, "it is not an image of a known format") from None
    except (
        Exception
    ) as error:  # on damaged files Pillow's plugins raise OSError, SyntaxError, struct.error, KeyError...
        raise MediaError(path, f"it cannot be decoded as an image ({error})") from None


def _rgb(image: Image.Image) -> np.ndarray:
    """A loaded image of any mode -> (H, W, 3) uint8."""
    if image.mode == "RGB":
        return np.array(image)
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit greyscale; some formats are opened as 32-bit "I"
        return _as_rgb(np.clip(np.asarray(image), 0, 0xFFFF) >> 8)
    if image.mode == "F":  # TIFF counts brightness from 0 to 1, Pillow to 255
        grey = np.nan_to_num(np.asarray(image))
        grey = np.clip(grey * 255 + 0.5 if grey.max() <= 1 else grey, 0, 255)
        return _as_rgb(grey)
    if image.mode in ("P", "PA"):  # by way of RGBA, because Pillow warns where the palette has several transparencies
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _as_rgb(grey: np.ndarray) -> np.ndarray:
    """(H, W) from 0 to 255 -> (H, W, 3) uint8."""
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as stored -> as displayed, by EXIF orientation 1 to 8; another value is taken as 1."""
    if orientation in (5, 6, 7, 8):
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _too_large(path: PathLike, size: str) -> MediaError:
    return MediaError(path, f"the image has {size}, at most {MAX_IMAGE_PIXELS:,} are allowed")


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of large images or bad metadata: the first are our errors, the second do not touch pixels.

    The lock is for our own threads: two at once could leave the process without its warning filters.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
