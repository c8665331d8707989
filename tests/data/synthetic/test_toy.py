"""The embedded data: real files, the same bytes from the same seed, complete or absent."""

import threading
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from unidual_zoo import progress
from unidual_zoo.data import probe, read_media
from unidual_zoo.data.synthetic import toy
from unidual_zoo.data.synthetic.motion import MOTIONS
from unidual_zoo.data.synthetic.scenes import OBJECTS
from unidual_zoo.spec import packaged_classes


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """23 training images and 13 test videos, drawn once for the tests that only look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIDUAL_CACHE", str(tmp_path_factory.mktemp("toy")))
        return toy.images("train", count=23), toy.videos("test", count=13)


def _bytes(media):
    return {Path(*Path(file).parts[-2:]): Path(file).read_bytes() for file in media.files}


def test_classes_are_those_that_can_be_drawn():
    assert packaged_classes("toy_objects") == tuple(OBJECTS)
    assert packaged_classes("toy_actions") == tuple(toy.ACTIONS)
    assert {name for name, _ in toy.ACTIONS.values()} == set(OBJECTS)
    assert {motion for _, motions in toy.ACTIONS.values() for motion in motions} | set(toy.CAMERAS) <= set(MOTIONS)
    assert all(Path(name).name == name for name in toy.ACTIONS)


def test_media_sets_are_balanced_and_labelled_by_folder(made):
    for media, task, count in zip(made, ("toy_objects", "toy_actions"), (23, 13), strict=True):
        assert len(media) == count
        assert media.classes == packaged_classes(task)
        assert max(Counter(media.labels).values()) - min(Counter(media.labels).values()) == 1
        folders = [Path(file).parent.name for file in media.files]
        assert folders == [media.classes[label] for label in media.labels]
        assert Path(media.files[0]).parts[-4] == f"{task}-{count}"


def test_images_are_jpeg_files_of_the_promised_sizes(made):
    sizes = set()
    for file in made[0].files:
        with Image.open(file) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add((image.height, image.width))
    assert sizes <= set(toy.SIZES)
    assert len(sizes) > 2


def test_videos_are_h264_files_with_b_frames_and_several_key_frames(made):
    for file in made[1].files:
        info = probe(file)
        assert toy.NUM_FRAMES[0] <= info.frames <= toy.NUM_FRAMES[1]
        assert (info.height, info.width) in toy.SIZES
        assert info.rate == toy.RATE
        with av.open(str(file), "r") as container:
            frames = list(container.decode(video=0))
            assert container.streams.video[0].codec_context.name == "h264"
        assert len(frames) == info.frames
        assert frames[0].format.name == "yuv420p"
        assert sum(frame.key_frame for frame in frames) >= 2
    assert len({probe(file).frames for file in made[1].files}) > 3
    assert _has_b_frames(made[1].files[0])


def _has_b_frames(file):
    with av.open(str(file), "r") as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    return stamps != sorted(stamps)


def test_the_same_seed_gives_the_same_bytes_for_any_count_and_workers(cache, made):
    images, videos = toy.images("train", count=11, workers=1), toy.videos("test", count=3, workers=3)
    for few, many in ((images, made[0]), (videos, made[1])):
        few, many = _bytes(few), _bytes(many)
        assert set(few) <= set(many)
        assert all(few[name] == many[name] for name in few)


def test_splits_and_seeds_share_no_file(cache):
    sets = [toy.images("train", count=4), toy.images("test", count=4), toy.images("test", count=4, seed=1)]
    contents = [content for media in sets for content in _bytes(media).values()]
    assert len(set(contents)) == 12


@pytest.mark.parametrize(
    ("action", "axis", "sign"),
    [("fish swimming left", 1, -1), ("fish swimming right", 1, 1), ("umbrella falling", 0, 1)],
)
def test_objects_move_as_their_class_says(action, axis, sign, monkeypatch):
    monkeypatch.setattr(toy, "CAMERAS", ("still",))
    monkeypatch.setattr(toy, "draw_background", lambda size, rng: np.zeros((*size, 3), np.uint8))
    monkeypatch.setattr(toy, "draw_clutter", lambda size, num_shapes, rng: np.zeros((*size, 4), np.uint8))
    for seed in range(4):
        clip = toy.draw_video(action, rng=np.random.default_rng(seed))
        lit = (clip.max(-1) > 60).astype(float)
        centre = [(frame.sum(1 - axis) @ np.arange(frame.shape[axis])) / frame.sum() for frame in lit]
        assert sign * (np.mean(centre[-10:]) - np.mean(centre[:10])) > 10


def test_most_of_what_moves_sideways_faces_the_way_it_goes(monkeypatch):
    facings = []
    draw_object = toy.draw_object
    monkeypatch.setattr(toy, "draw_object", lambda *a, **k: facings.append(k["facing"]) or draw_object(*a, **k))
    for seed in range(100):
        toy._scene(
            "fish", motion="move right", side=(0.3, 0.3), tilt=0, clutter=(0, 0), rng=np.random.default_rng(seed)
        )
    assert 65 <= facings.count("right") <= 85


def test_cached_files_are_read_and_not_drawn_again(cache, monkeypatch, capfd):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    first = toy.images("test", count=3)
    assert "drawing toy_objects/test" in capfd.readouterr().err
    monkeypatch.setattr(toy, "_write", None)
    assert toy.images("test", count=3) == first
    assert capfd.readouterr() == ("", "")


def test_the_cache_is_named_by_version_seed_and_size(cache, monkeypatch):
    assert toy.task_folder("toy_objects", split="train") == cache / f"toy-v{toy.VERSION}-seed0" / "toy_objects"
    folders = {toy.task_folder("toy_actions", split="test", count=n, seed=s) for n in (None, 500, 7) for s in (0, 1)}
    assert len(folders) == 4
    monkeypatch.delenv("UNIDUAL_CACHE")
    monkeypatch.setenv("HOME", str(cache))
    assert toy.cache_folder() == cache / ".cache" / "unidual-zoo"


def test_an_interrupted_build_leaves_nothing_behind(cache, monkeypatch):
    write = toy._write

    def stop_at_the_third(stem, **arguments):
        if stem.name == "00002":
            raise KeyboardInterrupt
        write(stem, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(toy, "_write", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            toy.images("test", count=5, workers=1)
    folder = toy.task_folder("toy_objects", split="test", count=5)
    assert list(folder.iterdir()) == []
    assert len(toy.images("test", count=5)) == 5
    assert [path.name for path in folder.iterdir()] == ["test"]


def test_the_half_folder_of_a_killed_build_is_not_taken_for_complete(cache):
    folder = toy.task_folder("toy_objects", split="test", count=5)
    half = folder / ".test-killed" / "test" / "bird"
    half.mkdir(parents=True)
    (half / "00000.jpg").write_bytes(b"half a file")
    media = toy.images("test", count=5)
    assert len(media) == 5
    assert not any(".test-killed" in file for file in media.files)


def test_two_builds_at_once_agree(cache):
    sets, gate = [], threading.Barrier(2)

    def build():
        gate.wait()
        sets.append(toy.images("test", count=12, workers=1))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sets[0] == sets[1]
    assert len(sets[0]) == 12
    assert [path.name for path in Path(sets[0].files[0]).parents[2].iterdir()] == ["test"]


def test_a_finished_folder_of_another_process_stays(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    toy._move(mine, theirs)
    assert (theirs / "file").read_text() == "theirs"
    with pytest.raises(OSError, match="nowhere"):
        toy._move(mine, tmp_path / "nowhere" / "train")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: toy.images("val"),
            "no embedded data 'toy_objects' 'val', allowed: toy_objects, toy_actions; train, test",
        ),
        (lambda: toy.videos("test", count=0), "1 file or more, got count 0"),
        (lambda: toy.task_folder("toys", split="test"), "no embedded data 'toys' 'test'"),
    ],
)
def test_bad_arguments_are_named(call, message, cache):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_encoder_is_named(cache, monkeypatch):
    monkeypatch.setattr(toy, "ENCODER", "libx999")
    with pytest.raises(RuntimeError, match="cannot encode with libx999"):
        toy.videos("test", count=1)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write the embedded data to .*set UNIDUAL_CACHE"):
        toy.images("test", count=1)


def test_lost_files_are_drawn_again(cache, monkeypatch):
    first = toy.images("test", count=40)
    before = _bytes(first)
    files = [Path(file) for file in first.files]
    files[3].unlink()
    files[17].write_bytes(b"")
    for file in files[-4:]:  # all of a class, with its folder
        file.unlink()
    files[-1].parent.rmdir()
    drawn, write = [], toy._write
    monkeypatch.setattr(toy, "_write", lambda stem, **kwargs: drawn.append(stem.name) or write(stem, **kwargs))
    assert toy.images("test", count=40) == first
    assert sorted(drawn) == sorted(file.stem for file in (files[3], files[17], *files[-4:]))
    assert _bytes(first) == before
    folder = toy.task_folder("toy_objects", split="test", count=40)
    assert [path.name for path in folder.iterdir()] == ["test"]


def test_nothing_else_in_the_cache_is_a_sample(cache):
    first = toy.images("test", count=3)
    file = Path(first.files[0])
    file.with_name("copy.jpg").write_bytes(file.read_bytes())
    assert toy.images("test", count=3) == first


def test_a_media_set_is_what_reading_the_folder_gives(made):
    for media, task in zip(made, ("toy_objects", "toy_actions"), strict=True):
        folder = Path(media.files[0]).parents[1]
        assert read_media(folder, modality=media.modality, classes=packaged_classes(task)) == media
