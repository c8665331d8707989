"""Data sets in the layouts of their makers, made here file by file."""

import io
import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unidual_zoo.data import MediaError, read_image
from unidual_zoo.data.datasets import MediaSet, find_split, modalities_in, read_media, splits
from unidual_zoo.data.layouts import find_layout, imagenet
from unidual_zoo.data.members import read_member
from unidual_zoo.training.recipes import DataSettings
from unidual_zoo.training.sources import read_sources, subsample

SSV2_LABELS = {"Holding something": "1", "Closing something": "0", "Pouring something into something": "2"}
SSV2 = {
    "train": [("78687", "Holding [something]"), ("42326", "Pouring [something] into [something]")],
    "validation": [("74225", "Holding [something]"), ("9", "Closing [something]")],
}
MOMENTS = {"training": "trainingSet.csv", "validation": "validationSet.csv"}
KINETICS_HEADER = "label,youtube_id,time_start,time_end,split"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def named(media) -> dict[str, str]:
    """File name -> label."""
    return {Path(file).name: media.classes[label] for file, label in zip(media.files, media.labels, strict=True)}


def ssv2(folder: Path, *, lists: str = "labels/", prefix: str = "", ending: str = ".webm") -> Path:
    write(folder / f"{lists}{prefix}labels.json", json.dumps(SSV2_LABELS))
    for split, entries in SSV2.items():
        plain = [{"id": name, "label": "…", "template": template, "placeholders": []} for name, template in entries]
        write(folder / f"{lists}{prefix}{split}.json", json.dumps(plain))
        touch(*(folder / "20bn-something-something-v2" / f"{name}{ending}" for name, _ in entries))
    write(folder / f"{lists}{prefix}test.json", json.dumps([{"id": "1420"}]))
    return folder


@pytest.mark.parametrize(
    "options", [{}, {"lists": "", "prefix": "something-something-v2-"}, {"lists": "annotations/", "ending": ".mp4"}]
)
def test_something_something(tmp_path, options):
    ending = options.get("ending", ".webm")
    folder = ssv2(tmp_path, **options)
    assert splits(folder) == ["train", "validation"]
    assert find_split(folder, ("val", "validation", "test")) == "validation"
    train = read_media(folder, modality="video", split="train")
    assert train.classes == ("Closing something", "Holding something", "Pouring something into something")
    assert named(train) == {
        f"78687{ending}": "Holding something",
        f"42326{ending}": "Pouring something into something",
    }
    assert all(Path(file).is_file() for file in train.files)
    tested = read_media(folder, modality="video", split="validation", classes=train.classes)
    assert tested.labels == (1, 0)
    assert modalities_in(folder, "validation") == ("video",)


def test_a_recipe_takes_the_folder_as_it_is(tmp_path):
    settings = DataSettings(tasks={"ssv2": "video"}, data={"ssv2": str(ssv2(tmp_path))})
    with pytest.warns(UserWarning, match="ssv2: 1 of 3 classes without a test file: Pouring something into something"):
        train, test = read_sources(settings, seed=0)
    assert (len(train["ssv2"]), len(test["ssv2"]), len(test["ssv2"].classes)) == (2, 2, 3)


def test_lists_of_something_something_that_are_wrong(tmp_path):
    folder = ssv2(tmp_path)
    with pytest.raises(ValueError, match=r"is Something-Something V2: say which split is meant, there is: train, val"):
        read_media(folder, modality="video")
    with pytest.raises(ValueError, match=r"no split 'test', there is: train, validation"):
        read_media(folder, modality="video", split="test")
    for path, text, message in (
        ("train.json", "{", r"train\.json: not JSON"),
        ("train.json", "{}", r"train\.json: needs a list, got a dict"),
        ("train.json", '[{"id": "78687"}]', r"train\.json: an entry needs an id and a template, got {'id': '78687'}"),
        ("train.json", '["78687"]', r"train\.json: an entry needs an id and a template, got '78687'"),
        ("train.json", "[]", r"train\.json: it lists no videos"),
        ("train.json", '[{"id": 78687, "template": "Eating"}]', "label 'Eating' is not among the 3 classes"),
        ("labels.json", '{"a": "b"}', r"labels\.json: 'a' needs a number, got 'b'"),
        ("labels.json", "{}", r"train\.json: no classes are listed beside its 2 videos"),
    ):
        ssv2(tmp_path)
        write(folder / "labels" / path, text)
        with pytest.raises(ValueError, match=message):
            read_media(folder, modality="video", split="train")


def test_a_folder_of_classes_with_lists_beside_it_is_read_as_folders(tmp_path):
    ssv2(tmp_path, lists="")
    touch(tmp_path / "train" / "jumping" / "a.mp4", tmp_path / "validation" / "jumping" / "b.mp4")
    assert read_media(tmp_path, modality="video", split="train").classes == ("jumping",)


def test_moments_in_time(tmp_path):
    rows = {
        "training": ["clapping/flickr-5-2_1.mp4,clapping,3,0", "adult+male+singing/yt-a_2.mp4,adult+male+singing,4,1"],
        "validation": ["clapping/getty-9_4.mp4,clapping,3,0"],
    }
    for split, lines in rows.items():
        write(tmp_path / MOMENTS[split], *lines)
        touch(*(tmp_path / split / line.split(",")[0] for line in lines))
    touch(tmp_path / "training" / "clapping" / "getty-9_4.mp4")  # not in its list
    without = read_media(tmp_path, modality="video", split="train")
    assert without.classes == ("adult+male+singing", "clapping")
    write(tmp_path / "moments_categories.txt", "clapping,0", "praying,1", "adult+male+singing,2")
    train = read_media(tmp_path, modality="video", split="train")
    assert train.classes == ("clapping", "praying", "adult+male+singing")
    assert train.labels == (0, 2)
    assert named(train) == {"flickr-5-2_1.mp4": "clapping", "yt-a_2.mp4": "adult+male+singing"}
    tested = read_media(tmp_path, modality="video", split=find_split(tmp_path, ("val", "validation")))
    assert tested.files == (str(tmp_path / "validation" / "clapping" / "getty-9_4.mp4"),)
    write(tmp_path / "moments_categories.txt", "clapping")
    with pytest.raises(ValueError, match="a row must have 2 columns or more, got 'clapping'"):
        read_media(tmp_path, modality="video", split="train")
    write(tmp_path / "moments_categories.txt", "clapping,first")
    with pytest.raises(ValueError, match="needs label,number, got 'clapping,first'"):
        read_media(tmp_path, modality="video", split="train")


def kinetics(folder: Path, *, present: int) -> Path:
    """Four training videos, of which so many are there; a validation list whose videos are without class folders."""
    rows = [("shaking hands", "-0Yxg", 7), ("abseiling", "aB_c", 120), ("abseiling", "x", 0), ("zumba", "y", 3)]
    write(
        folder / "train.csv", KINETICS_HEADER, *(f'"{label}",{name},{at},{at + 10},train' for label, name, at in rows)
    )
    for label, name, at in rows[:present]:
        touch(folder / "train" / label.replace(" ", "_") / f"{name}_{at:06d}_{at + 10:06d}.mp4")
    write(folder / "validate.csv", KINETICS_HEADER, "zumba,v,1,11,validate")
    touch(folder / "val" / "v_000001_000011.mkv")
    write(folder / "test.csv", "youtube_id,time_start,time_end,split", "z,1,11,test")
    return folder


def test_kinetics(tmp_path):
    folder = kinetics(tmp_path, present=4)
    assert splits(folder) == ["train", "val"]  # the test list has no labels
    train = read_media(folder, modality="video", split="train")
    assert train.classes == ("abseiling", "shaking hands", "zumba")
    assert named(train)["aB_c_000120_000130.mp4"] == "abseiling"
    assert named(train)["-0Yxg_000007_000017.mp4"] == "shaking hands"
    assert len(train) == 4
    tested = read_media(folder, modality="video", split="val", classes=train.classes)
    assert (tested.files, tested.labels) == ((str(folder / "val" / "v_000001_000011.mkv"),), (2,))


def test_missing_videos_are_counted_and_their_classes_stay(tmp_path):
    folder = kinetics(tmp_path, present=2)
    with pytest.warns(
        UserWarning, match=r"train\.csv: 2 of its 4 videos are not there, such as x_000000_000010"
    ) as told:
        train = read_media(folder, modality="video", split="train")
    assert len(told) == 1
    assert (len(train), train.classes) == (2, ("abseiling", "shaking hands", "zumba"))
    with pytest.raises(ValueError, match=r"train\.csv: none of its 4 videos is there, such as -0Yxg_000007_000017"):
        read_media(kinetics(tmp_path / "none", present=0), modality="video", split="train")
    write(folder / "train.csv", KINETICS_HEADER, "zumba,v,one,11,train")
    with pytest.raises(ValueError, match=r"a row must give label,youtube_id,.*, got 'zumba,v,one,11,train'"):
        read_media(folder, modality="video", split="train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",a,10,20,train", "'a_000010_000020' has no label"),
        ("run,a,10", "a row must give label,youtube_id,time_start,time_end,split, got 'run,a,10'"),
        ("", "it lists no videos"),
    ],
)
def test_rows_of_kinetics_that_are_wrong(tmp_path, row, message):
    write(tmp_path / "train.csv", KINETICS_HEADER, row)
    touch(tmp_path / "a_000010_000020.mp4")
    with pytest.raises(ValueError, match=rf"train\.csv: {message}"):
        read_media(tmp_path, modality="video", split="train")
    write(tmp_path / "train.csv", f"label,{KINETICS_HEADER}", f"run,{row}")
    with pytest.raises(
        ValueError, match=r"train\.csv: its header label,label,.* names the column 'label' more than once"
    ):
        read_media(tmp_path, modality="video", split="train")


def test_lists_of_ones_own_are_no_kinetics(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "train.csv", "path,label", "a.mp4,jumping")
    assert read_media(tmp_path, modality="video", split="train").classes == ("jumping",)


def test_class_folders_of_kinetics_are_read_where_the_layout_is_named(tmp_path):
    touch(tmp_path / "train" / "shaking_hands" / "a.mp4", tmp_path / "val" / "shaking_hands" / "b.mp4")
    assert read_media(f"kinetics:{tmp_path}", modality="video", split="val").classes == ("shaking hands",)
    assert read_media(tmp_path, modality="video", split="val").classes == ("shaking_hands",)
    with pytest.raises(ValueError, match=r"has not the layout of Sports-1M: there is no train_partition\.txt"):
        read_media(f"sports1m:{tmp_path}", modality="video", split="train")
    with pytest.raises(ValueError, match=r"none: no such folder, which is to have the layout of Kinetics"):
        splits(f"kinetics:{tmp_path}/none")


def sports1m(folder: Path) -> Path:
    write(folder / "labels.txt", "boxing", "judo", "kyūdō")
    write(
        folder / "original" / "train_partition.txt",
        *(f"https://www.youtube.com/watch?v={name} {numbers}" for name, numbers in (("-a_B", "2"), ("c", "1,0"))),
    )
    write(folder / "original" / "test_partition.txt", "http://www.youtube.com/watch?v=d 0,2", "http://youtu.be/gone 1")
    touch(folder / "videos" / "-a_B.mp4", folder / "videos" / "c.mkv", folder / "d.mp4")
    return folder


def test_sports_1m_has_several_labels_a_video(tmp_path):
    folder = sports1m(tmp_path)
    train = read_media(folder, modality="video", split="train")
    assert train.classes == ("boxing", "judo", "kyūdō")
    assert [train.labels_of(index) for index in range(2)] == [(2,), (1, 0)]
    with pytest.warns(UserWarning, match=r"test_partition\.txt: 1 of its 2 videos are not there, such as gone"):
        tested = read_media(folder, modality="video", split="test", classes=train.classes)
    assert (tested.labels_of(0), tested.missing) == ((0, 2), 1)
    write(folder / "original" / "train_partition.txt", "https://www.youtube.com/watch?v=c 1,3")
    with pytest.raises(ValueError, match=r"a line must be a URL and numbers below 3, got 'https://\S+ 1,3'"):
        read_media(folder, modality="video", split="train")


def test_minisports_is_a_subsample_by_the_seed():
    media = MediaSet(
        "video", ("a", "b"), tuple(f"{i}.mp4" for i in range(50)), (0, 1) * 25, others=((),) * 49 + ((0,),)
    )
    mini = subsample(media, 20, seed=3)
    assert len(mini) == 20
    assert mini == subsample(media, 20, seed=3) != subsample(media, 20, seed=4)
    assert sorted(mini.files, key=media.files.index) == list(mini.files)  # each once, in order
    assert all(media.labels_of(media.files.index(f)) == mini.labels_of(i) for i, f in enumerate(mini.files))
    assert subsample(media, 60) == media


def test_a_recipe_takes_a_named_layout_and_a_subsample(tmp_path):
    source = f"sports1m:{sports1m(tmp_path)}"
    settings = DataSettings(tasks={"s": "video"}, data={"s": source}, subsample={"s": 1})
    with pytest.warns(UserWarning, match="are not there|without a test file"):
        train, test = read_sources(settings, seed=0)
    assert (len(train["s"]), len(test["s"]), test["s"].missing) == (1, 1, 1)
    with pytest.raises(ValueError, match="no task to subsample 't', allowed: s"):
        DataSettings(tasks={"s": "video"}, subsample={"t": 1})


def test_ucf101(tmp_path):
    lists = tmp_path / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 YoYo", "2 Archery")
    write(lists / "trainlist01.txt", "YoYo/v_YoYo_g08_c01.avi 1", "Archery/v_Archery_g02_c03.avi 2")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi")
    write(lists / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 2")
    videos = ("YoYo/v_YoYo_g08_c01.avi", "Archery/v_Archery_g02_c03.avi", "Archery/v_Archery_g01_c01.avi")
    touch(*(tmp_path / "UCF-101" / name for name in videos))
    train = read_media(tmp_path, modality="video", split="train")
    assert (train.classes, train.labels) == (("YoYo", "Archery"), (0, 1))
    assert train.groups == ("v_YoYo_g08", "v_Archery_g02")
    assert read_media(tmp_path, modality="video", split="test").files == (str(tmp_path / "UCF-101" / videos[2]),)
    second = read_media(f"ucf101-2:{tmp_path}", modality="video", split="train")
    assert named(second) == {"v_Archery_g01_c01.avi": "Archery"}


def test_hmdb51(tmp_path):
    lists = tmp_path / "testTrainMulti_7030_splits"
    write(lists / "brush_hair_test_split1.txt", "a b#1_0.avi 1 ", "c.avi 2", "d.avi 0")
    write(lists / "wave_test_split1.txt", "c.avi 1")
    write(lists / "wave_test_split3.txt", "c.avi 2")
    touch(*(tmp_path / "brush_hair" / name for name in ("a b#1_0.avi", "c.avi", "d.avi")), tmp_path / "wave" / "c.avi")
    train = read_media(tmp_path, modality="video", split="train")
    assert train.classes == ("brush hair", "wave")
    assert named(train) == {"a b#1_0.avi": "brush hair", "c.avi": "wave"}
    tested = read_media(tmp_path, modality="video", split="test", classes=train.classes)
    assert tested.files == (str(tmp_path / "brush_hair" / "c.avi"),)
    assert read_media(f"hmdb51-3:{tmp_path}", modality="video", split="test").labels == (0,)
    write(lists / "wave_test_split1.txt", "c.avi 4")
    with pytest.raises(ValueError, match=r"wave_test_split1\.txt: a line must be a file and 0, 1 or 2, got 'c\.avi 4'"):
        read_media(tmp_path, modality="video", split="train")


TENCH, SNAKE, PAPER = "n01440764", "n01751748", "n15075141"  # classes 0, 65 and 999
VAL = [f"ILSVRC2012_val_0000000{number}" for number in (1, 2, 3)]


def test_synsets_of_imagenet_have_human_names(tmp_path):
    touch(*(tmp_path / "train" / synset / f"{synset}_1.JPEG" for synset in (PAPER, TENCH)))
    touch(tmp_path / "val" / TENCH / f"{VAL[0]}.JPEG")
    train = read_media(tmp_path, modality="image", split="train")
    assert train.classes == ("tench", "toilet tissue")
    assert named(train) == {f"{TENCH}_1.JPEG": "tench", f"{PAPER}_1.JPEG": "toilet tissue"}
    assert read_media(tmp_path, modality="image", split="val", classes=train.classes).labels == (0,)
    touch(tmp_path / "train" / "n00000000" / "a.JPEG")  # none of the thousand: folders of classes as any others
    assert read_media(tmp_path, modality="image", split="train").classes == ("n00000000", TENCH, PAPER)


def matlab(order: list[str], *, packed: bool) -> bytes:
    """A MATLAB file as far as it is looked at: a header, a tag of 8 bytes, and texts of two bytes a letter."""
    body = b"".join(synset.encode("utf-16-le") + b"\0\1 a fish\0" for synset in order)
    return b"MATLAB 5.0 MAT-file".ljust(136, b"\0") + (zlib.compress(body) if packed else body)


@pytest.mark.parametrize("truth", ["kaggle", "synsets", "pairs", "devkit", "matlab", "plain matlab"])
def test_flat_validation_images_of_imagenet(tmp_path, truth):
    order = [SNAKE, *(synset for synset in imagenet.synsets() if synset != SNAKE)]  # ILSVRC's numbers are others
    number = {synset: 1 + order.index(synset) for synset in (TENCH, SNAKE, PAPER)}
    shown = [SNAKE, PAPER, TENCH]
    root, images = tmp_path, tmp_path / "val"
    if truth == "kaggle":
        images = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
        rows = (f"{name},{synset} 1 2 3 4 {synset} 5 6 7 8 " for name, synset in zip(VAL, shown, strict=True))
        write(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString", *list(rows)[::-1])
    elif truth == "synsets":
        write(tmp_path / "imagenet_2012_validation_synset_labels.txt", *shown)
    elif truth == "pairs":
        numbers = (imagenet.synsets().index(synset) for synset in shown)
        write(tmp_path / "val.txt", *(f"{name}.JPEG {n}" for name, n in zip(VAL, numbers, strict=True)))
    else:
        devkit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
        write(devkit / "ILSVRC2012_validation_ground_truth.txt", *(str(number[synset]) for synset in shown))
        if truth == "devkit":
            write(devkit / "map_clsloc.txt", *(f"{s} {n} a_fish" for n, s in enumerate(order, 1)))
        else:
            extra = [*order, "n99999999"]  # synsets that are no leaves follow
            (devkit / "meta.mat").write_bytes(matlab(extra, packed=truth == "matlab"))
    touch(*(images / f"{name}.JPEG" for name in VAL))
    media = read_media(root, modality="image", split="val")
    assert [Path(file).stem for file in media.files] in (VAL, VAL[::-1])
    assert named(media) == {
        f"{VAL[0]}.JPEG": "sea snake", f"{VAL[1]}.JPEG": "toilet tissue", f"{VAL[2]}.JPEG": "tench"
    }  # fmt: skip
    assert len(media.classes) == 1000
    if truth == "synsets":
        touch(images / "ILSVRC2012_val_00000004.JPEG")
        with pytest.raises(ValueError, match="3 lines for 4 images, which it gives in their order"):
            read_media(root, modality="image", split="val")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"LOC_val_solution.csv": ""}, r"LOC_val_solution\.csv: must begin with ImageId,PredictionString, got ''"),
        (
            {"ILSVRC2012_validation_ground_truth.txt": "1", "map_clsloc.txt": "n01440764"},
            r"map_clsloc\.txt: a line must begin with a synset and its number, got 'n01440764'",
        ),
    ],
)
def test_truths_of_imagenet_that_are_wrong(tmp_path, files, message):
    touch(tmp_path / "val" / f"{VAL[0]}.JPEG")
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        read_media(tmp_path, modality="image", split="val")


def test_hugging_face_folders(tmp_path):
    write(tmp_path / "train" / "metadata.jsonl", '{"file_name": "a/1.jpg", "label": ["cat", "dog"]}',
          '{"file_name": "2.jpg", "label": "cow"}', '{"file_name": "3.jpg", "label": "cow"}')  # fmt: skip
    write(tmp_path / "test" / "metadata.csv", "file_name,label,text", "4.jpg,dog,a dog")
    touch(*(tmp_path / name for name in ("train/a/1.jpg", "train/2.jpg", "test/4.jpg")))
    assert splits(tmp_path) == ["test", "train"]
    with pytest.warns(UserWarning, match=r"metadata\.jsonl: 1 of its 3 files are not there, such as 3\.jpg"):
        train = read_media(tmp_path, modality="image", split="train")
    assert (train.classes, [train.labels_of(i) for i in range(2)]) == (("cat", "cow", "dog"), [(0, 2), (1,)])
    assert read_media(tmp_path, modality="image", split="test", classes=train.classes).labels == (2,)
    write(tmp_path / "test" / "metadata.csv", "file_name,label", "4.jpg,a dog, asleep")
    with pytest.raises(ValueError, match=r"metadata\.csv, row 1: it has more columns than the header names"):
        read_media(tmp_path, modality="image", split="test")
    write(tmp_path / "test" / "metadata.csv", "file_name,label,label", "4.jpg,a dog,asleep")
    with pytest.raises(ValueError, match=r"metadata\.csv: its header file_name,label,label names the column 'label'"):
        read_media(tmp_path, modality="image", split="test")
    write(tmp_path / "test" / "metadata.csv", "file_name,text", "4.jpg,a dog")
    with pytest.raises(ValueError, match=r"metadata\.csv: every row needs file_name and label, 4\.jpg has not both"):
        read_media(tmp_path, modality="image", split="test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("5", "not JSONL in UTF-8 .row 2 is no object"),
        ('{"file_name": "a.jpg", "label": " "}', "row 2: a label must be a text or a number"),
        ('{"file_name": "a.jpg", "label": {"a": 1}}', "row 2: a label must be a text or a number"),
        ('{"file_name": ["a.jpg"], "label": "a"}', "row 2: file_name must be a text"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, row, message):
    write(tmp_path / "metadata.jsonl", '{"file_name": "%s.jpg", "label": "cat"}' % ("x" * 5000), row)
    with pytest.raises(ValueError, match=rf"metadata\.jsonl(, |: ){message}"):
        read_media(tmp_path, modality="image")
    write(tmp_path / "metadata.jsonl", '{"file_name": "%s.jpg", "label": "cat"}' % ("x" * 5000))
    with pytest.raises(ValueError, match=r"metadata\.jsonl: none of its 1 file is there, such as x{200}$"):
        read_media(tmp_path, modality="image")


def write_table(path, labels, names=None, metadata=None):
    features = {"image": {"_type": "Image"}} | ({"label": {"_type": "ClassLabel", "names": names}} if names else {})
    table = pa.table({"image": [{"bytes": b"x", "path": "a.png"}] * len(labels), "label": labels})
    metadata = json.dumps({"info": {"features": features}} if metadata is None else metadata)
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, -1, 1], ["cat", "dog"], "label -1 is none of the 2 that its features name"),
        ([0, None], ["cat", "dog"], "a label must be a text or a number, or a list of them, got None"),
        ([0.5, float("nan")], None, "a label must be .*, got nan"),
        ([["a"], []], None, r"a label must be .*, got \[\]"),
        ([[0], [1, -1]], ["cat", "dog"], "label -1 is none of the 2"),
    ],
)
def test_rows_of_parquet_need_a_label(tmp_path, labels, names, message):
    write_table(tmp_path / "train.parquet", labels, names)
    with pytest.raises(ValueError, match=rf"train\.parquet, row 1 from 0: {message}"):
        read_media(tmp_path, modality="image", split="train")


TYPES = [pa.binary(), pa.large_binary()]


@pytest.mark.parametrize("kind", TYPES, ids=map(str, TYPES))
def test_rows_of_parquet_with_nothing_in_them_are_missing(tmp_path, kind):
    column = pa.array([None, None, {"bytes": b"x", "path": None}], pa.struct([("bytes", kind), ("path", pa.string())]))
    table = pa.table({"image": column, "label": ["cat", None, "dog"]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.warns(
        UserWarning, match=r"train\.parquet: 2 of the 3 rows of its split hold no image or video, such as "
    ):
        media = read_media(tmp_path, modality="image", split="train")
    assert (media.files, media.classes) == ((f"{tmp_path}/train.parquet/000002.png",), ("dog",))
    assert (media.missing, read_member(media.files[0])) == (2, b"x")


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(2),  # which only Hugging Face's features tell from others
        pa.array([None, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array([{"bytes": None, "path": "a.png"}] * 2),
        pa.array([{"bytes": None, "path": "a.png"}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
)
def test_parquet_with_nothing_but_nulls_is_refused(tmp_path, column):
    metadata = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
    table = pa.table({"image": column, "label": ["cat", "dog"]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train\.parquet: there is no image or video in any of the 2 rows"):
        read_media(tmp_path, modality="image", split="train")


@pytest.mark.parametrize("names", [["image", "label", "label"], ["image", "image", "label"]])
def test_columns_of_parquet_have_one_name_each(tmp_path, names):
    columns = {"image": pa.array([{"bytes": b"x", "path": "a.png"}]), "label": pa.array(["cat"])}
    pq.write_table(pa.Table.from_arrays([columns[name] for name in names], names=names), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"train\.parquet: it has the column '{names[1]}' more than once"):
        read_media(tmp_path, modality="image", split="train")


def test_parquet_files_of_a_split_have_the_same_classes(tmp_path):
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        write_table(tmp_path / f"train-{number}-of-2.parquet", [0, 1], names)
    with pytest.raises(
        ValueError, match=r"train-1-of-2\.parquet: its features name other classes than those of .*-0-of"
    ):
        read_media(tmp_path, modality="image", split="train")


def test_what_is_no_table_of_media_leaves_folders_of_classes_alone(tmp_path, monkeypatch):
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png", tmp_path / "embeddings.parquet")
    (tmp_path / "spark.parquet").mkdir()
    (tmp_path / "spark.parquet" / ".crc").touch()

    def read_plainly():
        with pytest.warns(UserWarning, match="Parquet files that cannot be read are left out"):
            return find_layout(tmp_path)

    assert read_plainly() is None
    with pytest.raises(ValueError, match=r"embeddings\.parquet: no Parquet file that can be read"):
        find_layout(f"hf:{tmp_path}")
    for metadata in ({"info": None}, {"info": {"features": None}}, 5):
        write_table(tmp_path / "embeddings.parquet", [0], metadata=metadata)
        with pytest.raises(ValueError, match=r"embeddings\.parquet: its metadata of Hugging Face must be an object"):
            find_layout(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert read_plainly() is None


def test_hugging_face_parquet(tmp_path):
    pictures = [np.full((4, 6, 3), 40 * number, np.uint8) for number in range(5)]
    entries = []
    for number, picture in enumerate(pictures):
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "PNG")
        entries.append({"bytes": data.getvalue(), "path": f"{number}.png" if number else None})
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    kind = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())])
    kind = kind.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "data").mkdir()
    paths = [tmp_path / "data" / f"train-0000{part}-of-00002.parquet" for part in (0, 1)]
    for path, rows in zip(paths, (slice(0, 3), slice(3, 5)), strict=True):
        table = pa.Table.from_pydict({"image": entries[rows], "label": [1, 0, 1, 1, 0][rows]}, kind)
        pq.write_table(table, path, row_group_size=2)
    assert splits(tmp_path) == ["train"]
    media = read_media(tmp_path, modality="image", split="train")
    assert (media.classes, media.labels) == (("cat", "dog"), (1, 0, 1, 1, 0))
    assert media.files[0] == f"{paths[0]}/000000.png"
    assert modalities_in(tmp_path, "train") == ("image",)
    for index in (4, 0, 2, 1, 3):
        assert (read_image(media.files[index]) == pictures[index]).all()
    with pytest.raises(MediaError, match=r"000003\.png: the Parquet file has 3 rows"):
        read_image(f"{paths[0]}/000003.png")
    paths[1].write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"00001-of-00002\.parquet: no Parquet file that can be read"):
        read_media(tmp_path, modality="image", split="train")
