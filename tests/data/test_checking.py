"""A check finds what was broken on purpose, says so to people and programs, and goes on where it was stopped."""

import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media import overwrite, remux, scene, write_sound, write_video
from PIL import Image

from unidual_zoo.data.checking import CheckSettings, Entry, check, check_data, check_entries, duplicates, find_entries
from unidual_zoo.data.checking.report import histogram, most_common
from unidual_zoo.data.datasets import read_media, read_splits
from unidual_zoo.data.decode import Video
from unidual_zoo.data.packing import Packing, pack
from unidual_zoo.data.skipping import read_skip_list

SETTINGS = CheckSettings(workers=1, file_seconds=20)
INJECTED = '<img src=x onerror="alert(1)">&\u202e'


def soft(seed: int, height: int = 96, width: int = 128) -> Image.Image:
    """A picture as photos are: few and large shapes."""
    shapes = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images in train and test: whole ones, broken ones, and one in three copies."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        for label in ("cat", INJECTED):
            (folder / split / label).mkdir(parents=True)
    for number, place in enumerate(("train/cat", f"train/{INJECTED}", "test/cat", f"test/{INJECTED}")):
        soft(number).save(folder / place / "whole.png")
    train, test = folder / "train/cat", folder / "test/cat"
    soft(7).save(test / "seven.jpg", quality=90)
    (train / "copy.jpg").write_bytes((test / "seven.jpg").read_bytes())
    soft(7).resize((64, 48)).save(train / "small.jpg", quality=85)
    data = (test / "seven.jpg").read_bytes()
    (train / "cut.jpg").write_bytes(data[: len(data) // 2])
    (train / f"text{INJECTED.replace('/', '')}\n.jpg").write_text("no picture")
    Image.new("RGB", (40, 30), (9, 9, 9)).save(train / "black.png")
    return folder


@pytest.fixture(scope="module")
def checked(data, tmp_path_factory):
    """(the report, the folder in which it lies)."""
    out = tmp_path_factory.mktemp("out")
    return check_data(data, out, settings=SETTINGS), out


def test_every_fault_has_its_reason(checked):
    report, _ = checked
    found = {row["file"]: (row["kind"], row["reason"]) for row in report["faults"]}
    assert {name: kind for name, (kind, _) in found.items()} == {
        "train/cat/cut.jpg": "truncated",
        f"train/cat/text{INJECTED}\n.jpg": "unreadable",
        "train/cat/black.png": "blank",
    }
    assert "truncated" in found["train/cat/cut.jpg"][1]
    assert "not an image of a known format" in found[f"train/cat/text{INJECTED}\n.jpg"][1]
    assert report["summary"] | {"bytes": 0} == {
        "files": 10, "images": 10, "videos": 0, "bytes": 0, "hours": 0, "unreadable": 1, "truncated": 1, "damaged": 0,
        "too short": 0, "blank": 1, "duplicates across splits": 2, "exact duplicates": 1, "near duplicates": 1,
        "skipped": 5,
    }  # fmt: skip
    cats = {"split": "train", "label": "cat", "modality": "image", "files": 6, "faults": 3}
    assert cats in report["classes"]


def test_duplicates_across_splits_lose_their_training_files(checked, data):
    report, out = checked
    groups = [(row["kind"], row["across"], {each["file"] for each in row["files"]}) for row in report["duplicates"]]
    assert groups[0] == ("exact", True, {"train/cat/copy.jpg", "test/cat/seven.jpg"})
    assert groups[1][:2] == ("near", True)
    assert "train/cat/small.jpg" in groups[1][2]
    skipped = read_skip_list(out / "skip.txt", data)
    assert skipped[str(data / "train/cat/copy.jpg")] == "exact duplicate of test/cat/seven.jpg, of the split test"
    assert skipped[str(data / "train/cat/small.jpg")].startswith("near duplicate of ")
    assert not any("/test/" in path for path in skipped)
    with pytest.warns(UserWarning, match="leaves out 5 of 7 files"):
        media = read_media(data, modality="image", split="train", skip=out / "skip.txt")
    assert sorted(file.rpartition("/")[2] for file in media.files) == ["whole.png", "whole.png"]


def test_no_name_becomes_markup(checked):
    report, out = checked
    tags, texts = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

        def handle_data(self, data):
            texts.append(data)

    page = (out / "report.html").read_text()
    Reader().feed(page)
    assert not {"img", "script", "a", "iframe", "link"} & {tag for tag, _ in tags}
    assert not [
        name for _, attributes in tags for name in attributes if name.startswith("on") or name in ("src", "href")
    ]
    shown = INJECTED.replace("\u202e", "\\u202e")
    assert any(f"text{shown}\\n.jpg" in text for text in texts)
    assert "\u202e" not in page
    assert re.search(r"content=\"default-src 'none'", page)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))


def test_it_goes_on_where_it_was_stopped(checked, data, tmp_path, monkeypatch):
    report, out = checked
    state = (out / "state.jsonl").read_bytes()
    lines = state.splitlines(keepends=True)
    again = tmp_path / "again"
    again.mkdir()
    (again / "state.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:30])  # killed while it wrote the fifth
    examined = []
    plain = check.read_guarded

    def noting(read, jobs, **limits):
        jobs = list(jobs)
        examined.extend(name for name, _ in jobs)
        return plain(read, jobs, **limits)

    monkeypatch.setattr(check, "read_guarded", noting)
    assert check_data(data, again, settings=SETTINGS) == report
    assert len(examined) == 6
    assert (again / "state.jsonl").read_bytes().startswith(b"".join(lines[:4]) + lines[4][:30] + b"\n{")
    examined.clear()
    assert check_data(data, again, settings=SETTINGS) == report
    assert examined == []


def test_videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "whole.mp4", 30, options={"g": "10", "bf": "0"})
    overwrite(write_video(folder / "damaged.mp4", 30, options={"g": "10", "bf": "0"}, seed=1), 15)
    remux(write_video(tmp_path / "a.mp4", 30, seed=2), folder / "gap.mkv", lambda number, _: not 8 <= number < 12)
    write_video(folder / "short.mp4", 1, seed=3)
    write_sound(folder / "sound.mp4")
    data = write_video(tmp_path / "b.mkv", 60, options={"g": "10"}, seed=4).read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) // 3])
    (folder / "empty.mp4").write_bytes(b"")
    entries = [Entry(path.name, str(path), "video", "x") for path in sorted(folder.iterdir())]
    entries.append(Entry("gone.mp4", str(folder / "gone.mp4"), "video", "x"))
    report = check_entries(entries, tmp_path / "out", title="videos", settings=SETTINGS)
    found = {row["file"]: row["kind"] for row in report["faults"]}
    assert found == {
        "cut.mkv": "truncated", "damaged.mp4": "damaged", "gap.mkv": "damaged", "short.mp4": "too short",
        "sound.mp4": "unreadable", "empty.mp4": "unreadable", "gone.mp4": "unreadable",
    }  # fmt: skip
    sizes = next(row["bars"] for row in report["histograms"] if row["of"] == "width × height")
    assert sizes == [("64×48", 5)]


def test_a_file_that_takes_too_long_is_named_and_tried_again(tmp_path, monkeypatch):
    soft(1).save(tmp_path / "a.png")
    soft(2).save(tmp_path / "b.png")
    entries = find_entries_plainly(tmp_path)

    def slow(name, entry):
        if name == "a.png":
            time.sleep(60)
        return plain(name, entry)

    plain = check.examine
    monkeypatch.setattr(check, "examine", slow)
    report = check_entries(entries, tmp_path / "out", title="x", settings=CheckSettings(workers=2, file_seconds=3))
    (fault,) = report["faults"]
    assert (fault["file"], fault["reason"]) == ("a.png", "reading it took more than 3 seconds and was ended")
    monkeypatch.setattr(check, "examine", plain)
    assert not check_entries(entries, tmp_path / "out", title="x", settings=SETTINGS)["faults"]


def find_entries_plainly(folder):
    with pytest.warns(UserWarning, match="checked as a plain folder, .* as a data set it would be refused"):
        return find_entries(folder)


def test_entries_of_folders_and_lists(tmp_path):
    for name in ("train/cat/1.png", "val/cat/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        soft(0).save(tmp_path / name)
    (tmp_path / "all.csv").write_text("path,label,split\ntrain/cat/1.png,cat,train\ngone.mp4,dog,val\n")
    assert [(entry.name, entry.label, entry.split) for entry in find_entries(tmp_path)] == [
        ("train/cat/1.png", "cat", "train"), ("val/cat/2.png", "cat", "val"),
    ]  # fmt: skip
    listed = [(entry.name, entry.modality, entry.split) for entry in find_entries(tmp_path / "all.csv")]
    assert listed == [("train/cat/1.png", "image", "train"), ("gone.mp4", "video", "val")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images or videos"):
        find_entries(tmp_path / "empty")


def test_files_in_shards_and_tables_are_checked(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "in" / split / "cat").mkdir(parents=True)
        soft(3).save(tmp_path / "in" / split / "cat" / "a.png")
    data = (tmp_path / "in" / "test" / "cat" / "a.png").read_bytes()
    list(pack(read_splits(tmp_path / "in"), tmp_path / "shards", Packing()))
    (tmp_path / "table").mkdir()
    table = pa.table({"image": [{"bytes": data, "path": "a.png"}, {"bytes": b"no", "path": "b.png"}], "label": [0, 1]})
    pq.write_table(table, tmp_path / "table" / "train.parquet")
    report = check_data(f"shards:{tmp_path / 'shards'}", tmp_path / "out", settings=SETTINGS)
    summary = {name: report["summary"][name] for name in ("files", "bytes", "unreadable", "exact duplicates")}
    assert summary == {"files": 2, "bytes": 2 * len(data), "unreadable": 0, "exact duplicates": 1}
    with pytest.warns(UserWarning, match="leaves out 0 of 1 file of its split 'test'"):
        read_media(tmp_path / "shards", modality="image", split="test", skip=tmp_path / "out" / "skip.txt")
    with (
        pytest.warns(UserWarning, match="leaves out 1 of 1 file of its split 'train'"),
        pytest.raises(ValueError, match="lists no image"),
    ):
        read_media(tmp_path / "shards", modality="image", split="train", skip=tmp_path / "out" / "skip.txt")
    report = check_data(tmp_path / "table", tmp_path / "out2", settings=SETTINGS)
    assert [(row["file"], row["kind"]) for row in report["faults"]] == [("train.parquet/000001.png", "unreadable")]


def test_a_survey_decodes_everything(tmp_path):
    path = write_video(tmp_path / "a.mp4", 8, options={"g": "4"})
    with Video(path, strict=True) as video:
        pictures = video.survey(4, side=8)
        assert (pictures.shape, pictures.dtype, video.codec) == ((4, 8, 8), np.uint8, "h264")
    expected = (scene(8)[[1, 3, 5, 7]] @ np.array([0.299, 0.587, 0.114])).reshape(4, 8, 6, 8, 8).mean((2, 4))
    assert np.abs(pictures - expected).mean() < 8


def test_near_duplicates_by_hand():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (2, 16, 16)).astype(np.uint8) for _ in range(30)]
    flat = np.full((2, 16, 16), 90, np.uint8)
    brighter = (pictures[3] * 0.9 + 20).astype(np.uint8)
    one_differs = np.stack([pictures[4][0], pictures[5][1]])
    found = duplicates.near_duplicates([*pictures, brighter, flat, flat, None, one_differs, pictures[7][:1]])
    assert found == [[3, 30]]
    assert duplicates.exact_duplicates(["a", "b", None, "a", None]) == [[0, 3]]


def test_histograms():
    assert histogram([3.0, 3.0]) == [("3–6", 2)]
    assert histogram([0, 1, 1.5, 24]) == [("0–2", 3), *((f"{i}–{i + 2}", 0) for i in range(2, 24, 2)), ("24–26", 1)]
    assert most_common(["b", *"aa"]) == [("a", 2), ("b", 1)]
    assert most_common([str(i) for i in range(14)])[-1] == ("2 others", 2)
