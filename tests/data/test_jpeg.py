"""JPEGs have the same pixels with simplejpeg and without, at full size and scaled by their own transform."""

import io

import numpy as np
import pytest
import torch
from media import scene
from PIL import Image

from unidual_zoo.data import MediaError, jpeg, load_image, read_image
from unidual_zoo.data.transforms import Framing, RandomFraming

pytest.importorskip("simplejpeg")

PICTURE = scene(1, 93, 130)[0]


def write(path, mode="RGB", orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(PICTURE).convert(mode).save(path, "JPEG", quality=90, exif=exif, **options)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The shapes that simplejpeg decoded."""
    shapes = []
    plain = jpeg.decode_jpeg

    def noting(*arguments):
        picture = plain(*arguments)
        shapes.append(None if picture is None else picture.shape)
        return picture

    monkeypatch.setattr("unidual_zoo.data.images.decode_jpeg", noting)
    return shapes


FORMS = [
    ({}, (93, 130, 3)),
    ({"progressive": True}, (93, 130, 3)),
    ({"subsampling": 0}, (93, 130, 3)),
    ({"mode": "L"}, (93, 130, 3)),
    ({"orientation": 6}, (93, 130, 3)),
    ({"mode": "CMYK"}, None),  # Pillow's
    ({"keep_rgb": True}, None),
]


@pytest.mark.parametrize(("form", "shape"), FORMS)
def test_the_same_pixels_as_pillow(tmp_path, monkeypatch, decoded, form, shape):
    path = write(tmp_path / "a.jpg", **form)

    def half(height, width):
        return height // 2 - 3, width // 2 - 3

    ours, smaller = read_image(path), read_image(path, fit=half)
    assert [each for each in decoded if each] == ([shape, (47, 65, 3)] if shape else [])
    monkeypatch.setattr(jpeg, "INSTALLED", False)
    assert np.array_equal(ours, read_image(path))
    assert np.array_equal(smaller, read_image(path, fit=half))
    upright = Image.open(path).convert("RGB")
    turned = upright.transpose(Image.Transpose.ROTATE_270) if "orientation" in form else upright
    assert np.array_equal(ours, np.asarray(turned))
    assert smaller.shape == (*((side + 1) // 2 for side in ours.shape[:2]), 3)


def test_it_comes_no_smaller_than_it_will_be_scaled_to(tmp_path, decoded):
    path = write(tmp_path / "a.jpg", orientation=6)  # displayed 130 high, 93 wide
    for wanted, width in [
        ((130, 93), 93),
        ((66, 46), 93),
        ((65, 46), 47),
        ((33, 23), 47),
        ((32, 23), 24),
        ((2, 2), 12),
    ]:
        assert read_image(path, fit=lambda *_, wanted=wanted: wanted).shape[1] == width
    assert len(decoded) == 6


@pytest.mark.parametrize("transform", [Framing(40, (32, 32)), RandomFraming((40,), (32, 32))])
def test_a_resize_that_is_begun_by_the_decoder_is_close_to_one_that_is_not(tmp_path, monkeypatch, transform):
    path = tmp_path / "a.jpg"
    soft = Image.fromarray(PICTURE[:12, :16]).resize((130, 93), Image.Resampling.BICUBIC)  # as photos are
    soft.save(path, quality=90)
    torch.manual_seed(0)
    ours = load_image(path, transform)
    torch.manual_seed(0)
    whole = transform(torch.from_numpy(read_image(path)).permute(2, 0, 1))
    assert ours.shape == whole.shape == (3, 32, 32)
    assert (ours.int() - whole.int()).abs().float().mean() < 3


def test_what_is_damaged_is_left_to_pillow(tmp_path, decoded):
    data = write(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="truncated"):
        read_image(tmp_path / "cut.jpg")
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "PNG")
    (tmp_path / "png.jpg").write_bytes(file.getvalue())
    assert np.array_equal(read_image(tmp_path / "png.jpg"), PICTURE)
    assert not any(decoded)
