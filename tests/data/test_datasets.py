"""Folders and CSV lists as sets of files, and files as tensors for a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from media import full_decode, write_video
from PIL import Image

from unidual_zoo.data import MediaSet, Video, eval_transform, load_clips, load_image, read_frames, read_media
from unidual_zoo.data.datasets import modalities_in, read_splits, splits
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
    with pytest.warns(UserWarning, match=r"left out files that are neither images nor videos by extension: 1 \.txt$"):
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


def test_labels_that_look_the_same_are_one_class(tmp_path):
    text = "path,label\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\nc.jpg,bar\nd.jpg, bar\u00a0\ne.jpg,Bar\n"
    with pytest.warns(
        UserWarning, match=r"list\.csv: labels that look the same are taken as one: 'bar', 'bar\\xa0'; 'c"
    ):
        got = read_media(csv(tmp_path / "list.csv", text), modality="image")
    assert got.classes == ("Bar", "bar", "caf\u00e9")
    assert got.labels == (2, 2, 1, 1, 0)
    path = csv(tmp_path / "list.csv", "a.jpg,cafe\u0301\n")
    assert read_media(path, modality="image", classes=["bar", "caf\u00e9"]).labels == (1,)
    assert read_media(path, modality="image", classes=["bar", "cafe\u0301 "]).classes == ("bar", "cafe\u0301 ")
    with pytest.raises(ValueError, match="of the 2 classes some look the same, 1 do not"):
        read_media(path, modality="image", classes=["caf\u00e9", "cafe\u0301"])


def test_splits_and_columns_that_look_the_same_are_one(tmp_path):
    text = "path ,label,\u00a0Split\na.jpg,cat,train\nb.jpg,cat,train \nc.jpg,cat,test\n"
    path = csv(tmp_path / "list.csv", text)
    assert splits(path) == ["test", "train"]
    with pytest.warns(UserWarning, match="splits that look the same are taken as one: 'train', 'train '"):
        assert len(read_media(path, modality="image", split="train")) == 2


def test_rows_that_no_command_would_take_are_told(tmp_path):
    path = csv(
        tmp_path / "list.csv", "path,label,split\na.jpg,cat,train\nb.jpg,cat,Train\nc.jpg,cat,\nd.jpg,cat,mine\n"
    )
    with pytest.warns(UserWarning, match=r"rows whose split is none of .* are left out: '' 1, 'Train' 1$"):
        assert len(read_media(path, modality="image", split="train")) == 1
    with pytest.warns(UserWarning, match="left out: '' 1$"):
        assert len(read_media(path, modality="image", split="Train")) == 1


def test_folders_whose_names_look_the_same_are_one_class_or_split(tmp_path):
    root = touch(tmp_path, "train/caf\u00e9/a.jpg", "train/cafe\u0301/b.jpg", "train/bar/c.jpg", "val /bar/d.jpg")
    with pytest.warns(
        UserWarning, match=r"class folders that look the same are taken as one: 'cafe\\u0301', 'caf\\xe9'"
    ):
        got = read_media(root, modality="image", split="train")
    assert got.classes == ("bar", "caf\u00e9")
    assert sorted(zip(got.labels, map(Path, got.files), strict=True)) == [
        (0, root / "train/bar/c.jpg"),
        (1, root / "train/cafe\u0301/b.jpg"),
        (1, root / "train/caf\u00e9/a.jpg"),
    ]
    assert splits(root) == ["train", "val"]
    assert read_media(root, modality="image", split="val").files == (str(root / "val /bar/d.jpg"),)
    touch(root, "val/bar/e.jpg")
    with pytest.warns(UserWarning, match="folders that look the same are taken as one: 'val', 'val '"):
        assert len(read_media(root, modality="image", split="val")) == 2
    assert len(read_media(touch(root, "a/b/cat/f.jpg"), modality="image", split="a/b")) == 1


def test_paths_in_lists_stand_for_what_is_on_the_disk(tmp_path):
    touch(tmp_path, "caf\u00e9.jpg", "cafe\u0301 2.jpg", "plain.jpg", "blank .jpg")
    path = csv(
        tmp_path / "list.csv", "cafe\u0301.jpg,x\ncaf\u00e9 2.jpg,x\nplain.jpg ,x\nblank .jpg,x\n none\u00e9.jpg ,x\n"
    )
    names = [Path(file).name for file in read_media(path, modality="image").files]
    assert names == ["caf\u00e9.jpg", "cafe\u0301 2.jpg", "plain.jpg", "blank .jpg", "none\u00e9.jpg"]


def test_a_column_of_groups(tmp_path):
    path = csv(tmp_path / "list.csv", "path,label,Group\na.jpg,cat,p1\nb.jpg,dog,p1 \nc.jpg,dog,\n")
    with pytest.warns(UserWarning, match="groups that look the same"):
        assert read_media(path, modality="image").groups == ("p1", "p1", "")
    assert read_media(csv(tmp_path / "list.csv", "path,label,group\na.jpg,cat,\n"), modality="image").groups == ()


def test_a_file_with_two_labels_is_refused(tmp_path):
    path = csv(tmp_path / "list.csv", "path,label,split\na.jpg,cat,train\nb.jpg,dog,train\n./a.jpg,dog,test\n")
    for split in (None, "train", "test"):
        with pytest.raises(ValueError, match=r"list\.csv: .*a\.jpg has the labels 'cat' and 'dog'$"):
            read_media(path, modality="image", split=split)
    assert len(read_media(csv(path, "a.jpg,cat\na.jpg,cat \n".replace("cat ", "cat")), modality="image")) == 2
    root = touch(tmp_path / "folders", "cat/a.jpg", "cat/b.jpg", "dog/c.jpg")
    (root / "dog/d.jpg").symlink_to(root / "cat/b.jpg")
    with pytest.raises(ValueError, match=r"cat/b\.jpg and .*dog/d\.jpg are one file with the labels 'cat' and 'dog'$"):
        read_media(root, modality="image")
    (root / "dog/d.jpg").unlink()
    (root / "dog/more").symlink_to(root / "cat")
    with pytest.raises(ValueError, match=r"cat/a\.jpg and .*dog/more/a\.jpg are one file .*; 1 more have two$"):
        read_media(root, modality="image")


def test_what_systems_leave_behind_is_neither_class_nor_split_nor_sample(tmp_path):
    root = touch(
        tmp_path, "train/cat/a.jpg", "train/cat/@eaDir/a.jpg", "train/@eaDir/cat/a.jpg", "train/dog/b.jpg",
        "train/$RECYCLE.BIN/c.jpg", "train/dog/Thumbs.db", "train/dog/x.txt", "lost+found/cat/a.jpg",
    )  # fmt: skip
    message = r"1 \.txt; and what systems leave behind: 1 \$RECYCLE\.BIN, 2 @eaDir, 1 Thumbs\.db$"
    with pytest.warns(UserWarning, match=message):
        got = read_media(root, modality="image", split="train")
    assert (got.classes, len(got)) == (("cat", "dog"), 2)
    assert splits(root) == ["train"]


def test_what_cannot_be_looked_at_does_not_stop_the_rest(tmp_path):
    root = touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (root / "loop").symlink_to("loop")
    with pytest.warns(UserWarning, match="loop: left out, it cannot be looked at"):
        assert len(read_media(root, modality="image")) == 2
    (root / "loop").unlink()
    (root / "cow").symlink_to(root / "no disk")  # a class that would be missing without a word
    with pytest.warns(UserWarning, match="cow: left out, the link leads nowhere"):
        assert read_media(root, modality="image").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,\u00a0\n", "line 1: a row must give path,label"),
        ("path,label\n \u200b,cat\n", "line 2: a row must give path,label"),
        ("filename,class\na.jpg,cat\n", "'filename,class' is no file, nor does a header name path and label"),
        ("", "it lists no image files"),
        ("path,label\n", "it lists no image files"),
        ("a.jpg,cat\nb.jpg\n", r"list\.csv, line 2: a row must give path,label, got 'b.jpg'"),
        ("a.jpg,\n", "line 1: a row must give path,label"),
        ("a.jpg cat\n", "line 1: a row must give path,label, got 'a.jpg cat'"),
        ("a.mp4,cat\n", r"a\.mp4 is no image file \(.*\.jpg"),
        ('a.jpg,"cat\n', "not a CSV file in UTF-8"),
        ("path,label,Label\na.jpg,cat,dog\n", r"list\.csv: its header path,label,label names the column 'label' more"),
        ("split,path,label,split\n", "names the column 'split' more than once"),
    ],
)
def test_malformed_csv(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_media(csv(tmp_path / "list.csv", text), modality="image")


def test_columns_that_are_not_read_may_share_a_name(tmp_path):
    listed = csv(tmp_path / "list.csv", "path,label,note,note,,\na.jpg,cat,1,2,,\n")
    assert read_media(listed, modality="image").classes == ("cat",)


def test_other_files_in_a_folder_are_of_no_modality(tmp_path):
    root = touch(tmp_path, "cat/a.jpg", "cat/notes.txt")
    assert modalities_in(root) == ("image",)
    (root / "cat" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=rf"^{root}: no image or video files$"):
        read_splits(root)


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
        (["cat/a.mp4"], {}, r"no image files in class folder 'cat' \(.*\.jpeg .*\); it holds video files$"),
        (["cat/a.jpg", "dog/a.txt"], {}, r"no image files in class folder 'dog' [^;]*$"),
        (["a/cat/a.jpg", "a/dog/b.jpg"], {}, r"class folder 'a' .*; is it a split\?"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], {}, r"class folder 'train' .*; is it a split\?"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], {"split": "test"}, "no split 'test', there is: train, val"),
        (["cat/a.jpg", "\u00a0/b.jpg"], {}, r"class folder '\\xa0' has no name that one sees"),
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
    with pytest.raises(ValueError, match="1 files have 2 groups"):
        MediaSet("image", ("a",), ("1",), (0,), ("x", "y"))
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
