"""CIFAR-10 is parted without overlap, and its clips show what their classes say."""

import csv
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from unidual_zoo.data import probe, read_frames, read_image, read_media
from unidual_zoo.data.synthetic import cifar
from unidual_zoo.data.synthetic.cifar import CLASSES, COLUMNS, cifar_clips, cifar_images
from unidual_zoo.spec import packaged_classes

PER_CLASS = {"train": 20, "test": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A small CIFAR-10: each image of one grey level in its first channel, its class in the second."""
    root = tmp_path_factory.mktemp("cifar")
    for split, count in PER_CLASS.items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = np.zeros((32, 32, 3), np.uint8)
                picture[..., 0], picture[..., 1] = 10 * number + 5, 20 * label + 10
                picture[..., 2] = 200 if split == "test" else 50
                Image.fromarray(picture).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path))
    monkeypatch.setattr(cifar, "HOLDOUT_CLIPS", 5)
    return tmp_path


def identity(picture: np.ndarray) -> tuple[int, int, int]:
    """(number, class, split) of an image of `root`, from its middle."""
    red, green, blue = picture[12:20, 12:20].reshape(-1, 3).mean(0)
    return round((red - 5) / 10), round((green - 10) / 20), round((blue - 50) / 150)


def ids(folder, split):
    media = read_media(folder, modality="image", split=split)
    found = [identity(read_image(file)) for file in media.files]
    assert [media.classes[label] for label in media.labels] == [CLASSES[label] for _, label, _ in found]
    return found


def test_images_are_parted(root, cache, monkeypatch):
    folder = cifar_images(root, count=100)
    train, holdout, test = (ids(folder, split) for split in ("train", "holdout", "test"))
    assert (len(train), len(set(train)), len(holdout), len(test)) == (100, 100, 20, 30)
    assert not set(train) & set(holdout)
    assert {part for *_, part in train + holdout} == {0}
    assert {part for *_, part in test} == {1}
    assert [label for _, label, _ in train[:10]] == list(range(10))  # the classes take turns
    with monkeypatch.context() as patch:
        patch.delattr(cifar, "_read_split")
        assert cifar_images(root, count=100) == folder  # made once
    assert len(ids(cifar_images(root, count=181), "train")) == 181
    with pytest.raises(ValueError, match="no image files"):  # all were wanted, nothing is held out
        ids(cifar_images(root, count=181), "holdout")


def test_clips_use_images_that_the_image_task_does_not(root, cache, monkeypatch):
    monkeypatch.setattr(cifar, "NOISE", (0, 0))
    monkeypatch.setattr(cifar, "DRIFT", 0)
    images = ids(cifar_images(root, count=100), "train")
    folder = cifar_clips(root, clips=60, test_clips=20, images=100)
    for split, part in (("train", 0), ("test", 1)):
        media = read_media(folder, modality="video", split=split)
        shown = [identity(read_frames(file, [12])[0]) for file in media.files]
        assert {p for *_, p in shown} == {part}
        for (_, label, _), number in zip(shown, media.labels, strict=True):
            assert media.classes[number].startswith(CLASSES[label])
        if split == "train":
            assert not set(shown) & set(images)
            assert len(set(shown)) == 60


def test_the_same_clips_again(root, cache, tmp_path, monkeypatch):
    first = cifar_clips(root, clips=12, test_clips=5, images=0)
    before = [(first / f"{split}.npy").read_bytes() for split in cifar.SPLITS]
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path / "again"))
    second = cifar_clips(root, clips=12, test_clips=5, images=0)
    assert second != first
    assert [(second / f"{split}.npy").read_bytes() for split in cifar.SPLITS] == before
    assert (cifar_clips(root, clips=12, test_clips=5, images=0, seed=1) / "test.npy").read_bytes() != before[2]


def test_objects_are_balanced_and_split_classes_share_theirs(root, cache):
    folder = cifar_clips(root, clips=40, test_clips=40, images=0)
    with (folder / "test.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels.count("airplane") == 4
    assert labels.count("automobile pan left") == labels.count("automobile pan right") == 2


def test_wide_clips_show_the_whole_image_enlarged_and_mirrored_at_the_sides(root, cache):
    folder = cifar_clips(root, "cifar_motion_wide", clips=3, test_clips=3, images=0)
    media = read_media(folder, modality="video", split="train")
    info = probe(media.files[0])
    assert (info.frames, info.height, info.width) == (36, 48, 64)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    wide = cifar._enlarged(picture, (48, 64))
    assert wide.shape == (48, 64, 3)
    assert (wide[:, :8] == wide[:, 9:17][:, ::-1]).all()
    small = np.asarray(Image.fromarray(wide[:, 8:56]).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - picture).mean() < 40
    assert (cifar._enlarged(picture, (32, 32)) == picture).all()


def test_columns():
    """A frame tells most of the main column; in the second each object has the same six motions."""
    assert sorted(COLUMNS["cifar_motion"].classes) == list(packaged_classes("cifar_motion"))
    assert len(COLUMNS["cifar_motion60"].classes) == 60
    assert len(COLUMNS["cifar_camera"].classes) == 10
    for column in COLUMNS.values():
        assert all(column.of_object(name) for name in CLASSES)


def test_tars_are_read(root, tmp_path, cache):
    packed = tmp_path / "packed"
    packed.mkdir()
    for split in PER_CLASS:
        with tarfile.open(packed / f"{split}.tar", "w") as archive:
            archive.add(root / split, arcname=split)
    unpacked = cifar_images(root, count=50)
    first = (unpacked / "train.npy").read_bytes()
    (unpacked / "train.csv").unlink()
    assert (cifar_images(packed, count=50) / "train.npy").read_bytes() == first


def test_errors(root, tmp_path, cache):
    with pytest.raises(ValueError, match=r"train\.tar"):
        cifar_images(tmp_path)
    with pytest.raises(ValueError, match="needs 1,000 images, CIFAR-10 in"):
        cifar_images(root, count=1000)
    with pytest.raises(ValueError, match="no column 'motion', allowed: cifar_motion"):
        cifar_clips(root, "motion")
    (tmp_path / "train" / "plane").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "plane" / "0.png")
    with pytest.raises(ValueError, match="found"):
        cifar_images(tmp_path)


@pytest.mark.parametrize("harm", ["no stack", "half a stack", "no list", "half a list", "another stack"])
def test_damaged_data_are_made_again(root, cache, harm):
    folder = cifar_images(root, count=50)
    stack, rows = folder / "test.npy", folder / "test.csv"
    before = stack.read_bytes(), rows.read_bytes(), (folder / "train.npy").stat().st_mtime_ns
    if harm.startswith("no"):
        (stack if harm == "no stack" else rows).unlink()
    elif harm == "another stack":
        np.save(stack, np.zeros((30, 32, 32), np.uint8))
    else:
        file = stack if harm == "half a stack" else rows
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert cifar_images(root, count=50) == folder
    assert (stack.read_bytes(), rows.read_bytes(), (folder / "train.npy").stat().st_mtime_ns) == before


def test_damaged_clips_are_made_again(root, cache):
    folder = cifar_clips(root, clips=12, test_clips=5, images=0)
    before = (folder / "train.npy").read_bytes()
    (folder / "train.npy").write_bytes(before[:-100])
    cifar_clips(root, clips=12, test_clips=5, images=0)
    assert (folder / "train.npy").read_bytes() == before


def test_what_systems_leave_behind_is_no_picture(root, tmp_path, cache):
    expected = ids(cifar_images(root, count=50), "train")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for name in ("train/@eaDir/0000.png", "train/cat/._0000.png", "train/cat/@eaDir/0000.png"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"no picture")
    packed = tmp_path / "packed"
    packed.mkdir()
    for split in PER_CLASS:
        with tarfile.open(packed / f"{split}.tar", "w") as archive:
            archive.add(copy / split, arcname=f"./{split}")
    for number, place in enumerate((copy, packed)):
        assert ids(cifar_images(place, count=51 + number), "train")[:50] == expected
