"""Images of every mode and orientation as RGB, and what is refused."""

import io
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from pictures import EXIF, PIXELS, RGB, jpeg_bytes, png, save, tiff
from PIL import Image, ImageOps, features

from unidual_zoo.data import IMAGE_EXTENSIONS, MediaError, images, read_image


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


@pytest.mark.parametrize("strip_pixels", [images.STRIP_PIXELS, 20])
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
def test_modes(tmp_path, monkeypatch, name, image, expected, strip_pixels):
    monkeypatch.setattr(images, "STRIP_PIXELS", strip_pixels)
    got = read_image(save(tmp_path / name, image))
    assert got.dtype == np.uint8
    assert got.flags.writeable
    assert np.array_equal(got, expected)


def test_16_bit_pgm(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 9 6 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    assert np.array_equal(read_image(path), grey(GREY))


def test_floats_of_which_one_is_above_1_count_to_255(tmp_path, monkeypatch):
    """Whether they do is a question to all strips together."""
    monkeypatch.setattr(images, "STRIP_PIXELS", 9)
    values = np.full((6, 9), 0.5, np.float32)
    values[5, 8] = 200
    got = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert got[..., 0].tolist() == [[0] * 9] * 5 + [[0] * 8 + [200]]
    values[5, 8], values[0, 0], values[0, 1] = 1, np.nan, -np.inf
    got = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert got[..., 0].tolist() == [[0, 0] + [128] * 7] + [[128] * 9] * 4 + [[128] * 8 + [255]]


@pytest.mark.parametrize("strip_pixels", [images.STRIP_PIXELS, 20])
@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
def test_palette(tmp_path, monkeypatch, transparency, strip_pixels):
    monkeypatch.setattr(images, "STRIP_PIXELS", strip_pixels)
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


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_truncated_jpeg(tmp_path, share):
    path = tmp_path / "cut.jpg"
    path.write_bytes(jpeg_bytes()[: int(len(jpeg_bytes()) * share)])
    with pytest.raises(MediaError, match=r"cut\.jpg: it cannot be decoded as an image|not an image of a known format"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no image at all" * 20, "not an image of a known format"),
        (None, "there is no such file"),
    ],
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
    path = tmp_path / "huge.png"
    path.write_bytes(png(width, height, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError, match=rf"{width * height:,} pixels, at most {images.MAX_IMAGE_PIXELS:,} are"):
            read_image(path)


def riff(kind: bytes, content: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"VP8L", b"\x2f" + struct.pack("<I", 15999 | 12345 << 14) + bytes(9)),  # 14 bits a side, less 1
        (b"VP8X", bytes(4) + (15999).to_bytes(3, "little") + (12345).to_bytes(3, "little")),
        (b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16000 | 1 << 14, 12346) + bytes(9)),
    ],
)
def test_a_huge_webp_is_refused_before_pillow_makes_room_for_it(tmp_path, monkeypatch, kind, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(riff(kind, content))
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(MediaError, match="the image has 16000x12346 = 197,536,000 pixels, at most 150,000,000 are"):
        read_image(path)


@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_that_a_webp_states(tmp_path, lossless):
    start = save(tmp_path / "a.webp", RGB, lossless=lossless).read_bytes()[: images.WEBP_HEADER]
    assert images._webp_size(start) == (9, 6)
    extended = save(tmp_path / "b.webp", RGB, lossless=lossless, exif=EXIF).read_bytes()[: images.WEBP_HEADER]
    assert (extended[12:16], images._webp_size(extended)) == (b"VP8X", (9, 6))


@pytest.mark.parametrize("kind", ["webp", pytest.param("avif", marks=pytest.mark.skipif(
    not features.check("avif"), reason="this Pillow reads no AVIF"))])  # fmt: skip
def test_a_file_that_would_be_held_as_a_whole_has_a_limit(tmp_path, monkeypatch, kind):
    path = save(tmp_path / f"a.{kind}", RGB)
    monkeypatch.setattr(images, "MAX_HELD_BYTES", path.stat().st_size)
    assert read_image(path).shape == PIXELS.shape
    monkeypatch.setattr(images, "MAX_HELD_BYTES", path.stat().st_size - 1)
    with pytest.raises(MediaError, match=r"the file has \d+ bytes, a WebP or AVIF may have at most \d+"):
        read_image(path)


def test_a_tiff_with_huge_tiles(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff())
    assert np.array_equal(read_image(path), PIXELS)
    path.write_bytes(tiff((322, 4, 1, 20000), (323, 4, 1, 10000), (324, 4, 1, 8), (325, 4, 1, 162)))
    with pytest.raises(MediaError, match="the image has 20000x10000 = 200,000,000 pixels"):
        read_image(path)


MEASURE = """
import os, sys
from pathlib import Path
import numpy as np
from PIL import Image, features
from unidual_zoo.data import images, read_image

def status(name):
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith(name)).split()[1]) * 1024

def apart(function, *arguments):
    if os.fork() == 0:  # in a process that has freed nothing, because that would not be asked for again
        function(*arguments)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0

def write(folder, side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    rgb, rgba, flat = Image.fromarray(noise[..., :3]), Image.fromarray(noise), Image.new("RGBA", (side, side))
    rgb.save(folder / "rgb.png", compress_level=1)
    rgba.save(folder / "rgba.png", compress_level=1)
    rgb.convert("P").save(folder / "palette.png", compress_level=1)
    rgb.convert("P").save(folder / "palette.gif")
    rgb.convert("F").save(folder / "float.tif")
    rgb.save(folder / "progressive.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpg", progressive=True)
    flat.save(folder / "lossless.webp", lossless=True)
    flat.save(folder / "lossy.webp")
    if features.check("avif"):
        flat.save(folder / "alpha.avif", speed=10, subsampling="4:4:4")

def read(path, side):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    read_image(path)
    print(path.name, (status("VmHWM") - before) / side**2)

folder, side = Path(sys.argv[1]), int(sys.argv[2])
Image.init()
images.STRIP_PIXELS = 2**14  # what does not grow with the image would hide what does
apart(write, folder, side)
for path in sorted(folder.iterdir()):
    apart(read, path, side)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by Linux' own counters")
def test_memory_for_a_pixel(tmp_path):
    side = 1000
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    peaks = {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}
    assert len(peaks) >= 9
    assert min(peaks.values()) > 3  # the result alone
    allowed = {name: images.BYTES_PER_PIXEL if name.endswith(("webp", "avif")) else 12 for name in peaks}
    slack = {name: 3 + (tmp_path / name).stat().st_size / side**2 for name in peaks}  # the file may be held, too
    assert {name: peak for name, peak in peaks.items() if peak > allowed[name] + slack[name]} == {}


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "PCX", "ICO", "SGI", "DDS", "JPEG2000"])
def test_formats_that_are_not_listed_are_not_tried(tmp_path, kind, monkeypatch):
    """What an EPS holds is a program, which Pillow gives to Ghostscript."""
    Image.init()
    content, tried = io.BytesIO(), []
    RGB.save(content, kind)
    for name in set(Image.OPEN) - set(images.FORMATS):
        monkeypatch.setitem(Image.OPEN, name, (lambda *_, name=name: tried.append(name), None))
    path = tmp_path / "a.jpg"
    path.write_bytes(content.getvalue())
    with pytest.raises(MediaError, match=r"it is not an image of a known format \(JPEG, PNG, BMP, GIF, WEBP, AVIF,"):
        read_image(path)
    assert tried == []


def test_every_extension_of_an_image_has_its_format_listed():
    Image.init()
    assert {Image.EXTENSION[extension] for extension in IMAGE_EXTENSIONS} - {"AVIF"} == set(images.FORMATS) - {"AVIF"}


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), AssertionError(), StopIteration()])
def test_whatever_pillow_raises_names_the_file(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(MediaError, match=r"a\.png: it cannot be decoded as an image \("):
        read_image(path)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_the_file_passes(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(type(error)):
        read_image(path)
