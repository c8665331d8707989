"""Files packed in shards: read like files, from a disk and by HTTP, and by other programs."""

import base64
import dataclasses
import errno
import gc
import io
import json
import multiprocessing
import os
import re
import select
import shutil
import signal
import threading
import time
import zlib
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from fakes import SPEC, GreyNet, grey_image, grey_video
from media import full_decode, write_video
from PIL import Image

from unidual_zoo.data import MediaError, MediaSet, addresses, probe, read_frames, read_image, read_media, shards
from unidual_zoo.data.datasets import TESTS, find_split, load_clips, modalities_in, read_splits
from unidual_zoo.data.decode import Video
from unidual_zoo.data.frame_text import from_text, to_text
from unidual_zoo.data.identity import copies
from unidual_zoo.data.joint import JointDataset, JointLoader, JointSampler
from unidual_zoo.data.packets import FrameIndex
from unidual_zoo.data.packing import Packing, check_outside, end_with_parent, pack
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.evaluation import evaluate

CLASSES = ("grey 0", "grey 1", "grey 2")


@pytest.fixture
def source(tmp_path):
    """Seven training images of three greys, and a test image."""
    for number in range(7):
        folder = tmp_path / "source" / "train" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        grey_image(folder / f"{number}.png", number % 3)
    (tmp_path / "source" / "val" / CLASSES[1]).mkdir(parents=True)
    grey_image(tmp_path / "source" / "val" / CLASSES[1] / "a.png", 1)
    return tmp_path / "source"


def packed(source, folder, *, workers=1, **packing):
    *_, last = pack(read_splits(source), folder, Packing(**packing), workers=workers)
    return last


def loaded(media, steps, **options):
    data = JointDataset({"t": media}, clip=SPEC.clip, transform=train_transform(SPEC))
    draws = JointSampler({"t": len(media)}, batch_size=3, epoch_size=12, **options)
    loader = JointLoader(data, draws, max_failed=1)
    return loader, loader.batches(0, steps)


def test_a_packed_set_is_the_set(source, tmp_path):
    result = packed(source, tmp_path / "out", per_shard=3)
    assert result.to_dict()["splits"]["train"]["files"] == 7
    assert [result.splits[split]["shards"] for split in ("train", "val")] == [3, 1]
    plain, media = (read_media(place, modality="image", split="train") for place in (source, tmp_path / "out"))
    assert (media.classes, media.labels) == (plain.classes, plain.labels)
    assert len({os.path.dirname(file) for file in media.files}) == 3
    for one, other in zip(plain.files, media.files, strict=True):
        assert shards.read_packed(other) == Path(one).read_bytes()
        assert shards.name_before(other) == "/".join(Path(one).parts[-3:])
        assert shards.name_before(one) == one
    assert modalities_in(tmp_path / "out", "train") == ("image",)
    assert find_split(tmp_path / "out", ("val", "test")) == "val"
    for rank in (0, 1):  # the same batches on every rank
        (_, ones), (_, others) = (loaded(each, 5, rank=rank, world=2) for each in (plain, media))
        for one, other in zip(ones, others, strict=True):
            assert torch.equal(one.data["t"][0], other.data["t"][0])
            assert torch.equal(one.data["t"][1], other.data["t"][1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file open
def test_webdataset_reads_the_shards(source, tmp_path):
    packed(source, tmp_path / "out", per_shard=4)
    paths = sorted(map(str, (tmp_path / "out").glob("train-*.tar")))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))  # pyright: ignore
    assert len({sample["__key__"] for sample in samples}) == 7
    for sample in samples:
        about = json.loads(sample["json"])
        assert CLASSES[int(sample["cls"])] == about["labels"][0] == about["file"].split("/")[1]
        assert sample["png"] == (source / about["file"]).read_bytes()
    assert [sample["cls"] for sample in samples] != sorted(sample["cls"] for sample in samples)  # they are mixed
    del samples
    gc.collect()


def test_groups_and_several_labels_are_packed(source, tmp_path):
    files = tuple(sorted(map(str, source.glob("train/*/*.png"))))[:2]
    media = MediaSet("image", CLASSES, files, (0, 1), groups=("g", ""), others=((2,), ()))
    list(pack({"": media}, tmp_path / "out", Packing()))
    found = read_media(tmp_path / "out", modality="image")
    assert (found.groups, found.others, found.labels) == (media.groups, media.others, media.labels)
    assert read_splits(tmp_path / "out") == {"": found}


def test_shards_without_the_list_of_them_are_known(source, tmp_path):
    """As where the tars alone were copied; beside folders of classes they may lie."""
    packed(source, tmp_path / "out")
    (tmp_path / "out/shards.json").unlink()
    (tmp_path / "out/packing.json").unlink()
    told = r"out holds shards \(train-000000.tar\) and no shards\.json, .*: `unidual pack` writes it last"
    for ask in (partial(find_split, names=TESTS), modalities_in, partial(read_media, modality="image")):
        with pytest.raises(ValueError, match=told):
            ask(tmp_path / "out")
    (tmp_path / "out/train-000000.tar").rename(source / "train/part-000000.tar")
    assert len(read_media(source / "train", modality="image")) == 7


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


def test_copies_are_found_in_shards_and_tables(source, tmp_path):
    packed(source, tmp_path / "out", per_shard=4)
    plain = [str(path) for path in sorted(source.glob("train/*/*.png"))]
    rows = [{"bytes": Path(plain[0]).read_bytes(), "path": None}, {"bytes": None, "path": None}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "test.parquet")
    table = [f"{tmp_path}/test.parquet/{number:06d}.png" for number in (0, 1)]
    train, val = (read_media(tmp_path / "out", modality="image", split=split).files for split in ("train", "val"))
    for path in (tmp_path / "out").glob("*.tar"):
        path.unlink()  # the indices tell
    assert shards.name_before("absent.tar/000000000000.png") == "absent.tar/000000000000.png"
    one = next(file for file in plain if CLASSES[1] in file)
    assert copies(plain, val) == [(val[0], one)]
    assert copies(train, [*table, "absent.tar/000000000000.png"]) == [(table[0], train[0])]


@pytest.mark.parametrize("damage", ["", "{}", '{"bytes": 10240}', '{"bytes": 10240, "members": [], "failures": 0}'])
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


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("b.mkv", "libx264"), ("c.mts", "mpeg2video")])
def test_videos_in_shards_are_read_to_the_bit(tmp_path, name, codec):
    old = write_video(tmp_path / name, 12, codec=codec)
    list(pack({"": MediaSet("video", ("a",), (str(old),), (0,))}, tmp_path / "out", Packing()))
    path = read_media(tmp_path / "out", modality="video").files[0]
    assert probe(path) == probe(old)
    assert (read_frames(path, [11, 3, 4]) == read_frames(old, [11, 3, 4])).all()


def test_videos_are_encoded_anew(tmp_path):
    old = write_video(tmp_path / "a.avi", 12, size=(96, 128), codec="mpeg4")
    media = MediaSet("video", ("a",), (str(old),), (0,))
    list(pack({"": media}, tmp_path / "out", Packing(short_side=49, gop=4)))
    path = read_media(tmp_path / "out", modality="video").files[0]
    info = probe(path)
    assert (info.frames, info.width, info.height, info.rate) == (12, 64, 48, 25)
    frames = read_frames(path, range(12))
    expected = read_frames(old, range(12), short_side=48).astype(int)
    apart = [[abs(one - other).mean() for other in expected] for one in frames.astype(int)]
    assert np.argmin(apart, axis=1).tolist() == list(range(12))  # every frame is there, in its place
    (tmp_path / "out.mp4").write_bytes(shards.read_packed(path))
    assert (np.stack(full_decode(tmp_path / "out.mp4")) == frames).all()


@pytest.fixture
def film(tmp_path):
    """Packs a video of 40 frames anew -> (its path in the shard, its frames); what the index says of it is changed."""
    old = write_video(tmp_path / "a.avi", 40, codec="mpeg4")
    media = MediaSet("video", ("a",), (str(old),), (0,))

    def make(change=lambda text: text, **packing):
        folder = tmp_path / f"out{packing}"
        list(pack({"": media}, folder, Packing(**packing)))
        index = folder / "all-000000.json"
        about = json.loads(index.read_bytes())
        member = about["members"][0]
        member["frames"] = change(member["frames"])
        index.write_text(json.dumps(about))
        path = read_media(folder, modality="video").files[0]
        (tmp_path / "new.mp4").write_bytes(shards.read_packed(path))
        return path, np.stack(full_decode(tmp_path / "new.mp4"))

    return make


WANTED = ([0], [39], [21, 5], [3, 4, 17, 18, 38], list(range(40)))


@pytest.mark.parametrize("gop", [3, 5, 16, None])
def test_frames_of_a_packed_video_are_found_without_looking_at_all_packets(film, monkeypatch, gop):
    path, frames = film(short_side=32, gop=gop)
    monkeypatch.delattr(Video, "_note_packets")
    monkeypatch.delattr(Video, "_read_from_start")
    for wanted in WANTED:
        assert (read_frames(path, wanted) == frames[wanted]).all()
    with Video(path) as video:  # of which one reads several times, in any order, and all at once
        assert (video.frames, video.rate) == (40, 25)
        for wanted in reversed(WANTED):
            assert (video.read(wanted) == frames[wanted]).all()
        assert video.info().frames == 40
        assert (video.read([22]) == frames[22]).all()


def moved(text, **fields):
    """The text of an index of frames with other fields."""
    return to_text(dataclasses.replace(from_text(text), **fields))


WRONG = {
    "no base64": lambda text: "zz",
    "no numbers": lambda text: base64.b64encode(b"no zlib").decode(),
    "no such key frames": lambda text: moved(text, restarts=[0, 3, 9]),
    "none skippable": lambda text: moved(text, skippable=[False] * 40),
    "other stamps": lambda text: moved(text, pts=[stamp + 7 for stamp in from_text(text).pts]),
    "later frames": lambda text: moved(text, pts=[stamp + 512 for stamp in from_text(text).pts]),
    "half as fast": lambda text: moved(text, pts=[2 * stamp for stamp in from_text(text).pts]),
    "too many": lambda text: moved(text, pts=range(0, 60 * 512, 512), packets=range(60), skippable=[True] * 60),
    "too few": lambda text: moved(
        text, pts=range(0, 20 * 512, 512), packets=range(20), skippable=[True] * 20, restarts=[0, 5, 10, 15]
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_index_of_frames_that_is_wrong_gives_no_wrong_frames(film, wrong):
    path, frames = film(WRONG[wrong], short_side=32, gop=5)
    for wanted in WANTED:
        assert (read_frames(path, wanted) == frames[wanted]).all()
    last = load_clips(path, lambda count, rate: [[count - 1]], lambda x: x)
    assert (last[0].permute(1, 2, 3, 0).numpy() == frames[39:]).all()
    with Video(path) as video:
        with pytest.raises(IndexError, match="frame 41 was asked, but its 40 frames"):
            video.read([41])
        assert video.frames == 40


@pytest.mark.parametrize(
    "numbers", [[], [0, 1, 1, 1], [0, 0, 1, 1, 0, 0], [0, 1, 1, 2, 0, 0, 0], [0, 1, 1, 1, 1, 0, 1]]
)
def test_a_text_that_is_no_index_of_frames_is_refused(numbers):
    text = base64.b64encode(zlib.compress(np.array(numbers, "<i4").tobytes())).decode()
    with pytest.raises(ValueError, match="no index of frames"):
        from_text(text)


def test_frames_at_uneven_steps_have_no_text():
    even = FrameIndex(pts=[5, 8, 11], packets=[0, 2, 1], restarts=[0], restart_pts=[5], skippable=[True] * 3)
    assert from_text(to_text(even)) == even
    assert to_text(dataclasses.replace(even, pts=[5, 8, 12])) is None
    assert to_text(dataclasses.replace(even, skippable=[True, False, True])) is None


def test_images_are_made_smaller(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("RGB", (40, 20), (200, 0, 0)).save(tmp_path / "in" / "a" / "large.png")
    Image.new("RGB", (12, 10)).save(tmp_path / "in" / "a" / "small.png")
    packed(tmp_path / "in", tmp_path / "out", short_side=10)
    large, small = read_media(tmp_path / "out", modality="image").files
    assert read_image(large).shape == (10, 20, 3)
    assert abs(read_image(large).astype(int) - (200, 0, 0)).max() < 4
    assert shards.read_packed(small) == (tmp_path / "in" / "a" / "small.png").read_bytes()


def test_damaged_shards_are_named(source, tmp_path):
    packed(source, tmp_path / "out", per_shard=3)
    media = read_media(tmp_path / "out", modality="image", split="train")
    shard, name = os.path.split(media.files[0])
    offset = json.loads(Path(shard).with_suffix(".json").read_bytes())["members"][int(name[6:12])]["offset"]
    whole = Path(shard).read_bytes()
    Path(shard).write_bytes(whole[: offset + 20] + b"x" + whole[offset + 21 :])
    with pytest.raises(MediaError, match="its checksum is wrong: the shard is damaged") as wrong:
        read_image(media.files[0])
    assert wrong.value.path == media.files[0]
    Path(shard).write_bytes(whole[:-512])
    loader, batches = loaded(media, 6)
    assert all(len(batch.data["t"][1]) == 3 for batch in batches)
    length = f"the shard has {len(whole) - 512:,} bytes, its index says {len(whole):,}"
    assert loader.failed == {shard: length}  # one shard, however many of its files were asked for
    report = evaluate(GreyNet(), media, progress=False)
    lost = [file for file in media.files if os.path.dirname(file) == shard]
    assert [failure["file"] for failure in report.failures] == lost
    assert {failure["error"] for failure in report.failures} == {length}
    assert report.metrics()["top-1"] == pytest.approx(100 * (7 - len(lost)) / 7, abs=1e-3)
    Path(shard).unlink()
    with pytest.raises(MediaError, match="the shard cannot be read"):
        read_image(media.files[0])


class Handler(BaseHTTPRequestHandler):
    """Serves the folder `root`, in parts if `parts`; what `faults` are left are answered with 503."""

    root, parts, faults = Path(), True, 0

    def do_GET(self):
        path, cls = self.root / self.path.lstrip("/"), type(self)
        if cls.faults or not path.is_file():
            status, cls.faults = (503 if cls.faults else 404), max(0, cls.faults - 1)
            self.send_error(status)
            return
        data, asked = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.parts:
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206 if asked and self.parts else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setattr(addresses, "FIRST_WAIT", 0)
    handler = type("Served", (Handler,), {"root": tmp_path / "out"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def test_what_comes_by_http_may_be_kept(source, tmp_path, address, monkeypatch):
    url, _ = address
    monkeypatch.setenv("UNIDUAL_SHARD_CACHE", str(tmp_path / "cache"))
    packed(source, tmp_path / "out")
    one, other, *_ = read_media(url, modality="image", split="train").files
    pictures = [shards.read_packed(file) for file in (one, other)]
    kept = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(kept) == len({*pictures})
    os.remove(tmp_path / "out" / "train-000000.tar")
    assert [shards.read_packed(file) for file in (one, other)] == pictures
    for path in kept:
        path.write_bytes(b"other bytes")
    with pytest.raises(MediaError, match="HTTP 404"):
        shards.read_packed(one)


def test_shards_are_read_by_http(source, tmp_path, address):
    url, handler = address
    packed(source, tmp_path / "out", per_shard=3)
    media = read_media(url, modality="image", split=find_split(url, ("train",)))
    local = read_media(tmp_path / "out", modality="image", split="train")
    assert (media.labels, media.fingerprint()) == (local.labels, local.fingerprint())
    handler.faults = 2
    for one, other in zip(media.files, local.files, strict=True):
        assert (read_image(one) == read_image(other)).all()
    assert handler.faults == 0
    list_of_one = tmp_path / "list.csv"
    list_of_one.write_text(f"path,label\n{media.files[0]},a\n")
    assert read_media(list_of_one, modality="image").files == media.files[:1]
    handler.parts = False
    with pytest.raises(MediaError, match="the server gives no parts of files"):
        read_image(media.files[0])
    handler.parts, shard = True, os.path.dirname(local.files[0])
    os.truncate(shard, 700)
    with pytest.raises(MediaError, match="the shard"):
        read_image(media.files[0])
    os.remove(shard)
    with pytest.raises(MediaError, match=r"train-\d+\.tar: the shard cannot be read \(HTTP 404 Not Found\)"):
        read_image(media.files[0])
    with pytest.raises(ValueError, match=r"none/shards\.json: no JSON that can be read \(HTTP 404"):
        read_media(f"{url}/none", modality="image", split="train")


def test_a_file_is_read_in_as_many_parts_as_the_system_gives(source, tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def read(self, size=-1):
            return super().read(min(size, 7))

    packed(source, tmp_path / "out")
    path = read_media(tmp_path / "out", modality="image", split="val").files[0]
    monkeypatch.setattr(shards, "open", lambda path, *_, **__: Slow(path), raising=False)
    assert shards.read_packed(path) == (source / "val" / CLASSES[1] / "a.png").read_bytes()


@pytest.mark.parametrize(("field", "value"), [("size", -1), ("size", 2**62), ("offset", -512), ("offset", 10**6)])
def test_an_index_points_into_its_shard(source, tmp_path, field, value):
    packed(source, tmp_path / "out")
    path = tmp_path / "out" / "val-000000.json"
    about = json.loads(path.read_bytes())
    about["members"][0][field] = value
    path.write_text(json.dumps(about))
    file = read_media(tmp_path / "out", modality="image", split="val").files[0]
    with pytest.raises(MediaError, match=r"val-000000\.tar: its index points outside of it"):
        read_image(file)


def test_damaged_lists_are_refused_by_name(source, tmp_path):
    packed(source, tmp_path / "out")
    index = tmp_path / "out" / "val-000000.json"
    about = json.loads(index.read_bytes())
    wrong = {"size": 2**70, "offset": 1.5, "place": "3", "labels": "zz", "group": None, "name": "../000000000000.png"}
    broken = [about | {"members": [about["members"][0] | {field: value}]} for field, value in wrong.items()]
    member = about["members"][0]
    broken += [about | {"members": [member | {"labels": [1]}]}, about | {"members": [5]}, about | {"members": None}]
    for found in [*broken, {}, about | {"bytes": "9"}]:
        index.write_text(json.dumps(found))
        with pytest.raises(ValueError, match=r"val-000000\.json: not the index of a shard"):
            read_media(tmp_path / "out", modality="image", split="val")
    manifest = tmp_path / "out" / "shards.json"
    about = json.loads(manifest.read_bytes())
    val = about["splits"]["val"]
    for splits in (None, [], {"val": {}}, {"val": val | {"classes": [1]}}, {"val": val | {"shards": ["../x.tar"]}}):
        manifest.write_text(json.dumps(about | {"splits": splits}))
        with pytest.raises(ValueError, match=r"out/shards\.json: "):
            read_media(tmp_path / "out", modality="image", split="val")


def test_wrong_indices_are_refused(source, tmp_path):
    packed(source, tmp_path / "out")
    index = tmp_path / "out" / "train-000000.json"
    index.write_text('{"bytes": 3, "members": [{"offset": 1}]}')
    with pytest.raises(ValueError, match=r"train-000000\.json: not the index of a shard \(KeyError"):
        read_media(tmp_path / "out", modality="image", split="train")
    index.unlink()
    with pytest.raises(ValueError, match=r"train-000000\.json: no JSON that can be read"):
        read_media(tmp_path / "out", modality="image", split="train")
    (tmp_path / "out" / "shards.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"shards\.json: needs the format 'unidual-shards-1', got 'other'"):
        read_media(tmp_path / "out", modality="image", split="train")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files under /proc")
def test_no_file_is_left_open(source, tmp_path):
    (tmp_path / "films" / "a").mkdir(parents=True)
    grey_video(tmp_path / "films" / "a" / "a.mp4", [1] * 4)
    (tmp_path / "films" / "a" / "b.mp4").write_bytes(b"no video")
    packed(source, tmp_path / "out", per_shard=3)
    packed(tmp_path / "films", tmp_path / "out2")
    shutil.copytree(tmp_path / "out", tmp_path / "cut")
    for path in (tmp_path / "cut").glob("*.tar"):
        os.truncate(path, 700)
    files = [file for place in ("out", "cut") for file in read_splits(tmp_path / place)["train"].files]
    (source / "broken.png").write_bytes(b"no picture")
    files += [str(source / "broken.png"), *read_splits(tmp_path / "out2")[""].files]

    def read_all():
        failed = 0
        for file in files:
            try:
                read_frames(file, [1]) if file.endswith(".mp4") else read_image(file)
            except MediaError:
                failed += 1
        return failed

    assert read_all() == 7 + 1 + 1
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()  # nothing may wait for the collector of cycles
    try:
        for _ in range(20):
            read_all()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
