"""Which frames of a video make a clip. Pure functions of numbers: no file is opened.

A clip is a list of `clip.length` frame numbers. A dense clip's lie `clip.stride` apart, and a video shorter than the
clip repeats its last frame. Where `clip.rate` is set and the file's own `rate` is given, lengths and strides count
frames of the video resampled to `clip.rate`: its frame i is the file's frame floor(i * rate / clip.rate).

A clip of segments has one frame of each of `clip.length` equal parts of the video (Temporal Segment Networks, Wang et
al. 2016), so that it spans the whole of it at any rate; a video of fewer frames repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unidual_zoo.checks import check_known
from unidual_zoo.spec import SEGMENTS, ClipSpec

STARTS = ("ends", "intervals", "sparse")
ROUNDING = 1e-6  # keeps a product that is a whole number, such as 3 * (29.97 / 29.97), from falling below it


def random_clip(num_frames: int, clip: ClipSpec, *, rate: float | None = None, rng: np.random.Generator) -> list[int]:
    """Frame numbers of one clip that starts anywhere with equal chance such that it ends within the video.

    Of segments, each frame is drawn from its own with equal chance.
    """
    if clip.sampling == SEGMENTS:
        return _segment_frames(num_frames, rng.random(clip.length))
    length = _resampled_length(num_frames, clip, rate)
    start = int(rng.integers(max(0, length - clip.span) + 1))
    return _clip_at(start, num_frames, clip, rate)


def uniform_clips(
    num_frames: int, clip: ClipSpec, *, num_clips: int, rate: float | None = None, starts: str = "ends"
) -> list[list[int]]:
    """Frame numbers of `num_clips` clips spread over a video of N frames.

    `starts="ends"` (VMZ): start_i = floor(i * (N - span) / (num_clips - 1)), the first clip begins with the video and
    the last ends with it; one clip lies in the centre. `starts="intervals"` (Non-local networks): start_i =
    floor(i * N / num_clips), and a clip that runs past the end repeats the last frame.

    Of segments, clip i has the frame in the middle of the i-th of `num_clips` parts of each, with either of them: one
    clip has the frames in the middle of the segments. `starts="sparse"` (UniFormer): segments of (N - 1) / length
    frames, which begin at round(j * (N - 1) / length), and clip i has the frame floor((i + 1) / (num_clips + 1) of
    these) behind that; of dense clips it is as "ends".
    """
    if num_clips < 1:
        raise ValueError(f"num_clips must be 1 or more, got {num_clips}")
    check_known("starts", starts, STARTS)
    if clip.sampling == SEGMENTS and starts == "sparse":
        return [_sparse_frames(num_frames, clip.length, (i + 1) / (num_clips + 1)) for i in range(num_clips)]
    if clip.sampling == SEGMENTS:
        places = [(2 * i + 1) / (2 * num_clips) for i in range(num_clips)]
        return [_segment_frames(num_frames, [place] * clip.length) for place in places]
    length = _resampled_length(num_frames, clip, rate)
    room = max(0, length - clip.span)
    if starts == "intervals":
        first = [i * length // num_clips for i in range(num_clips)]
    elif num_clips == 1:
        first = [room // 2]
    else:
        first = [i * room // (num_clips - 1) for i in range(num_clips)]
    return [_clip_at(start, num_frames, clip, rate) for start in first]


def _segment_frames(num_frames: int, places: Sequence[float] | np.ndarray) -> list[int]:
    """The frame at each place, from 0 to below 1, in as many equal parts of a video."""
    _check_frames(num_frames)
    frames = (math.floor((i + place) * num_frames / len(places)) for i, place in enumerate(places))
    return [min(frame, num_frames - 1) for frame in frames]  # a place just below 1 rounds to 1 when i is added


def _sparse_frames(num_frames: int, length: int, place: float) -> list[int]:
    """The frame at a place, from 0 to below 1, in each of the segments of UniFormer."""
    _check_frames(num_frames)
    size = (num_frames - 1) / length
    return [min(round(i * size) + math.floor(size * place), num_frames - 1) for i in range(length)]


def _check_frames(num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"a clip needs a video of at least one frame, got {num_frames}")


def _ratio(clip: ClipSpec, rate: float | None) -> float:
    """Frames of the file per frame of the resampled video."""
    if clip.rate is None or rate is None:
        return 1.0
    if rate <= 0:
        raise ValueError(f"the video's rate must be positive, got {rate}")
    return rate / clip.rate


def _file_frame(i: int, ratio: float) -> int:
    return math.floor(i * ratio + ROUNDING)


def _resampled_length(num_frames: int, clip: ClipSpec, rate: float | None) -> int:
    """The number of resampled frames whose frame of the file exists."""
    _check_frames(num_frames)
    return max(1, math.ceil((num_frames - ROUNDING) / _ratio(clip, rate)))


def _clip_at(start: int, num_frames: int, clip: ClipSpec, rate: float | None) -> list[int]:
    ratio = _ratio(clip, rate)
    frames = (_file_frame(start + i * clip.stride, ratio) for i in range(clip.length))
    return [min(frame, num_frames - 1) for frame in frames]
