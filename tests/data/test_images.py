"""Images of every mode and orientation as RGB, and what is refused."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from media import png, png_chunk
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngInfo

from unidual_zoo.data import IMAGE_EXTENSIONS, MediaError, images, read_image

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


# ---- metadata -------------------------------------------------------------------------------------------------------

SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
EXIF = SIDEWAYS.tobytes()
TURNED = np.rot90(PIXELS, -1)  # 90 degrees clockwise
LARGE = zlib.compress(bytes(2 * 2**20))  # Pillow unpacks 1 MB
ORIENTATIONS = {
    "eXIf": png_chunk(b"eXIf", EXIF[6:]),
    "xmp": png_chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
    "zTXt": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  1\n" + EXIF.hex().encode())),
}


def png_with(*chunks: bytes, after: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    return png(9, 6, rows, before=b"".join(chunks), after=after)


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
