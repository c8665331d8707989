"""Resize, crop and flip of uint8 frames, and their normalisation. torchvision.transforms.v2, antialiased.

A transform takes (..., C, H, W) uint8, one image or all frames of a clip, and treats all frames alike. Training
transforms draw from torch's global random numbers, and from nothing else: a caller who seeds them before each call
(`torch.manual_seed`, within `torch.random.fork_rng` to leave others undisturbed) gets the same crop again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from unidual_zoo.checks import check_known
from unidual_zoo.data.decode import fit_short_side
from unidual_zoo.data.enlarging import enlarge
from unidual_zoo.spec import INTERPOLATIONS, InputSpec

CROPS = (1, 3)
LONGEST = 16  # times the short side; of a longer frame only what the crops see is enlarged


@dataclass(frozen=True)
class Framing:
    """A fixed resize and crop: (..., C, H, W) uint8 -> (..., C, h, w), or (crops, ..., C, h, w) for several crops.

    `resize`: (height, width), or the length of the short side. `at`: where in the room around the crop it begins, from
    0 (top, left) to below 1; None: in the centre, and of several crops the others at both ends of the longer side.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    crops: int = 1
    at: tuple[float, float] | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        smallest = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop[0] > smallest[0] or self.crop[1] > smallest[1]:
            raise ValueError(f"crop {self.crop} does not fit in frames resized to {self.resize}")
        if self.crops not in CROPS:
            raise ValueError(f"crops must be one of {CROPS}, got {self.crops}")
        check_known("interpolation", self.interpolation, INTERPOLATIONS)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that a frame is resized to before it is cropped; its own if it is not resized as a whole.

        One column of pixels resized to a short side of 256 would take gigabytes, of which the crops see as little as of
        any other frame. So what is longer than LONGEST times its short side is enlarged only where the crops lie.
        """
        in_parts = isinstance(self.resize, int) and min(height, width) < self.resize
        if in_parts and max(height, width) > LONGEST * min(height, width):
            return height, width
        return self._resized_size(height, width)

    def __call__(self, frames: Tensor) -> Tensor:
        views = self.views(frames)
        return views[0] if self.crops == 1 else torch.stack(views)

    def views(self, frames: Tensor) -> list[Tensor]:
        """Each crop, (..., C, h, w), without a copy unless it is mirrored, or the frame not resized as a whole."""
        height, width = self.crop
        size = self._resized_size(*frames.shape[-2:])
        corners = self._corners(size[0] - height, size[1] - width)
        if size == self.size(*frames.shape[-2:]):
            frames = self._resized(frames, size)
            views = [frames[..., top : top + height, left : left + width] for top, left in corners]
        else:
            views = [enlarge(frames, size, (*corner, height, width), self.interpolation) for corner in corners]
        return [view.flip(-1) for view in views] if self.flip else views

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        return fit_short_side(height, width, short_side=self.resize) if isinstance(self.resize, int) else self.resize

    def _resized(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        if size == tuple(frames.shape[-2:]):
            return frames
        return F.resize(frames, list(size), interpolation=InterpolationMode(self.interpolation), antialias=True)

    def _corners(self, room_y: int, room_x: int) -> list[tuple[int, int]]:
        """(top, left) of every crop."""
        if self.at is not None:
            return [(int(self.at[0] * (room_y + 1)), int(self.at[1] * (room_x + 1)))]
        top, left = round(room_y / 2), round(room_x / 2)
        if self.crops == 1:
            return [(top, left)]
        if room_y + self.crop[0] > room_x + self.crop[1]:
            return [(0, left), (top, left), (room_y, left)]
        return [(top, 0), (top, left), (top, room_x)]


@dataclass(frozen=True)
class RandomFraming:
    """A random choice of `resizes`, a random crop and, if `flip`, a mirroring in half of the cases, drawn per call."""

    resizes: Sequence[tuple[int, int] | int]
    crop: tuple[int, int]
    interpolation: str = "bilinear"
    flip: bool = False

    def __post_init__(self) -> None:
        for resize in self.resizes:
            Framing(resize, self.crop, self.interpolation)

    @property
    def is_fixed(self) -> bool:
        """Whether every frame always becomes the same."""
        return tuple(self.resizes) == (tuple(self.crop),) and not self.flip

    def draw(self) -> Framing:
        """One of the framings, by torch's global random numbers; always four of them."""
        which, top, left, mirror = torch.rand(4, dtype=torch.float64).tolist()
        resize = self.resizes[int(which * len(self.resizes))]
        return Framing(resize, self.crop, self.interpolation, at=(top, left), flip=self.flip and mirror < 0.5)

    def __call__(self, frames: Tensor) -> Tensor:
        return self.draw()(frames)


def eval_transform(spec: InputSpec, *, crops: int = 1) -> Framing:
    """Resize and crop as the spec says: the centre, or with `crops=3` also both ends of the longer side."""
    return Framing(spec.resize, spec.crop, spec.interpolation, crops=crops)


def train_transform(spec: InputSpec, *, short_sides: Sequence[int] | None = None, flip: bool = False) -> RandomFraming:
    """Resize as the spec says, or to one of `short_sides` with equal chance, and crop at random (paper section 3.1).

    The paper's 152-layer networks use short sides 256 and 320, and no flip.
    """
    return RandomFraming(tuple(short_sides or (spec.resize,)), spec.crop, spec.interpolation, flip)


def normalize(batch: Tensor, spec: InputSpec, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, C, H, W) or (B, C, T, H, W) uint8 -> float of zero mean and unit deviation, on the batch's own device."""
    channels = len(spec.mean)
    if batch.dtype != torch.uint8 or batch.dim() not in (4, 5) or batch.shape[1] != channels:
        raise ValueError(
            f"normalize takes uint8 images (B, {channels}, H, W) or clips (B, {channels}, T, H, W), "
            f"got {batch.dtype} of shape {tuple(batch.shape)}"
        )
    shape = (channels,) + (1,) * (batch.dim() - 2)
    mean = torch.tensor(spec.mean, device=batch.device).view(shape)
    std = torch.tensor(spec.std, device=batch.device).view(shape)
    # One multiplication and one addition per pixel: (x / 255 - mean) / std.
    return torch.addcmul(-mean / std, batch.float(), 1 / (255 * std)).to(dtype)
