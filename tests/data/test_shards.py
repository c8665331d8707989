"""Files packed in shards: read like files, from a disk and by HTTP, and by other programs."""

import gc
import io
import json
import os
import re
import shutil
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from fakes import SPEC, GreyNet, grey_video
from grey_source import CLASSES, packed
from media import write_video

from unidual_zoo.data import MediaError, MediaSet, addresses, probe, read_frames, read_image, read_media, shards
from unidual_zoo.data.datasets import TESTS, find_split, modalities_in, read_splits
from unidual_zoo.data.identity import copies
from unidual_zoo.data.joint import JointDataset, JointLoader, JointSampler
from unidual_zoo.data.packing import Packing, pack
from unidual_zoo.data.transforms import train_transform
from unidual_zoo.evaluation import evaluate


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


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("b.mkv", "libx264"), ("c.mts", "mpeg2video")])
def test_videos_in_shards_are_read_to_the_bit(tmp_path, name, codec):
    old = write_video(tmp_path / name, 12, codec=codec)
    list(pack({"": MediaSet("video", ("a",), (str(old),), (0,))}, tmp_path / "out", Packing()))
    path = read_media(tmp_path / "out", modality="video").files[0]
    assert probe(path) == probe(old)
    assert (read_frames(path, [11, 3, 4]) == read_frames(old, [11, 3, 4])).all()


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
