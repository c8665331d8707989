"""Single images and clips as a model takes them: from files, from Pillow's images, from arrays of frames.

What `Predictor` and the evaluation read is read here by the same functions, so that a model sees the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unidual_zoo.data.datasets import load_clips as read_clips
from unidual_zoo.data.datasets import load_image as read_image
from unidual_zoo.data.images import pixels_of
from unidual_zoo.data.media import PathLike, file_boundary
from unidual_zoo.data.sampling import uniform_clips
from unidual_zoo.data.transforms import Framing, RandomFraming, eval_transform, normalize, train_transform
from unidual_zoo.spec import InputSpec

CHANNELS = 3


def load_image(path: PathLike, model: Any) -> Tensor:
    """An image file -> (3, H, W) float32 as the model takes it, resized, cropped and normalised; `[None]` is a batch.

    `model` is a model of this package, or an `InputSpec`.

    Raises:
        MediaError: the file cannot be read; it says why.
    """
    spec = spec_of(model)
    with file_boundary(path):
        image = read_image(path, eval_transform(spec))
    return normalize(image[None], spec)[0]


def load_clip(path: PathLike, model: Any, *, num_clips: int | None = None) -> Tensor:
    """A video file -> (3, T, H, W) float32, the clip in its centre as the model takes it; `[None]` is a batch.

    Length, stride and rate of the clip are those of the model's spec. With `num_clips` the result is
    (num_clips, 3, T, H, W), clips spread evenly from the video's beginning to its end, as the evaluation has them.
    `model` is a model of this package, or an `InputSpec`: `dataclasses.replace(model.spec, clip=…)` asks for others.

    Raises:
        MediaError: the file cannot be read; it says why.
        ValueError: `num_clips` is less than 1.
    """
    spec = spec_of(model)
    if num_clips is not None and num_clips < 1:
        raise ValueError(f"num_clips must be 1 or more, or None for a single clip, got {num_clips}")

    def clips(num_frames: int, rate: float) -> list[list[int]]:
        return uniform_clips(num_frames, spec.clip, num_clips=num_clips or 1, rate=rate)

    with file_boundary(path):
        views = read_clips(path, clips, eval_transform(spec))
    views = normalize(views, spec)  # (num_clips, 3, T, H, W)
    return views[0] if num_clips is None else views


def create_transform(model: Any, *, training: bool = False, flip: bool = False) -> Transform:
    """What makes of pixels the tensor that the model takes; see `Transform`.

    Resizes as the model's spec says, crops the centre, and normalises. With `training` the crop is drawn at random (by
    torch's global random numbers, once for all frames of a clip), and with `flip` half of the results are mirrored:
    not for classes that differ in left and right.

    Raises:
        ValueError: `flip` without `training`.
    """
    spec = spec_of(model)
    if flip and not training:
        raise ValueError("flip=True mirrors at random, which is for training=True")
    return Transform(spec, train_transform(spec, flip=flip) if training else eval_transform(spec))


@dataclass(frozen=True)
class Transform:
    """Pixels -> float32, normalised. It can be pickled, for loader processes.

    | takes | gives |
    |---|---|
    | an image of Pillow's, in any mode, turned as its EXIF says | (3, h, w) |
    | an image, uint8 (H, W, 3) or (3, H, W) | (3, h, w) |
    | a clip, uint8 (T, H, W, 3) or (3, T, H, W) | (3, T, h, w) |
    | an image or a clip with 3 channels first and last | as with channels last |

    Arrays are numpy's or torch's; (h, w) is the spec's crop. A clip's frames are taken as they come: which frames of a
    video make a clip is decided by `load_clip`, or by whoever read them.
    """

    spec: InputSpec
    framing: Framing | RandomFraming

    def __call__(self, pixels: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Raises a ValueError for anything that is not in the table; it says what came."""
        framed = self.framing(frames_of(pixels))  # ([T,] 3, h, w)
        x = framed if framed.ndim == 3 else framed.transpose(0, 1)  # (3, [T,] h, w)
        return normalize(x[None], self.spec)[0]


def frames_of(pixels: Image.Image | np.ndarray | Tensor) -> Tensor:
    """The pixels of an image as (3, H, W), of a clip as (T, 3, H, W), uint8. See `Transform` for what they may be."""
    if isinstance(pixels, Image.Image):
        pixels = pixels_of(pixels)
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # what torch can take without a warning
    x = pixels if isinstance(pixels, Tensor) else None
    if x is None or x.dtype != torch.uint8 or x.ndim not in (3, 4) or CHANNELS not in (x.shape[0], x.shape[-1]):
        allowed = "an image of Pillow's, uint8 (H, W, 3) or (3, H, W), or a clip, uint8 (T, H, W, 3) or (3, T, H, W)"
        came = type(pixels).__name__ if x is None else f"{x.dtype} of shape {tuple(x.shape)}"
        raise ValueError(f"takes {allowed}, got {came}")
    if x.shape[-1] == CHANNELS:
        return x.movedim(-1, -3)  # ([T,] H, W, 3) -> ([T,] 3, H, W)
    return x if x.ndim == 3 else x.transpose(0, 1)  # (3, T, H, W) -> (T, 3, H, W)


def spec_of(model: Any) -> InputSpec:
    """The spec of a model, or the spec itself. A TypeError for what has none."""
    spec = model if isinstance(model, InputSpec) else getattr(model, "spec", None)
    if not isinstance(spec, InputSpec):
        raise TypeError(f"needs a model of this package or an InputSpec, got {type(model).__name__}")
    return spec
