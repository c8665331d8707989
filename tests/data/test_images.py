"""Images of every mode and orientation as RGB, and what is refused."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from unidual_zoo.data import MediaError, images, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
RGB = Image.fromarray(PIXELS)


def save(path: Path, image: Image.Image, **settings) -> Path:
    image.save(path, **settings)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_honoured(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{kind}", RGB, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape == ((6, 9, 3) if orientation < 5 else (9, 6, 3))
    assert np.array_equal(read_image(path), expected)


def test_an_unknown_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    assert np.array_equal(read_image(save(tmp_path / "a.png", RGB, exif=exif)), PIXELS)


GREY = PIXELS[..., 0]
ALPHA = PIXELS[..., 1].copy()


def grey(values):
    return np.repeat(values[..., None], 3, 2)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgb.png", RGB, PIXELS),
        ("rgb.bmp", RGB, PIXELS),
        ("grey.png", Image.fromarray(GREY), grey(GREY)),
        ("one_bit.png", Image.fromarray(GREY > 127), grey(np.where(GREY > 127, 255, 0))),
        ("alpha.png", Image.fromarray(np.dstack([PIXELS, ALPHA])), PIXELS),
        ("grey_alpha.png", Image.fromarray(np.dstack([GREY, ALPHA])), grey(GREY)),
        ("16bit.png", Image.fromarray(GREY.astype(np.uint16) * 257), grey(GREY)),
        ("16bit_low.tif", Image.fromarray(GREY.astype(np.uint16) * 256 + 255), grey(GREY)),
        ("float_to_1.tif", Image.fromarray(GREY.astype(np.float32) / 255), grey(GREY)),
        ("float_to_255.tif", Image.fromarray(GREY.astype(np.float32)), grey(GREY)),
        ("32bit.tif", Image.fromarray(GREY.astype(np.int32) * 257), grey(GREY)),
    ],
)
def test_modes(tmp_path, name, image, expected):
    got = read_image(save(tmp_path / name, image))
    assert got.dtype == np.uint8
    assert got.flags.writeable
    assert np.array_equal(got, expected)


def test_16_bit_pgm(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 9 6 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    assert np.array_equal(read_image(path), grey(GREY))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
def test_palette(tmp_path, transparency):
    palette = RGB.quantize(25)
    expected = np.asarray(palette.convert("RGB"))
    settings = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(read_image(save(tmp_path / "a.png", palette, **settings)), expected)


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk_is_converted_as_pillow_does(tmp_path, kind):
    """Pillow writes CMYK JPEGs inverted with Adobe's marker, and undoes it when it reads them."""
    path = save(tmp_path / f"a.{kind}", RGB.convert("CMYK"), **({"quality": 100} if kind == "jpg" else {}))
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))
    if kind == "tif":
        assert np.array_equal(read_image(path), PIXELS)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation(tmp_path, kind):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    settings = {"lossless": True} if kind == "webp" else {}
    path = save(tmp_path / f"a.{kind}", first, save_all=True, append_images=[second], duration=100, **settings)
    assert np.array_equal(read_image(path), np.asarray(first))


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_truncated_jpeg(tmp_path, share):
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg_bytes()[: int(len(jpeg_bytes()) * share)])
    with pytest.raises(MediaError, match=r"cut\.jpg: it cannot be decoded as an image|not an image of a known format"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b"no image at all" * 20, "not an image of a known format"), (None, "No such file")],
)
def test_what_is_no_image(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_damaged_files_of_every_format_end_in_media_error_or_pixels(tmp_path):
    rng = np.random.default_rng(0)
    failed = 0
    for kind in ("png", "gif", "webp", "tif", "bmp", "jpg", "ppm"):
        whole = save(tmp_path / f"whole.{kind}", RGB).read_bytes()
        for trial in range(20):
            data = bytearray(whole[: len(whole) - int(rng.integers(len(whole) // 2))])
            data[int(rng.integers(len(data)))] ^= 0xFF
            path = tmp_path / f"{trial}.{kind}"
            path.write_bytes(data)
            try:
                assert read_image(path).ndim == 3
            except MediaError:
                failed += 1
    assert failed > 50


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (12500, 12400), (60000, 10)])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path, width, height, monkeypatch):
    """400 megapixels are beyond Pillow's own limit, 155 only cause its warning."""
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", min(images.MAX_IMAGE_PIXELS, width * height - 1))
    path = save(tmp_path / "huge.png", Image.new("1", (8, 8)))
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError, match=rf"{width * height:,} pixels, at most {images.MAX_IMAGE_PIXELS:,} are"):
            read_image(path)


def test_text_chunks_do_not_matter(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * 1000)
    assert np.array_equal(read_image(save(tmp_path / "a.png", RGB, pnginfo=info)), PIXELS)
