"""Frame numbers of clips, by hand and by invariance."""

import numpy as np
import pytest

from unidual_zoo.data import random_clip, uniform_clips
from unidual_zoo.spec import ClipSpec


def starts(clips):
    return [clip[0] for clip in clips]


def test_clips_that_touch_both_ends():
    clip = ClipSpec(length=8)
    clips = uniform_clips(300, clip, num_clips=10)
    assert starts(clips) == [0, 32, 64, 97, 129, 162, 194, 227, 259, 292]  # floor(i * 292 / 9)
    assert clips[-1] == list(range(292, 300))


def test_clips_at_the_starts_of_equal_intervals_repeat_the_last_frame():
    clips = uniform_clips(100, ClipSpec(length=16, stride=4), num_clips=3, starts="intervals")
    assert starts(clips) == [0, 33, 66]
    assert clips[1] == list(range(33, 94, 4)) == [33 + 4 * i for i in range(16)]
    assert clips[2] == [66, 70, 74, 78, 82, 86, 90, 94, 98, 99, 99, 99, 99, 99, 99, 99]


@pytest.mark.parametrize(("num_frames", "start"), [(61, 0), (62, 0), (63, 1), (100, 19)])
def test_one_clip_lies_in_the_centre(num_frames, start):
    assert starts(uniform_clips(num_frames, ClipSpec(length=16, stride=4), num_clips=1)) == [start]


@pytest.mark.parametrize("how", ["ends", "intervals"])
def test_a_short_video_repeats_its_last_frame(how):
    clips = uniform_clips(3, ClipSpec(length=4, stride=2), num_clips=2, starts=how)
    assert clips[0] == [0, 2, 2, 2]
    assert clips[1] == ([0, 2, 2, 2] if how == "ends" else [1, 2, 2, 2])
    assert uniform_clips(1, ClipSpec(length=2), num_clips=2, starts=how) == [[0, 0], [0, 0]]


def test_resampling_takes_the_floor():
    clip = ClipSpec(length=4, rate=15)
    assert uniform_clips(60, clip, num_clips=1, rate=30, starts="intervals") == [[0, 2, 4, 6]]
    assert uniform_clips(60, clip, num_clips=1, rate=25, starts="intervals") == [[0, 1, 3, 5]]  # 0, 1.67, 3.33, 5
    assert uniform_clips(60, clip, num_clips=1, rate=10, starts="intervals") == [[0, 0, 1, 2]]  # 0, 0.67, 1.33, 2
    assert uniform_clips(60, ClipSpec(length=3, stride=2, rate=15), num_clips=2, rate=30) == [[0, 4, 8], [50, 54, 58]]


def test_resampling_to_the_same_or_no_rate_changes_nothing():
    for rate in (24000 / 1001, 30000 / 1001, 25.0, 29.53):
        clips = uniform_clips(3000, ClipSpec(length=8, rate=rate), num_clips=7, rate=rate)
        assert clips == uniform_clips(3000, ClipSpec(length=8), num_clips=7)
    assert uniform_clips(90, ClipSpec(length=8, rate=15), num_clips=3) == uniform_clips(90, ClipSpec(), num_clips=3)
    assert uniform_clips(90, ClipSpec(), num_clips=3, rate=30) == uniform_clips(90, ClipSpec(), num_clips=3)


def test_random_clips_cover_every_start_and_stay_inside():
    clip = ClipSpec(length=4, stride=3)
    rng = np.random.default_rng(0)
    clips = [random_clip(14, clip, rng=rng) for _ in range(300)]
    assert {tuple(clip) for clip in clips} == {tuple(range(start, start + 10, 3)) for start in range(5)}
    assert random_clip(2, clip, rng=rng) == [0, 1, 1, 1]
    assert random_clip(1, clip, rng=rng) == [0, 0, 0, 0]


def test_random_clips_of_a_resampled_video_reach_its_end():
    rng = np.random.default_rng(0)
    clips = [random_clip(21, ClipSpec(length=3, rate=10), rate=20, rng=rng) for _ in range(300)]
    assert {tuple(clip) for clip in clips} == {(2 * i, 2 * i + 2, 2 * i + 4) for i in range(9)}


def test_segments_span_the_whole_video():
    clip = ClipSpec(length=4, sampling="segments")
    assert uniform_clips(40, clip, num_clips=1) == [[5, 15, 25, 35]]  # the middle of 0-9, 10-19, 20-29, 30-39
    assert uniform_clips(40, clip, num_clips=2) == [[2, 12, 22, 32], [7, 17, 27, 37]]
    assert uniform_clips(10, clip, num_clips=1) == [[1, 3, 6, 8]]  # 1.25, 3.75, 6.25, 8.75
    assert uniform_clips(3, clip, num_clips=1) == [[0, 1, 1, 2]]  # 0.375, 1.125, 1.875, 2.625
    assert uniform_clips(1, clip, num_clips=2) == [[0, 0, 0, 0]] * 2


def test_segments_know_no_stride_rate_or_starts():
    clip = ClipSpec(length=4, stride=5, rate=10, sampling="segments")
    assert uniform_clips(40, clip, num_clips=1, rate=30, starts="intervals") == [[5, 15, 25, 35]]


def test_segments_as_uniformer_has_them():
    clip = ClipSpec(length=4, sampling="segments")
    two = [[3, 13, 23, 33], [6, 16, 26, 36]]  # of 10 frames from 0, 10, 20, 30, a third and two thirds in
    assert uniform_clips(41, clip, num_clips=2, starts="sparse") == two
    assert uniform_clips(42, clip, num_clips=1, starts="sparse") == [[5, 15, 25, 36]]  # from 0, 10.25, 20.5, 30.75
    assert uniform_clips(2, clip, num_clips=1, starts="sparse") == [[0, 0, 0, 1]]  # from 0, 0.25, 0.5, 0.75
    assert uniform_clips(1, clip, num_clips=2, starts="sparse") == [[0, 0, 0, 0]] * 2
    dense = ClipSpec(length=4)
    assert uniform_clips(41, dense, num_clips=3, starts="sparse") == uniform_clips(41, dense, num_clips=3)


def test_random_frames_of_segments():
    clip, rng = ClipSpec(length=3, sampling="segments"), np.random.default_rng(0)
    clips = np.array([random_clip(12, clip, rng=rng) for _ in range(500)])
    assert [sorted(set(column.tolist())) for column in clips.T] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert len({tuple(clip) for clip in clips.tolist()}) > 60  # of 64: each is drawn for itself
    assert np.bincount(clips[:, 0], minlength=4).min() > 90

    class AlmostOne:
        def random(self, size):
            return np.full(size, np.nextafter(1, 0))

    assert random_clip(12, ClipSpec(length=8, sampling="segments"), rng=AlmostOne())[-1] == 11


def test_the_same_generator_gives_the_same_clip():
    one, two = (random_clip(500, ClipSpec(), rng=np.random.default_rng(7)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "at least one frame, got 0"),
        ({"num_clips": 0}, "num_clips must be 1 or more, got 0"),
        ({"starts": "middle"}, "no starts 'middle', allowed: ends, intervals, sparse"),
        ({"num_frames": 0, "clip": ClipSpec(sampling="segments")}, "at least one frame, got 0"),
        ({"rate": -1.0}, "rate must be positive, got -1.0"),
    ],
)
def test_errors(change, message):
    arguments = {"num_frames": 10, "clip": ClipSpec(rate=15), "num_clips": 2} | change
    with pytest.raises(ValueError, match=message):
        uniform_clips(arguments.pop("num_frames"), arguments.pop("clip"), **arguments)
