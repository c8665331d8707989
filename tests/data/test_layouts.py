"""Data sets in the layouts of their makers, made here file by file."""

import json
from pathlib import Path

import pytest

from unidual_zoo.data.datasets import find_split, modalities_in, read_media, splits
from unidual_zoo.training.recipes import DataSettings
from unidual_zoo.training.sources import read_sources

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
        ("train.json", '[{"id": "78687"}]', r"train\.json: needs an id and a template each.*KeyError"),
        ("train.json", '[{"id": 78687, "template": "Eating"}]', "label 'Eating' is not among the 3 classes"),
        ("labels.json", '{"a": "b"}', r"labels\.json a number"),
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


def test_lists_of_ones_own_are_no_kinetics(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "train.csv", "path,label", "a.mp4,jumping")
    assert read_media(tmp_path, modality="video", split="train").classes == ("jumping",)
