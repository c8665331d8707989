"""Images are read and turned whatever their metadata."""

import struct
import zlib

import numpy as np
import pytest
from pictures import EXIF, PIXELS, RGB, jpeg_bytes, png, png_chunk, png_with, save, tiff
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from unidual_zoo.data import MediaError, images, read_image

TURNED = np.rot90(PIXELS, -1)  # 90 degrees clockwise
LARGE = zlib.compress(bytes(2 * 2**20))  # Pillow unpacks 1 MB
ORIENTATIONS = {
    "eXIf": png_chunk(b"eXIf", EXIF[6:]),
    "xmp": png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    "zTXt": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  1\n" + EXIF.hex().encode())),
}
BAD_CHUNKS = {
    "large profile": png_chunk(b"iCCP", b"p\0\0" + LARGE),
    "large text": png_chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "large international text": png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "unknown compression": png_chunk(b"zTXt", b"Comment\0\7x"),
    "checksum": png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"\0",
    "short gamma": png_chunk(b"gAMA", b"\0"),
    "short intent": png_chunk(b"sRGB", b""),
    "short density": png_chunk(b"pHYs", b"\0"),
    "short transparency": png_chunk(b"tRNS", b"\0"),
    "animation": png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"fcTL", bytes(3)),
}


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("after", [False, True])
def test_a_png_is_read_whatever_its_metadata(tmp_path, bad, orientation, after):
    path = tmp_path / "a.png"
    chunk, turn = BAD_CHUNKS[bad], ORIENTATIONS[orientation]
    path.write_bytes(png_with(after=chunk) if after else png_with(chunk))
    assert np.array_equal(read_image(path), PIXELS)
    path.write_bytes(png_with(turn, after=chunk) if after else png_with(chunk, turn))
    assert np.array_equal(read_image(path), TURNED)


@pytest.mark.parametrize("exif", [b"garbage", b"", b"MM\0*\0\0\0\x08\xff\xff", EXIF[6:20]])
@pytest.mark.parametrize("bad", [b"", BAD_CHUNKS["large profile"]])
def test_a_broken_exif_turns_nothing(tmp_path, exif, bad):
    path = tmp_path / "a.png"
    path.write_bytes(png_with(png_chunk(b"eXIf", exif), bad))
    assert np.array_equal(read_image(path), PIXELS)
    large = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE)
    path.write_bytes(png_with(large, bad))
    assert np.array_equal(read_image(path), PIXELS)
    webp = save(tmp_path / "a.webp", RGB, lossless=True, exif=b"Exif\0\0" + (exif or b"x"))
    assert np.array_equal(read_image(webp), PIXELS)


def test_bad_pixels_are_refused_with_bad_metadata_too(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(9, 6, b"", before=BAD_CHUNKS["large profile"]))
    with pytest.raises(MediaError, match=r"it cannot be decoded as an image \((image file is truncated|unrecognized)"):
        read_image(path)
    whole = png_with(BAD_CHUNKS["checksum"])
    path.write_bytes(whole.replace(b"IHDR", b"IHDS"))
    with pytest.raises(MediaError):
        read_image(path)


def test_a_large_file_is_not_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png_with(BAD_CHUNKS["large profile"]))
    monkeypatch.setattr(images, "MAX_TRIMMED_BYTES", path.stat().st_size - 1)
    with pytest.raises(MediaError, match="too large"):
        read_image(path)


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content


@pytest.mark.parametrize(
    "bad",
    [
        segment(0xE0, b"JFIF"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"ICC_PROFILE\0") + segment(0xE2, b"ICC_PROFILE\0\1"),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\1\0\4\xff\xff\xff\xff\0\0\0\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\3\xed"),
    ],
)
def test_a_jpeg_is_read_whatever_its_metadata(tmp_path, bad):
    plain = jpeg_bytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(plain)
    expected = read_image(path)
    path.write_bytes(plain[:2] + b"\xff" + bad + plain[2:])
    assert np.array_equal(read_image(path), expected)
    path.write_bytes(plain[:2] + segment(0xE1, EXIF) + bad + segment(0xFE, b"hello") + plain[2:])
    assert np.array_equal(read_image(path), np.rot90(expected, -1))


def test_colours_of_a_jpeg_stay_when_metadata_go(tmp_path):
    """What the Adobe segment says of colours is no metadata: without it these RGB samples would be taken for YCbCr."""
    path = save(tmp_path / "a.jpg", RGB, keep_rgb=True, quality=100)
    expected = read_image(path)
    assert np.abs(expected.astype(int) - PIXELS).max() < 8
    whole = path.read_bytes()
    path.write_bytes(whole[:2] + segment(0xE0, b"JFIF") + whole[2:])
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("entry", [(270, 2, 1000, 2**31), (305, 7, 2**31, 8), (700, 3, 1, 5), (34665, 4, 1, 2**32 - 2)])
def test_a_tiff_is_read_whatever_its_metadata(tmp_path, entry):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(entry))
    assert np.array_equal(read_image(path), PIXELS)
    path.write_bytes(tiff((274, 3, 1, 6), entry))
    assert np.array_equal(read_image(path), TURNED)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_is_read_whatever_its_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    path = save(tmp_path / "a.avif", RGB, exif=exif)
    expected = read_image(path)
    assert expected.shape == (9, 6, 3)
    whole = path.read_bytes()
    at = whole.index(b"MM\0*")
    path.write_bytes(whole[:at] + b"none" + whole[at + 4 :])
    assert np.array_equal(read_image(path), expected)  # a property of the image tells how it is turned, too


def test_text_chunks_do_not_matter(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * 1000)
    assert np.array_equal(read_image(save(tmp_path / "a.png", RGB, pnginfo=info)), PIXELS)
