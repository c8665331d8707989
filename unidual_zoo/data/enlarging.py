"""Enlarging only what a crop sees: to the bit what torchvision's resize and a crop of it give, without the rest.

torchvision enlarges uint8 on a CPU axis by axis, the width first, as Pillow does: a pixel of the result is a sum of a
few pixels along the axis, with weights in fixed point (ATen's `_compute_index_ranges_int16_weights`), rounded to uint8
after each axis. On CPUs without AVX2 it computes in floats, and results may differ by 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PRECISION = 14  # bits after the point of a weight; ATen has as many whenever the largest weight is 1 or little more
REACH = {"bilinear": 1, "bicubic": 2}  # in pixels of the frame
CUBIC = -0.5  # Keys' parameter, as Pillow and antialiased torch have it


def enlarge(
    frames: Tensor, size: tuple[int, int], box: tuple[int, int, int, int], interpolation: str = "bilinear"
) -> Tensor:
    """Frames (..., H, W) uint8 as if resized to `size`, larger in both directions, and cut: (..., height, width).

    `box`: (top, left, height, width) in the resized frame.
    """
    top, left, height, width = box
    pixels = frames.cpu().numpy()
    columns, across = _taps(pixels.shape[-1], size[1], left, width, interpolation)
    rows, down = _taps(pixels.shape[-2], size[0], top, height, interpolation)
    pixels = pixels[..., rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    pixels = _weighted(pixels, columns - columns.min(), across)
    pixels = _weighted(pixels.swapaxes(-1, -2), rows - rows.min(), down).swapaxes(-1, -2)
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(frames.device)


def _taps(size_in: int, size_out: int, start: int, length: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of an axis the new ones from `start` on are made of, and their weights: both (length, taps)."""
    numbers = np.arange(start, start + length)
    if interpolation == "nearest":
        places = np.floor(
            numbers.astype(np.float32) * (np.float32(size_in) / np.float32(size_out))
        )  # floats as in ATen
        return np.minimum(places.astype(int), size_in - 1)[:, None], np.full((length, 1), 1 << PRECISION)
    reach = REACH[interpolation]
    centres = size_in / size_out * (numbers + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    stop = np.minimum((centres + reach + 0.5).astype(int), size_in)
    places = first[:, None] + np.arange(2 * reach + 1)
    weights = _kernel(places - centres[:, None] + 0.5, interpolation) * (places < stop[:, None])
    weights = weights / weights.sum(1, keepdims=True) * (1 << PRECISION)
    return np.minimum(places, size_in - 1), np.trunc(weights + np.copysign(0.5, weights)).astype(int)


def _kernel(distance: np.ndarray, interpolation: str) -> np.ndarray:
    x = np.abs(distance)
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    return np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * CUBIC, 0))


def _weighted(pixels: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(..., N) uint8 -> (..., length) uint8: the weighted sums along the last axis."""
    total = np.full((*pixels.shape[:-1], len(places)), 1 << (PRECISION - 1))
    for place, weight in zip(places.T, weights.T, strict=True):
        total += pixels[..., place] * weight
    return np.clip(total >> PRECISION, 0, 255).astype(np.uint8)
