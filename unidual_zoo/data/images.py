"""Image files to pixels, by Pillow, or by simplejpeg where that is installed (the extra `jpeg`) and gives the same."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from itertools import chain

import numpy as np
from PIL import Image

from unidual_zoo.data.jpeg import decode_jpeg
from unidual_zoo.data.limits import MAX_IMAGE_PIXELS
from unidual_zoo.data.media import MediaError, PathLike, check_file, file_boundary
from unidual_zoo.data.members import is_member, read_file, read_member
from unidual_zoo.data.metadata import leaner
from unidual_zoo.data.stacks import is_stacked, read_stacked
from unidual_zoo.data.warned import pillow_quiet

Size = Callable[[int, int], tuple[int, int]]  # displayed (height, width) -> (height, width) to scale to

# Those of media.IMAGE_EXTENSIONS. Of Pillow's many others some run programs (EPS) or follow paths, and few are tested.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM")
BYTES_PER_PIXEL = 16  # that reading takes at most: Pillow holds a WebP four times over, most formats once
MAX_HELD_BYTES = 2**30  # a larger WebP or AVIF is refused, because Pillow holds such a file as a whole
MAX_TRIMMED_BYTES = 2**28  # a larger file that Pillow refuses is not tried again without its metadata
WEBP_HEADER = 30  # bytes that hold the size
STRIP_PIXELS = 2**20  # converted to RGB at once
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values that make rows of columns
JPEGS, JPEG_MODES = ("JPEG", "MPO"), ("RGB", "L")  # what simplejpeg may decode; it makes no RGB of CMYK
DIVISORS = (8, 4, 2)  # of the sides of a JPEG, which its decoder can divide in its transform
TIFF_TILE = (322, 323)  # the tags of a tile's width and height


def read_image(path: PathLike, *, fit: Size | None = None) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Every mode ends as RGB: palette, greyscale and 1-bit images are expanded, CMYK is converted as Pillow does, of
    16-bit samples the high byte is kept, and floats count from 0 to 1, or to 255 if there is one above 1. Alpha is
    dropped, as timm and torchvision do (`Image.convert("RGB")`): a transparent pixel has the colour that is stored for
    it. Of an animation the first frame is read. Metadata that cannot be read are left out, and an image with a broken
    EXIF is not turned. `fit` tells the (height, width) to which the displayed (height, width) will be scaled: a JPEG
    may then come at a half, a quarter or an eighth of its size, as long as it is no smaller than that. A file that is
    none of FORMATS, is damaged or cut short, or has more than MAX_IMAGE_PIXELS pixels, is a MediaError. An entry of a
    stack (`data/stacks.py`) is read as it is.

    Memory: at most BYTES_PER_PIXEL for a pixel, so 2.4 GB, besides the file itself where Pillow holds it, as it does a
    WebP or AVIF (of MAX_HELD_BYTES at most), or where it is read again without its metadata (MAX_TRIMMED_BYTES, twice).
    """
    return read_sized_image(path, fit=fit)[0]


def read_sized_image(path: PathLike, *, fit: Size | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """As `read_image`, with the (width, height) of the whole image as it is displayed."""
    with file_boundary(path):
        if is_stacked(path):
            picture = read_stacked(path, ndim=3)
            size = (picture.shape[1], picture.shape[0])
            _check_size(path, *size)
            return np.array(picture), size
        data = read_member(path) if is_member(path) else None
        if data is None:
            check_file(path)
        _check_header(path, data)
        picture, orientation, (width, height) = _decoded(path, data, fit)
        return _turned(picture, orientation), (height, width) if orientation in SIDEWAYS else (width, height)


def stated_size(path: PathLike) -> tuple[int, int]:
    """The (height, width) that an image file states, as stored. Nothing is decoded; a MediaError if it states none."""
    with file_boundary(path):
        check_file(path)
        _check_header(path, None)
        with pillow_quiet(), Image.open(path, formats=known_formats()) as image:
            return image.height, image.width


def pixels_of(image: Image.Image) -> np.ndarray:
    """An image of Pillow's -> (H, W, 3) uint8 RGB, turned as its EXIF orientation says: what `read_image` gives."""
    image.load()
    return _turned(_rgb(image), _orientation(image))


_Stored = tuple[np.ndarray, int, tuple[int, int]]  # pixels (H, W, 3) uint8, EXIF orientation, (width, height) of all


def _check_header(path: PathLike, data: bytes | None) -> None:
    """Raises MediaError for a file of which Pillow would hold too much before it tells the size."""
    if data is None:
        with open(path, "rb") as file:
            start = file.read(WEBP_HEADER)
    else:
        start = data[:WEBP_HEADER]
    held = start[8:12] == b"WEBP" or start[4:8] == b"ftyp"
    if held and (size := _num_bytes(path, data)) > MAX_HELD_BYTES:
        raise MediaError(path, f"the file has {size:,} bytes, a WebP or AVIF may have at most {MAX_HELD_BYTES:,}")
    if canvas := _webp_size(start):
        _check_size(path, *canvas)


def _check_size(path: PathLike, width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise _too_large(path, f"{width}x{height} = {width * height:,} pixels")


def _webp_size(start: bytes) -> tuple[int, int] | None:
    """The (width, height) that the first bytes of a WebP state, None for other files (RFC 9649)."""
    kind = start[12:16] if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    if kind == b"VP8L":
        sides = int.from_bytes(start[21:25], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
    return None


def _num_bytes(path: PathLike, data: bytes | None) -> int:
    return os.stat(path).st_size if data is None else len(data)


def _decoded(path: PathLike, data: bytes | None, fit: Size | None) -> _Stored:
    """The image as it is stored; if the file is refused as it is, without its metadata.

    `data` are the bytes of a file that lies within another.
    """
    failure = None
    for source in chain([os.fspath(path) if data is None else BytesIO(data)], _trimmed(path, data)):
        try:
            return _opened(path, source, fit)
        except (MediaError, MemoryError):
            raise
        except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, struct.error, KeyError...
            failure = error.with_traceback(None)  # which would hold the picture
    if isinstance(failure, Image.UnidentifiedImageError):
        raise MediaError(path, f"it is not an image of a known format ({', '.join(FORMATS)})")
    raise MediaError(path, f"it cannot be decoded as an image ({' '.join(str(failure).split())})") from failure


def _trimmed(path: PathLike, data: bytes | None) -> Iterator[BytesIO]:
    """The file with less and less metadata."""
    if _num_bytes(path, data) <= MAX_TRIMMED_BYTES:
        yield from map(BytesIO, leaner(read_file(path) if data is None else data))


def _opened(path: PathLike, source: str | BytesIO, fit: Size | None) -> _Stored:
    """What Pillow makes of the file, read from `source`, or simplejpeg in its place."""
    try:
        with pillow_quiet(), Image.open(source, formats=known_formats()) as image:
            _check_size(path, image.width, image.height)
            _check_size(path, *_tile_size(image))
            size = image.size
            if image.format in JPEGS:
                orientation = _orientation(image)
                divisor = _divisor(image, orientation, fit)
                picture = decode_jpeg(source, divisor) if image.mode in JPEG_MODES else None
                if picture is not None:
                    return picture, orientation, size
                if divisor > 1:
                    image.draft(None, (image.width // divisor, image.height // divisor))
            image.load()
            return _rgb(image), _orientation(image), size
    except Image.DecompressionBombError as error:  # Pillow's own limit: beyond it the size is only in the message
        raise _too_large(path, f"{int(re.findall(r'[0-9]+', str(error))[0]):,} pixels") from None


def _divisor(image: Image.Image, orientation: int, fit: Size | None) -> int:
    """By how much the sides of a JPEG may be divided, so that none is smaller than it will be scaled to."""
    if fit is None:
        return 1
    sideways = orientation in SIDEWAYS
    shown = (image.width, image.height) if sideways else (image.height, image.width)
    wanted = fit(*shown)
    fits = (each for each in DIVISORS if all(side // each >= want for side, want in zip(shown, wanted, strict=True)))
    return next(fits, 1)


def _tile_size(image: Image.Image) -> tuple[int, int]:
    """The (width, height) of a TIFF's tiles, which may be larger than the image; else that of the image."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in TIFF_TILE)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else image.size


@lru_cache(maxsize=1)
def known_formats() -> list[str]:
    """FORMATS, as far as this Pillow has them. Where our limit was raised above Pillow's own, that is raised, too."""
    Image.init()
    if Image.MAX_IMAGE_PIXELS and MAX_IMAGE_PIXELS > 2 * Image.MAX_IMAGE_PIXELS:  # of which it refuses twice as many
        Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
    return [name for name in FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 if it has none that can be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # the pixels are there, whatever became of the EXIF
        return 1


def _rgb(image: Image.Image) -> np.ndarray:
    """A loaded image of any mode -> (H, W, 3) uint8, strip by strip: in other modes it is never there as a whole."""
    picture = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    tops = range(0, image.height, rows)
    strips = [(0, top, image.width, min(top + rows, image.height)) for top in tops]
    # TIFF counts brightness from 0 to 1, Pillow to 255.
    to_one = image.mode == "F" and all(_floats(_cut(image, strip)).max() <= 1 for strip in strips)
    for strip in strips:
        picture[strip[1] : strip[3]] = _strip_rgb(_cut(image, strip), to_one)
    return picture


def _cut(image: Image.Image, strip: tuple[int, int, int, int]) -> Image.Image:
    return image if strip[2:] == image.size and strip[1] == 0 else image.crop(strip)


def _floats(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image))


def _strip_rgb(image: Image.Image, to_one: bool) -> np.ndarray:
    """An image of any mode -> (H, W, 3) uint8, or (H, W, 1) if it is grey. `to_one`: its floats count from 0 to 1."""
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit greyscale; some formats are opened as 32-bit "I"
        return (np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8)[:, :, None]
    if image.mode == "F":
        grey = _floats(image)
        grey = np.clip(grey, 0, 1) * 255 + 0.5 if to_one else grey
        return np.clip(grey, 0, 255).astype(np.uint8)[:, :, None]
    if image.mode in ("P", "PA"):  # by way of RGBA, because Pillow warns where the palette has several transparencies
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, 3) as stored -> as displayed, by EXIF orientation 1 to 8; another value is taken as 1."""
    if orientation in SIDEWAYS:
        picture = picture.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def _too_large(path: PathLike, size: str) -> MediaError:
    return MediaError(
        path, f"the image has {size}, at most {MAX_IMAGE_PIXELS:,} are allowed (UNIDUAL_MAX_IMAGE_PIXELS)"
    )
