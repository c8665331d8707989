"""Resizes, crops and normalisation of uint8 frames, against torchvision and by hand."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from unidual_zoo.data import transforms
from unidual_zoo.data.enlarging import enlarge
from unidual_zoo.data.transforms import Framing, eval_transform, normalize, train_transform
from unidual_zoo.spec import InputSpec

SHORT = InputSpec(resize=32, crop=(24, 24))
FRAMES = torch.randint(0, 256, (3, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(40, 60), (61, 40), (32, 32), (33, 47)])
def test_evaluation_equals_torchvisions_resize_and_centre_crop(shape):
    frames = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    expected = F.center_crop(F.resize(frames, [32], antialias=True), [24, 24])
    assert torch.equal(eval_transform(SHORT)(frames), expected)
    assert torch.equal(eval_transform(SHORT)(frames[0]), expected[0])  # an image


def test_evaluation_with_a_fixed_size():
    got = eval_transform(InputSpec())(FRAMES)
    assert torch.equal(got, F.center_crop(F.resize(FRAMES, [128, 171], antialias=True), [112, 112]))
    bicubic = eval_transform(InputSpec(interpolation="bicubic"))(FRAMES)
    assert not torch.equal(got, bicubic)


def test_what_has_the_size_already_is_not_resized():
    frames = torch.randint(0, 256, (2, 3, 128, 171), dtype=torch.uint8)
    assert torch.equal(eval_transform(InputSpec())(frames), frames[..., 8:120, 30:142])


@pytest.mark.parametrize("tall", [False, True])
def test_three_crops_lie_along_the_longer_side(tall):
    frames = torch.randint(0, 256, (2, 3, 32, 50), dtype=torch.uint8)
    frames = frames.mT if tall else frames
    views = eval_transform(SHORT, crops=3)(frames)
    assert views.shape == (3, 2, 3, 24, 24)
    for view, start in zip(views, (0, 13, 26), strict=True):
        expected = frames[..., start : start + 24, 4:28] if tall else frames[..., 4:28, start : start + 24]
        assert torch.equal(view, expected)


# Where torchvision computes in floats, the last bit of a weight may round otherwise.
TOLERANCE = 0 if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("shape", [(1, 80), (80, 1), (3, 101), (2, 333), (30, 31), (1, 1), (63, 1009)])
def test_what_is_enlarged_where_the_crops_lie_has_the_pixels_of_the_whole(shape, interpolation, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for short_side in (32, 64, 100):
        if short_side <= min(shape):
            continue
        frames = torch.randint(0, 256, (2, *shape, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        for options in (dict(crops=3), dict(at=(0.3, 0.77), flip=True), dict(at=(0.999, 0.0))):
            framing = Framing(short_side, (24, 28), interpolation, **options)
            monkeypatch.setattr(transforms, "LONGEST", 10**9)
            whole = framing(frames)
            monkeypatch.setattr(transforms, "LONGEST", 0)
            monkeypatch.setattr(F, "resize", None)
            in_part = framing(frames)
            monkeypatch.undo()
            assert whole.shape == in_part.shape
            assert (whole.int() - in_part.int()).abs().max() <= TOLERANCE


def test_enlarging_by_hand():
    """Twice as wide: a pixel is 3/4 of the nearer and 1/4 of the farther one, at the rim the outer one alone."""
    frames = torch.tensor([[[0, 100, 200]]], dtype=torch.uint8)  # (C, H, W)
    assert enlarge(frames, (2, 6), (0, 0, 2, 6)).tolist() == [[[0, 25, 75, 125, 175, 200]] * 2]
    assert enlarge(frames, (2, 6), (1, 2, 1, 3)).tolist() == [[[75, 125, 175]]]
    assert enlarge(frames, (2, 6), (1, 2, 1, 3), "nearest").tolist() == [[[100, 100, 200]]]


def test_a_frame_thin_as_a_hair_is_not_resized_as_a_whole():
    """It would have 256 × 512 million pixels. The crop's middle is where pixel 1,000,000 begins, which has value 64."""
    column = torch.arange(2_000_000).remainder(256).byte().view(1, -1, 1).expand(3, -1, -1)  # (C, H, 1)
    framing = Framing(256, (224, 224))
    assert framing.size(2_000_000, 1) == (2_000_000, 1)
    expected = torch.tensor([63] * 112 + [64] * 112, dtype=torch.uint8).view(1, -1, 1)
    assert torch.equal(framing(column), expected.expand(3, 224, 224))
    assert framing.size(255 * 16, 255) == (4096, 256)  # of usual shapes all is resized
    assert framing.size(16 * 300 + 1, 300) == (4096, 256)  # and of what becomes smaller


def test_random_crops_reach_every_place_and_treat_all_frames_alike():
    spec = InputSpec(resize=(5, 6), crop=(4, 4))
    place = torch.arange(30, dtype=torch.uint8).view(5, 6)
    frames = torch.stack([place.expand(3, 5, 6), place.expand(3, 5, 6) + 100])
    torch.manual_seed(0)
    seen = set()
    for _ in range(100):
        crop = train_transform(spec)(frames)
        assert crop.shape == (2, 3, 4, 4)
        assert torch.equal(crop[0] + 100, crop[1])
        seen.add(int(crop[0, 0, 0, 0]))
    assert seen == {0, 1, 2, 6, 7, 8}


def test_random_short_sides_and_flip():
    spec = InputSpec(resize=32, crop=(24, 24))
    transform = train_transform(spec, short_sides=(32, 40), flip=True)
    torch.manual_seed(0)
    drawn = [transform.draw() for _ in range(200)]
    assert {framing.resize for framing in drawn} == {32, 40}
    assert 60 < sum(framing.resize == 32 for framing in drawn) < 140
    assert 60 < sum(framing.flip for framing in drawn) < 140
    assert not any(train_transform(spec).draw().flip for _ in range(20))
    framing = Framing(32, (24, 24), at=(0.0, 0.0))
    mirrored = Framing(32, (24, 24), at=(0.0, 0.0), flip=True)
    assert torch.equal(mirrored(FRAMES), framing(FRAMES).flip(-1))


def test_training_follows_torchs_seed_and_nothing_else():
    transform = train_transform(SHORT, short_sides=(32, 40), flip=True)
    torch.manual_seed(3)
    first, second = transform(FRAMES), transform(FRAMES)
    torch.manual_seed(3)
    assert torch.equal(transform(FRAMES), first)
    assert torch.equal(transform(FRAMES), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 3, 4, 5, 6)])
def test_normalize(shape):
    batch = torch.randint(0, 256, shape, dtype=torch.uint8)
    spec = InputSpec()
    got = normalize(batch, spec)
    for channel in range(3):
        expected = (batch[:, channel].double() / 255 - spec.mean[channel]) / spec.std[channel]
        torch.testing.assert_close(got[:, channel], expected.float(), rtol=0, atol=1e-6)
    assert normalize(batch, spec, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_normalize_keeps_channels_last():
    batch = torch.randint(0, 256, (2, 4, 5, 6, 3), dtype=torch.uint8).movedim(-1, 1)  # (B, 3, T, H, W)
    assert normalize(batch, InputSpec()).stride() == batch.stride()


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4).byte(), torch.zeros(2, 1, 4, 4).byte()]
)
def test_normalize_says_what_it_takes(batch):
    with pytest.raises(ValueError, match=r"normalize takes uint8 images \(B, 3, H, W\) or clips .* got torch"):
        normalize(batch, InputSpec())


def test_errors():
    with pytest.raises(ValueError, match=r"crop \(24, 24\) does not fit in frames resized to 20"):
        train_transform(SHORT, short_sides=(32, 20))
    with pytest.raises(ValueError, match=r"crops must be one of \(1, 3\), got 2"):
        eval_transform(SHORT, crops=2)
    with pytest.raises(ValueError, match="no interpolation 'cubic', allowed: nearest, bilinear, bicubic"):
        eval_transform(InputSpec(interpolation="cubic"))
