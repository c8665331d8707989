"""The index of frames beside a packed video: its text, and frames that are found by it or in spite of it."""

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest
from media import full_decode, write_video

from unidual_zoo.data import MediaSet, read_frames, read_media, shards
from unidual_zoo.data.datasets import load_clips
from unidual_zoo.data.decode import Video
from unidual_zoo.data.frame_text import from_text, to_text
from unidual_zoo.data.packets import FrameIndex
from unidual_zoo.data.packing import Packing, pack


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


@pytest.mark.parametrize(("num_frames", "gop"), [(1, None), (2, None), (3, None), (5, 2)])
def test_the_shortest_videos_and_groups_have_an_index_of_frames(tmp_path, monkeypatch, num_frames, gop):
    old = write_video(tmp_path / "a.avi", num_frames, codec="mpeg4")
    list(pack({"": MediaSet("video", ("a",), (str(old),), (0,))}, tmp_path / "out", Packing(short_side=32, gop=gop)))
    path = read_media(tmp_path / "out", modality="video").files[0]
    (tmp_path / "new.mp4").write_bytes(shards.read_packed(path))
    frames = full_decode(tmp_path / "new.mp4")
    assert len(frames) == num_frames
    monkeypatch.delattr(Video, "_note_packets")
    for number in reversed(range(num_frames)):
        assert (read_frames(path, [number])[0] == frames[number]).all()


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
