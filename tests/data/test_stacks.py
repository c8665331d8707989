"""Entries of stacks read like files."""

import io
import pickle
import struct

import numpy as np
import pytest
import torch

from unidual_zoo.data import (
    MediaError,
    images,
    load_clips,
    load_image,
    probe,
    read_frames,
    read_image,
    read_media,
    stacks,
)
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


def saved(array, save=np.save):
    content = io.BytesIO()
    save(content, array)
    return content.getvalue()


def header(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(9000).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUM",
        b"no stack at all" * 10,
        pickle.dumps([1, 2]),
        saved(IMAGES, np.savez),
        saved(IMAGES)[:-1],
        saved(np.array([None])),
        saved(np.uint8(3)),
        saved(IMAGES / 255),
        saved(IMAGES[:0]),
        saved(IMAGES[:, :0]),
        header("(1, 200000, 200000, 3)"),
        header("(-1, 4, 4, 3)"),
        header(f"({2**70}, 4, 4, 3)"),
        header("(1, 4, 4, 'a')"),
        header("(" + "-" * 8000 + "1, 4, 4, 3)"),  # Python's parser calls it a lack of memory
    ],
)
@pytest.mark.parametrize("read", [read_image, probe])
def test_what_is_no_stack(tmp_path, content, read):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(MediaError) as caught:
        read(tmp_path / "a.npy/0")
    assert caught.value.path == str(tmp_path / "a.npy/0")
    assert len(caught.value.reason) < 250


def test_entries_that_are_too_large(folder, monkeypatch):
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 47)
    with pytest.raises(MediaError, match="the image has 8x6 = 48 pixels, at most 47 are allowed"):
        read_image(folder / "i/train.npy/0")
    monkeypatch.setattr(stacks, "MAX_READ_BYTES", 3 * 6 * 8 * 3)
    assert read_frames(folder / "v/train.npy/0", [0, 1, 2]).shape == (3, 6, 8, 3)
    with pytest.raises(MediaError, match="4 frames would take 576 bytes, at most 432 are read"):
        read_frames(folder / "v/train.npy/0", [0, 1, 2, 3])


def test_a_stack_that_could_not_be_made_is_not_there(tmp_path):
    def fails(i):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_stack(tmp_path, "train", shape=(2, 2, 3), labels=["a"], make=fails)
    assert list(tmp_path.iterdir()) == []
