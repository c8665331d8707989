"""Files, Pillow's images and arrays as a model takes them: the numbers that the evaluation sees."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from fakes import film, grey_video
from media import scene
from PIL import Image

from unidual_zoo.data.media import MediaError
from unidual_zoo.data.transforms import normalize
from unidual_zoo.inputs import create_transform, load_clip, load_image
from unidual_zoo.scoring import Protocol, ViewReader
from unidual_zoo.spec import ClipSpec, InputSpec

SPEC = InputSpec(resize=20, crop=(16, 16), clip=ClipSpec(length=3, stride=2))


class Model:
    spec = SPEC


@pytest.fixture
def clip(tmp_path):
    return film(tmp_path / "clip.mp4", scene(20, 32, 48))


def viewed(path, modality, clips=1):
    """The views that a protocol reads, normalised."""
    return normalize(ViewReader(modality, SPEC, Protocol(name="test", clips=clips))(str(path))[0], SPEC)


def test_files_are_read_as_the_evaluation_reads_them(tmp_path, clip):
    photo = tmp_path / "a.png"
    Image.fromarray(scene(1, 40, 30)[0]).save(photo)
    assert torch.equal(load_image(photo, Model()), viewed(photo, "image")[0])
    assert torch.equal(load_clip(clip, Model()), viewed(clip, "video")[0])
    assert torch.equal(load_clip(str(clip), SPEC, num_clips=4), viewed(clip, "video", clips=4))
    longer = dataclasses.replace(SPEC, clip=ClipSpec(length=5))
    assert load_clip(clip, longer).shape == (3, 5, 16, 16)


def test_the_clip_is_the_centre(tmp_path):
    path = grey_video(tmp_path / "greys.mp4", [0, 0, 0, 1, 1, 2, 2, 3, 3, 5, 5, 5])  # the centre: 3, 5, 7
    grey = InputSpec(resize=20, crop=(16, 16), mean=(0,) * 3, std=(0.2,) * 3, clip=SPEC.clip)
    assert load_clip(path, grey)[0, :, 8, 8].round().tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["a.jpg", "b.mp4"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / name).write_text("text")
    with pytest.raises(MediaError, match=name):
        (load_image if name == "a.jpg" else load_clip)(tmp_path / name, SPEC)


def test_a_transform_takes_images_and_clips_in_either_order(tmp_path):
    frames = scene(4, 40, 30)  # (T, H, W, 3)
    photo = tmp_path / "a.png"
    Image.fromarray(frames[0]).save(photo)
    transform = pickle.loads(pickle.dumps(create_transform(Model())))
    image = load_image(photo, SPEC)
    read_only = frames[0].copy()
    read_only.setflags(write=False)
    for pixels in (Image.open(photo), frames[0], read_only, torch.from_numpy(frames[0]).permute(2, 0, 1)):
        assert torch.equal(transform(pixels), image)
    clip = transform(frames)
    assert clip.shape == (3, 4, 16, 16)
    assert torch.equal(clip[:, 0], image)
    assert torch.equal(transform(np.moveaxis(frames, -1, 0)), clip)
    assert transform(np.zeros((3, 30, 30, 3), np.uint8)).shape == (3, 3, 16, 16)


def test_an_image_of_pillow_is_turned_and_made_rgb(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = scene(1, 40, 30)[0]
    for image in (Image.fromarray(pixels[..., 0]), Image.fromarray(pixels).quantize(16)):
        image.save(tmp_path / "a.png", exif=turned)
        assert torch.equal(create_transform(SPEC)(Image.open(tmp_path / "a.png")), load_image(tmp_path / "a.png", SPEC))


def test_training_draws_one_crop_for_all_frames_of_a_clip():
    ramp = np.add.outer(np.arange(20), np.arange(20)).astype(np.uint8)  # brighter to the right and to the bottom
    frames = np.broadcast_to(ramp[None, :, :, None], (2, 20, 20, 3))
    transform = create_transform(SPEC, training=True, flip=True)
    torch.manual_seed(0)
    drawn = [transform(frames) for _ in range(20)]
    assert all(torch.equal(clip[:, 0], clip[:, 1]) for clip in drawn)
    assert len({clip[0, 0, 0, 0].item() for clip in drawn}) > 3
    mirrored = sum((clip[0, 0, 0, 0] > clip[0, 0, 0, -1]).item() for clip in drawn)
    assert 0 < mirrored < 20


@pytest.mark.parametrize(
    ("pixels", "came"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 of shape \(8, 8, 3\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"uint8 of shape \(8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"shape \(2, 3, 8, 8\)"),
        ("photo.jpg", "got str"),
    ],
)
def test_what_a_transform_does_not_take(pixels, came):
    with pytest.raises(ValueError, match=came):
        create_transform(SPEC)(pixels)


def test_what_cannot_be_asked(clip):
    with pytest.raises(ValueError, match="num_clips must be 1 or more"):
        load_clip(clip, SPEC, num_clips=0)
    with pytest.raises(ValueError, match="training=True"):
        create_transform(SPEC, flip=True)
    with pytest.raises(TypeError, match="got str"):
        create_transform("unidual10")  # type: ignore[arg-type]
