"""Packing files: what it leaves as it is and what it makes smaller, where it goes on, and what it refuses."""

import errno
import json
import multiprocessing
import os
import re
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grey_source import CLASSES, packed
from media import full_decode, write_video
from PIL import Image

from unidual_zoo import progress
from unidual_zoo.data import MediaSet, packing, probe, read_frames, read_image, read_media, shards
from unidual_zoo.data.datasets import read_splits
from unidual_zoo.data.packing import Packing, check_outside, end_with_parent, pack


def test_groups_and_several_labels_are_packed(source, tmp_path):
    files = tuple(sorted(map(str, source.glob("train/*/*.png"))))[:2]
    media = MediaSet("image", CLASSES, files, (0, 1), groups=("g", ""), others=((2,), ()))
    list(pack({"": media}, tmp_path / "out", Packing()))
    found = read_media(tmp_path / "out", modality="image")
    assert (found.groups, found.others, found.labels) == (media.groups, media.others, media.labels)
    assert read_splits(tmp_path / "out") == {"": found}


def test_packing_goes_on_where_it_was_stopped(source, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    packed(source, whole, per_shard=2)
    steps = pack(read_splits(source), out, Packing(per_shard=2))
    next(steps)
    next(steps)
    steps.close()
    with pytest.raises(
        ValueError, match="out is an unfinished `unidual pack`: the same command that began it goes on"
    ):  # it is no data set yet
        read_media(out, modality="image", split="train")
    (out / "train-000001.tar").write_bytes(b"cut")
    (out / ".train-000002.tar.0123.partial").touch()
    assert packed(source, out, per_shard=2).kept == 1
    assert packed(source, out, per_shard=2).kept == 5
    files = sorted(path.name for path in whole.iterdir())
    assert files == sorted(path.name for path in out.iterdir())
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in files)
    with pytest.raises(ValueError, match=r"out holds another packing, with other per_shard: choose a new folder"):
        packed(source, out, per_shard=3)
    with pytest.raises(ValueError, match="source is not empty, and holds no packing that could go on"):
        packed(source, source)


def test_another_packing_may_begin_where_one_was_stopped_before_its_first_shard(source, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    def no_locks(_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_write_shard", stopped)
        with pytest.raises(KeyboardInterrupt):
            packed(source, tmp_path / "out", per_shard=3)
        patch.setattr("unidual_zoo.lock._lock", no_locks)  # so that it may be at work
        with pytest.warns(UserWarning, match="without locks"), pytest.raises(ValueError, match="with other per_shard"):
            packed(source, tmp_path / "out", per_shard=2)
    assert packed(source, tmp_path / "out", per_shard=2).kept == 0
    assert read_splits(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / packing.PLAN).write_text('{"socks": 2}')
    with pytest.raises(ValueError, match=r"packing.json is of no packing: choose a new folder"):
        packed(source, tmp_path / "mine", per_shard=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_files(source, tmp_path, monkeypatch, capsys, workers):
    packed(source, tmp_path / "out", per_shard=7)
    (tmp_path / "out" / "train-000000.tar").unlink()
    assert capsys.readouterr().err == ""  # none was asked for
    prepare, begun, heard = packing.prepare, [], threading.Event()

    class Heard(progress.Progress):
        def update(self, n=1):
            if n:
                heard.set()
            return super().update(n)

    def late(*arguments):
        """Reads the last file when the bar has heard of another."""
        begun.append(arguments)
        assert len(begun) < 7 or heard.wait(20)
        return prepare(*arguments)

    monkeypatch.setattr(packing, "Progress", Heard)
    monkeypatch.setattr(packing, "prepare", late)
    monkeypatch.setattr(packing, "TICK", 0.001)
    monkeypatch.setattr(packing, "ProcessPoolExecutor", lambda n, mp_context, **more: ThreadPoolExecutor(n, **more))
    monkeypatch.setattr(progress, "LOG_SECONDS", -1.0)
    steps = pack(read_splits(source), tmp_path / "out", Packing(per_shard=7), workers=workers, progress=True)
    assert [step.kept for step in steps] == [0, 1]
    lines = capsys.readouterr().err.splitlines()
    counts = [int(re.fullmatch(r"packing: +\d+% (\d)/8 \[.*file.*\]", line)[1]) for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == 8
    assert {2, 3, 4, 5, 6, 7} & {*counts}  # of which the shard tells while it is written
    assert workers > 1 or counts == [2, 3, 4, 5, 6, 7, 8]  # the one that was there is none that was done now


@pytest.mark.parametrize(
    "damage",
    [
        "", "{}", '{"bytes": 10240}', '{"bytes": 10240, "members": [], "failures": 0}',
        '{"bytes": 10240, "members": [], "failures": [], "encoded": "1"}',
    ],
)  # fmt: skip
def test_a_shard_with_a_damaged_index_is_packed_again(source, tmp_path, damage):
    packed(source, tmp_path / "out", per_shard=4)
    index = tmp_path / "out" / "train-000001.json"
    whole = index.read_bytes()
    index.write_text(damage)
    assert packed(source, tmp_path / "out", per_shard=4).kept == 2
    assert index.read_bytes() == whole


def test_packing_goes_on_however_the_source_is_spelled(source, tmp_path, monkeypatch):
    packed(source, tmp_path / "out", per_shard=4)
    monkeypatch.chdir(source / "train")
    assert packed("..", tmp_path / "out", per_shard=4).kept == 3
    (source / "val" / CLASSES[1] / "a.png").rename(source / "val" / CLASSES[1] / "b.png")
    with pytest.raises(ValueError, match="out holds another packing, with other files"):
        packed("..", tmp_path / "out", per_shard=4)


def test_two_packings_do_not_mix(source, tmp_path):
    first = pack(read_splits(source), tmp_path / "out", Packing(per_shard=2))
    next(first)
    with pytest.raises(ValueError, match=r"out: another process packs there"):
        packed(source, tmp_path / "out", per_shard=2)
    assert len(list(first)) == 4
    assert packed(source, tmp_path / "out", per_shard=2).kept == 5


def test_shards_do_not_lie_among_the_classes(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    for folder in (source / "train" / "out", tmp_path / "link" / "out", source):
        with pytest.raises(ValueError, match="which is packed: choose a folder elsewhere"):
            check_outside(source, folder)
    check_outside(source, tmp_path / "source-out")
    packed(source, tmp_path / "out")
    check_outside(tmp_path / "out", tmp_path / "out" / "again")  # of a layout it is known which files are its own


def test_a_full_disk_is_told_with_the_shard(source, tmp_path):
    resource = pytest.importorskip("resource")
    before, answer = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=r"out/train-000000\.tar") as error:
            packed(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, answer)
    assert error.value.errno == errno.EFBIG
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["packing.json"]
    assert packed(source, tmp_path / "out").splits["train"]["files"] == 7


def hold(writing):
    end_with_parent()
    os.write(writing, b"x")
    time.sleep(60)


def begin(writing):
    multiprocessing.get_context("fork").Process(target=hold, args=(writing,)).start()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_worker_ends_when_its_parent_is_killed():
    reading, writing = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=begin, args=(writing,))
    parent.start()
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    parent.kill()
    parent.join()
    assert select.select([reading], [], [], 10)[0]
    assert os.read(reading, 1) == b""  # nobody holds it any more
    os.close(reading)


def test_files_that_cannot_be_read_are_named(source, tmp_path):
    (source / "train" / CLASSES[0] / "3.png").write_bytes(b"")
    result = packed(source, tmp_path / "out", per_shard=4)
    assert (result.splits["train"]["files"], len(result.failures)) == (6, 1)
    assert result.failures[0] == {
        "file": str(source / "train" / CLASSES[0] / "3.png"),
        "error": "it is empty (0 bytes)",
    }
    assert len(read_media(tmp_path / "out", modality="image", split="train")) == 6


def test_files_of_which_reading_warns_are_named_in_the_result_and_in_the_shards(tmp_path):
    files = [write_video(tmp_path / name, 12, codec="mpeg4") for name in ("a.avi", "b.avi")]
    files[1].write_bytes(files[1].read_bytes()[:-500])
    media = MediaSet("video", ("a",), tuple(map(str, files)), (0, 0))
    warned = [{"file": str(files[1]), "warning": "it has 1 damaged frame"}]
    for kept in (0, 1):
        *_, result = pack({"": media}, tmp_path / "out", Packing(short_side=32))
        assert result.to_dict() | {"splits": {}} == {
            "splits": {}, "failed": 0, "failures": [], "warned": 1, "warnings": warned, "kept": kept,
        }  # fmt: skip
    manifest = json.loads((tmp_path / "out" / "shards.json").read_bytes())
    assert (manifest["failed"], manifest["warned"], manifest["warnings"]) == (0, 1, warned)
    whole, cut = read_media(tmp_path / "out", modality="video").files
    assert (probe(whole).frames, probe(cut).frames) == (12, 7)  # which read without a warning
    *_, result = pack({"": media}, tmp_path / "untouched", Packing())
    assert result.warnings == []  # these bytes will warn whoever reads them


def test_videos_are_encoded_anew(tmp_path):
    old = write_video(tmp_path / "a.avi", 12, size=(96, 128), codec="mpeg4")
    media = MediaSet("video", ("a",), (str(old),), (0,))
    (done,) = pack({"": media}, tmp_path / "out", Packing(short_side=49, gop=4))
    assert done.splits[""] == {
        "files": 1, "encoded": 1, "source_bytes": old.stat().st_size, "shards": 1,
        "bytes": (tmp_path / "out" / "all-000000.tar").stat().st_size,
    }  # fmt: skip
    path = read_media(tmp_path / "out", modality="video").files[0]
    info = probe(path)
    assert (info.frames, info.width, info.height, info.rate) == (12, 64, 48, 25)
    frames = read_frames(path, range(12))
    expected = read_frames(old, range(12), short_side=48).astype(int)
    apart = [[abs(one - other).mean() for other in expected] for one in frames.astype(int)]
    assert np.argmin(apart, axis=1).tolist() == list(range(12))  # every frame is there, in its place
    (tmp_path / "out.mp4").write_bytes(shards.read_packed(path))
    assert (np.stack(full_decode(tmp_path / "out.mp4")) == frames).all()


def test_images_are_made_smaller(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 20), (200, 0, 0)).save(tmp_path / "in" / "a" / "large.png")
    Image.new("RGB", (12, 10)).save(tmp_path / "in" / "a" / "small.png")
    sizes = [file.stat().st_size for file in (tmp_path / "in" / "a").iterdir()]
    for _ in range(2):  # of shards that are there already the same is told
        whole = packed(tmp_path / "in", tmp_path / "out", short_side=10).splits[""]
        assert (whole["files"], whole["encoded"], whole["source_bytes"]) == (2, 1, sum(sizes))
    large, small = read_media(tmp_path / "out", modality="image").files
    again = packed(tmp_path / "out", tmp_path / "smaller", short_side=8).splits[""]
    assert (again["encoded"], again["source_bytes"]) == (
        2,
        sum(len(shards.read_packed(file)) for file in (large, small)),
    )
    assert read_image(large).shape == (10, 20, 3)
    assert abs(read_image(large).astype(int) - (200, 0, 0)).max() < 4
    assert shards.read_packed(small) == (tmp_path / "in" / "a" / "small.png").read_bytes()
