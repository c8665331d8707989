"""Folders and CSV lists as sets of files, and files as tensors for a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from media import full_decode, write_video
from PIL import Image

from unidual_zoo.data import MediaSet, Video, eval_transform, load_clips, load_image, read_frames, read_media
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.spec import InputSpec


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folders_of_classes(tmp_path):
    root = touch(
        tmp_path, "dog/b.jpg", "dog/a.PNG", "cat/c.jpeg", "dog/notes.txt", "dog/._a.jpg", ".hidden/d.jpg", "x.jpg"
    )
    with pytest.warns(UserWarning, match=r"left out what is no image or video by its extension: \.txt 1$"):
        got = read_media(root, modality="image")
    assert got.classes == ("cat", "dog")
    assert got.files == tuple(str(root / name) for name in ("cat/c.jpeg", "dog/a.PNG", "dog/b.jpg"))
    assert got.labels == (0, 1, 1)
    assert len(got) == 3


def test_folders_of_splits(tmp_path):
    root = touch(tmp_path, "train/run/a.mp4", "train/jump/b.webm", "val/run/c.mkv")
    train, val = (read_media(root, modality="video", split=split) for split in ("train", "val"))
    assert (train.classes, train.labels) == (("jump", "run"), (0, 1))
    assert val.files == (str(root / "val/run/c.mkv"),)
    assert read_media(root, modality="video", split="val", classes=train.classes).labels == (1,)


def test_classes_fix_the_order(tmp_path):
    root = touch(tmp_path, "b/1.jpg", "a/2.jpg")
    assert read_media(root, modality="image", classes=["c", "b", "a"]).labels == (2, 1)


def test_an_unknown_label_names_the_nearest(tmp_path):
    root = touch(tmp_path, "arm_wrestling/1.mp4", "zumba/1.mp4")
    with pytest.raises(
        ValueError, match=r"label 'arm_wrestling' \(and 1 more\) is not among the 2 classes; the nearest: a"
    ):
        read_media(root, modality="video", classes=["arm wrestling", "archery"])


def csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_within_a_class_belong_to_it(tmp_path):
    for name in ("cat/a.jpg", "cat/day/b.jpg", "cat/day/.c.jpg", "dog/images/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "cat/round").symlink_to(tmp_path / "cat")  # a circle
    media = read_media(tmp_path, modality="image")
    assert [Path(file).name for file in media.files] == ["a.jpg", "b.jpg", "d.jpg"]


def test_a_fingerprint_is_of_names_and_labels_wherever_they_lie(tmp_path):
    files, labels = ("x/cat/a.jpg", "x/dog/b.jpg"), (0, 1)
    media = MediaSet("image", ("cat", "dog"), files, labels)
    moved = MediaSet("image", ("cat", "dog"), tuple(f"/elsewhere/{file}" for file in files), labels)
    assert media.fingerprint() == moved.fingerprint()
    assert media.fingerprint().startswith("2 files of 2 classes, ")
    others = [(("cat", "cow"), files, labels), (("cat", "dog"), files, (1, 0)), (("cat", "dog"), files[::-1], labels)]
    assert len({MediaSet("image", *other).fingerprint() for other in others} | {media.fingerprint()}) == 4


def test_csv_without_a_header(tmp_path):
    path = csv(tmp_path / "list.csv", 'a.mp4,run\n"b, c.mp4","jump, high"\n\n/abs/d.mp4, run\n')
    got = read_media(path, modality="video")
    assert got.classes == ("jump, high", "run")
    assert got.files == (str(tmp_path / "a.mp4"), str(tmp_path / "b, c.mp4"), "/abs/d.mp4")
    assert got.labels == (1, 0, 1)


def test_csv_with_a_header_and_more_columns(tmp_path):
    path = csv(tmp_path / "list.csv", "\ufeffLabel,split,path\nrun,train,x/a.mp4\njump,val,b.mp4\nrun,val,c.mp4\n")
    assert read_media(path, modality="video").labels == (1, 0, 1)
    val = read_media(path, modality="video", split="val")
    assert (val.files, val.labels) == ((str(tmp_path / "b.mp4"), str(tmp_path / "c.mp4")), (0, 1))
    with pytest.raises(ValueError, match="no split 'test', there is: train, val"):
        read_media(path, modality="video", split="test")


def test_csv_named_by_its_split(tmp_path):
    csv(tmp_path / "val.csv", "a.jpg,cat\n")
    assert read_media(tmp_path, modality="image", split="val").files == (str(tmp_path / "a.jpg"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,class\na.jpg,cat\n", "'filename,class' is no file; a header must name path and label"),
        ("", "it lists no image files"),
        ("path,label\n", "it lists no image files"),
        ("a.jpg,cat\nb.jpg\n", r"list\.csv, line 2: a row must give path,label, got 'b.jpg'"),
        ("a.jpg,\n", "line 1: a row must give path,label"),
        ("a.jpg cat\n", "line 1: a row must give path,label, got 'a.jpg cat'"),
        ("a.mp4,cat\n", r"a\.mp4 is no image file \(.*\.jpg"),
        ('a.jpg,"cat\n', "not a CSV file in UTF-8"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_media(csv(tmp_path / "list.csv", text), modality="image")


def test_a_csv_in_another_encoding_and_one_without_splits(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("a.jpg,crème\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        read_media(path, modality="image")
    with pytest.raises(ValueError, match="no column 'split' to take 'val' from, its columns are path,label"):
        read_media(csv(path, "a.jpg,cat\n"), modality="image", split="val")


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        ([], {}, "no class folders with image files"),
        (["a.jpg"], {}, "no class folders with image files"),
        (["cat/a.mp4"], {}, r"no image files in class folder 'cat' \(.*\.jpeg .*\)"),
        (["cat/a.jpg", "dog/a.txt"], {}, "no image files in class folder 'dog'"),
        (["a/cat/a.jpg", "a/dog/b.jpg"], {}, r"class folder 'a' .*; is it a split\?"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], {}, r"class folder 'train' .*; is it a split\?"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], {"split": "test"}, "no split 'test', there is: train, val"),
        (["cat/a.jpg"], {"modality": "audio"}, "no modality 'audio', allowed: image, video"),
    ],
)
def test_folders_without_what_is_asked(tmp_path, files, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_media(touch(tmp_path, *files), **{"modality": "image", **arguments})


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        read_media(tmp_path / "nowhere", modality="image")


def test_a_media_set_is_consistent():
    with pytest.raises(ValueError, match="2 files have 1 labels"):
        MediaSet("image", ("a",), ("1", "2"), (0,))
    with pytest.raises(ValueError, match="class names must differ"):
        MediaSet("image", ("a", "a"), (), ())
    with pytest.raises(ValueError, match="no modality 'text'"):
        MediaSet("text", ("a",), (), ())


SPEC = InputSpec(resize=(40, 50), crop=(32, 32))


def test_load_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = load_image(tmp_path / "a.png", eval_transform(SPEC))
    assert np.array_equal(got.permute(1, 2, 0), pixels[4:36, 9:41])
    assert load_image(tmp_path / "a.png", eval_transform(SPEC, crops=3)).shape == (3, 3, 32, 32)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clips") / "a.mp4", 30, size=(40, 50), options={"g": "10"})


def test_load_clips(video):
    frames = full_decode(video)
    clips = [[0, 4, 8], [4, 8, 12], [29, 29, 29]]
    got = load_clips(video, clips, eval_transform(SPEC))
    assert (got.shape, got.dtype) == ((3, 3, 3, 32, 32), torch.uint8)
    for clip, numbers in zip(got, clips, strict=True):
        expected = np.stack([frames[i][4:36, 9:41] for i in numbers])
        assert np.array_equal(clip.permute(1, 2, 3, 0), expected)
    assert np.array_equal(
        load_clips(video, lambda n, rate: [[n - 1, int(rate)]], lambda x: x)[0, :, 1, 0, 0], frames[25][0, 0]
    )


@pytest.mark.parametrize("as_function", [False, True])
def test_load_clips_puts_the_crops_of_a_clip_together(video, as_function):
    transform = eval_transform(SPEC, crops=3)
    views = load_clips(video, [[1, 2], [3, 4]], (lambda x: transform(x)) if as_function else transform)
    assert views.shape == (6, 3, 2, 32, 32)
    frames = full_decode(video)
    for k, numbers in enumerate([(1, 2), (3, 4)]):
        for c, left in enumerate((0, 9, 18)):
            expected = np.stack([frames[i][4:36, left : left + 32] for i in numbers])
            assert np.array_equal(views[3 * k + c].permute(1, 2, 3, 0), expected)


def test_load_clips_opens_and_decodes_once(video, monkeypatch):
    opened, asked = [], []
    plain_open, plain_read = Video._open, Video.read
    monkeypatch.setattr(Video, "_open", lambda self: opened.append(1) or plain_open(self))
    monkeypatch.setattr(
        Video, "read", lambda self, numbers, **kw: asked.append(list(numbers)) or plain_read(self, numbers, **kw)
    )
    load_clips(video, lambda n, rate: [[i, i + 1, i + 2] for i in range(4)], eval_transform(SPEC, crops=3))
    assert opened == [1]
    assert asked == [[0, 1, 2, 3, 4, 5]]


def test_the_decoder_scales_for_a_bilinear_transform(video):
    spec = InputSpec(resize=24, crop=(24, 24))
    got = load_clips(video, [[7]], eval_transform(spec))[0, :, 0]
    assert np.array_equal(got.permute(1, 2, 0), read_frames(video, [7], short_side=24)[0][:, 3:27])
    bicubic = load_clips(video, [[7]], eval_transform(InputSpec(resize=24, crop=(24, 24), interpolation="bicubic")))
    assert bicubic.shape == (1, 3, 1, 24, 24)


def test_scaling_in_the_decoder_averages_as_resizing_tensors_does(tmp_path):
    path = write_video(tmp_path / "grey.mp4", 3, size=(80, 120), pix_fmt="gray")
    transform = eval_transform(InputSpec(resize=24, crop=(24, 24)))
    one, other = (load_clips(path, [[2]], how).int() for how in (transform, lambda x: transform(x)))
    assert 0 < (one - other).abs().float().mean() < 2


def test_a_training_clip_has_one_crop_that_follows_torchs_seed(video):
    transform = train_transform(InputSpec(resize=40, crop=(24, 24)), short_sides=(32, 40), flip=True)

    def load(seed):
        torch.manual_seed(seed)
        return load_clips(video, [[0, 10, 20]], transform)

    crops = [load(seed) for seed in range(6)]
    assert all(torch.equal(load(seed), crop) for seed, crop in enumerate(crops))
    assert len({crop.numpy().tobytes() for crop in crops}) > 1
    still = load_clips(video, [[5, 5]], transform)
    assert torch.equal(still[:, :, 0], still[:, :, 1])
