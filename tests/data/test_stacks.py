"""Entries of stacks read like files."""

import numpy as np
import pytest
import torch

from unidual_zoo.data import MediaError, load_clips, load_image, probe, read_frames, read_image, read_media
from unidual_zoo.data.stacks import write_stack
from unidual_zoo.data.transforms import Framing

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 6, 8, 3), np.uint8)
CLIPS = RNG.integers(0, 256, (2, 5, 6, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    write_stack(tmp_path / "i", "train", shape=(6, 8, 3), labels=["b", "a", "b"], make=lambda i: IMAGES[i])
    write_stack(tmp_path / "v", "train", shape=(5, 6, 8, 3), labels=["x", "y, z"], make=lambda i: CLIPS[i])
    return tmp_path


def test_a_stack_is_a_data_set(folder):
    images = read_media(folder / "i", modality="image", split="train")
    assert (images.classes, images.labels) == (("a", "b"), (1, 0, 1))
    for i, file in enumerate(images.files):
        assert (read_image(file) == IMAGES[i]).all()
        assert (load_image(file, lambda x: x).permute(1, 2, 0).numpy() == IMAGES[i]).all()
    clips = read_media(folder / "v", modality="video", split="train")
    assert clips.classes == ("x", "y, z")
    views = load_clips(clips.files[1], [[0, 2], [4, 1]], Framing((6, 8), (4, 4)))  # the crop is at (1, 2)
    assert views.shape == (2, 3, 2, 4, 4)
    assert (views[1, :, 0].permute(1, 2, 0).numpy() == CLIPS[1, 4, 1:5, 2:6]).all()
    assert (views[0, :, 1].permute(1, 2, 0).numpy() == CLIPS[1, 2, 1:5, 2:6]).all()


def test_an_image_may_be_written_to(folder):
    picture = read_image(folder / "i/train.npy/00000")
    picture[:] = 0  # a copy: the file is as it was
    assert (read_image(folder / "i/train.npy/00000") == IMAGES[0]).all()


def test_clips_are_videos(folder):
    path = folder / "v/train.npy/00001"
    info = probe(path)
    assert (info.frames, info.width, info.height, info.rotation) == (5, 8, 6, 0)
    assert info.duration == pytest.approx(5 / info.rate)
    assert (read_frames(path, [3, 3, 0]) == CLIPS[1, [3, 3, 0]]).all()
    assert read_frames(path, [0], short_side=3).shape == (1, 3, 4, 3)
    constant = read_frames(path, [1], short_side=12)
    assert torch.from_numpy(constant).float().mean() == pytest.approx(CLIPS[1, 1].mean(), abs=3)
    with pytest.raises(IndexError, match="0 to 4"):
        read_frames(path, [5])


@pytest.mark.parametrize(
    ("path", "reason"),
    [("i/train.npy/7", "entries 0 to 2"), ("i/train.npy/x", "entries"), ("i/no.npy/0", "No such file")],
)
def test_what_is_not_there(folder, path, reason):
    with pytest.raises(MediaError, match=reason):
        read_image(folder / path)


def test_the_other_kind(folder):
    with pytest.raises(MediaError, match="clips"):
        probe(folder / "i/train.npy/0")
    with pytest.raises(MediaError, match="images"):
        read_image(folder / "v/train.npy/0")


def test_a_stack_that_could_not_be_made_is_not_there(tmp_path):
    def fails(i):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_stack(tmp_path, "train", shape=(2, 2, 3), labels=["a"], make=fails)
    assert list(tmp_path.iterdir()) == []
