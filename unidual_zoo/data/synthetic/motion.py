"""Clips made from images: one renderer for camera motions and for objects that move over a background.

A motion is a pure function of time that says where a picture lies in the frame. The camera moves the whole image, and
what it uncovers is the image mirrored; a `Layer` moves over the image, transparent outside its own pixels.

A pose is a row of four numbers: x and y, the shift of the picture's centre from the frame's centre in short sides of
the frame (right and down are positive); scale, a factor; angle, in radians, clockwise as seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from unidual_zoo.checks import check_known

# Motion time runs from -speed/2 to speed/2 over a video; `p` is a random phase in radians, used by what oscillates.
# The values are x, y, the logarithm of scale, and angle. Opposite motions are each other played backwards, so that
# no single frame tells them apart. A camera that pans left moves the picture to the right.
MOTIONS: Mapping[str, Callable[[np.ndarray, float], tuple]] = {
    "still": lambda u, p: (0, 0, 0, 0),
    "pan left": lambda u, p: (0.6 * u, 0, 0, 0),
    "pan right": lambda u, p: (-0.6 * u, 0, 0, 0),
    "pan up": lambda u, p: (0, 0.6 * u, 0, 0),
    "pan down": lambda u, p: (0, -0.6 * u, 0, 0),
    "zoom in": lambda u, p: (0, 0, 0.6 * u, 0),
    "zoom out": lambda u, p: (0, 0, -0.6 * u, 0),
    "rotate clockwise": lambda u, p: (0, 0, 0, 1.6 * u),
    "rotate anticlockwise": lambda u, p: (0, 0, 0, -1.6 * u),
    "shake": lambda u, p: (0.05 * np.sin(31 * u + p), 0.05 * np.sin(43 * u + 2 * p), 0, 0.04 * np.sin(37 * u + 3 * p)),
    "move left": lambda u, p: (-0.7 * u, 0, 0, 0),
    "move right": lambda u, p: (0.7 * u, 0, 0, 0),
    "move up": lambda u, p: (0, -0.7 * u, 0, 0),
    "move down": lambda u, p: (0, 0.7 * u, 0, 0),
    "grow": lambda u, p: (0, 0, u, 0),
    "shrink": lambda u, p: (0, 0, -u, 0),
    "spin clockwise": lambda u, p: (0, 0, 0, 5 * u),
    "spin anticlockwise": lambda u, p: (0, 0, 0, -5 * u),
    "bounce": lambda u, p: (0, 0.15 - 0.3 * np.abs(np.sin(8 * u + p)), 0, 0),
    "sway": lambda u, p: (0.03 * np.sin(13 * u + p), 0, 0, 0.3 * np.sin(13 * u + p)),
}
CAMERA_MOTIONS = tuple(MOTIONS)[:10]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A picture over the image: pixels (h, w, 4) uint8 RGBA, the motion's name, and the pose at the middle of time."""

    pixels: np.ndarray
    motion: str = "still"
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    angle: float = 0.0


def motion_poses(
    motion: str,
    *,
    num_frames: int,
    rng: np.random.Generator,
    speed: tuple[float, float] = (0.7, 1.3),
    easing: float = 0.5,
) -> np.ndarray:
    """Poses (T, 4) of a motion for every frame; the numbers of `MOTIONS` are those at speed 1.

    The clip's speed is drawn from the range `speed`, and varies within the clip by up to the factors 1 ± `easing`.
    """
    check_known("motion", motion, MOTIONS)
    if num_frames < 1 or not 0 <= easing < 1:
        raise ValueError(f"a clip needs 1 frame or more and easing in [0, 1), got {num_frames} frames, easing {easing}")
    pace, depth, start, phase = rng.uniform((speed[0], 0, 0, 0), (speed[1], easing, 2 * np.pi, 2 * np.pi))
    time = (np.arange(num_frames) + 0.5) / num_frames - 0.5
    u = pace * (time + depth * np.sin(2 * np.pi * time + start) / (2 * np.pi))  # grows with time, as depth < 1
    x, y, zoom, angle = (np.broadcast_to(value, u.shape) for value in MOTIONS[motion](u, phase))
    return np.stack((x, y, np.exp(zoom), angle), axis=1)


def warp(pictures: torch.Tensor, poses: np.ndarray, *, size: tuple[int, int], padding: str) -> torch.Tensor:
    """Pictures (1 or T, C, h, w) float seen at poses (T, 4) in frames of `size` (H, W) -> (T, C, H, W), bilinear.

    `padding` is "reflection" (the picture mirrored) or "zeros". At pose (0, 0, 1, 0) a pixel is a pixel.
    """
    (height, width), (h, w) = size, pictures.shape[-2:]
    if size == (h, w) and (poses == (0, 0, 1, 0)).all():
        return pictures.expand(len(poses), -1, -1, -1)
    x, y, scale, angle = poses.T[..., None].astype(np.float32)  # (T, 1) each
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    across = np.arange(width, dtype=np.float32) + 0.5 - width / 2 - x * min(size)  # (T, W) pixels from the picture's
    down = np.arange(height, dtype=np.float32) + 0.5 - height / 2 - y * min(size)  # (T, H) centre, as it lies
    grid = np.empty((len(poses), height, width, 2), np.float32)  # where in the picture, -1..1: turned back, scaled back
    np.add((cos * across)[:, None, :] * (2 / w), (sin * down)[:, :, None] * (2 / w), out=grid[..., 0])
    np.add((-sin * across)[:, None, :] * (2 / h), (cos * down)[:, :, None] * (2 / h), out=grid[..., 1])
    pictures = pictures.expand(len(poses), -1, -1, -1)
    return F.grid_sample(pictures, torch.from_numpy(grid), mode="bilinear", padding_mode=padding, align_corners=False)


def make_clip(
    image: np.ndarray,
    *,
    motion: str,
    num_frames: int,
    rng: np.random.Generator,
    layers: Sequence[Layer] = (),
    speed: tuple[float, float] = (0.7, 1.3),
    easing: float = 0.5,
    noise: float = 0.0,
    drift: float = 0.0,
) -> np.ndarray:
    """An image (H, W, 3) uint8 under a camera motion -> a clip (T, H, W, 3) uint8; all chance comes from `rng`.

    `layers` move over the image, the last one in front, and the camera sees the whole. `speed` and `easing` as in
    `motion_poses`; `noise` is the standard deviation of the pixels' noise in grey levels, new in every frame; `drift`
    the greatest relative change of brightness.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"the image of a clip must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    size = image.shape[:2]

    def poses(name: str) -> np.ndarray:
        return motion_poses(name, num_frames=num_frames, rng=rng, speed=speed, easing=easing)

    frames = _planes(image).expand(num_frames, -1, -1, -1)
    for layer in layers:
        frames = _paste(frames, layer, poses(layer.motion))
    frames = warp(frames, poses(motion), size=size, padding="reflection")
    if drift:
        frames = frames * torch.from_numpy(_gain(num_frames, drift, rng)).view(-1, 1, 1, 1)
    if noise:
        frames = frames + noise * torch.from_numpy(rng.standard_normal(tuple(frames.shape), dtype=np.float32))
    frames = frames.round().clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).contiguous().numpy()


def _planes(picture: np.ndarray) -> torch.Tensor:
    """(H, W, C) uint8 -> (1, C, H, W) float32 of the same values."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None]


def _paste(frames: torch.Tensor, layer: Layer, poses: np.ndarray) -> torch.Tensor:
    """Frames (T, 3, H, W) with the layer over them -> (T, 3, H, W)."""
    planes = _planes(layer.pixels)
    alpha = planes[:, 3:] / 255
    planes = torch.cat((planes[:, :3] * alpha, alpha), dim=1)  # premultiplied, so that edges keep their colour
    poses = (poses + (layer.x, layer.y, 0, layer.angle)) * (1, 1, layer.scale, 1)
    planes = warp(planes, poses, size=(frames.shape[2], frames.shape[3]), padding="zeros")
    return planes[:, :3] + (1 - planes[:, 3:]) * frames


def _gain(num_frames: int, drift: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness factors (T,) float32 within 1 ± `drift`: half a slope, half a wave."""
    slope, wave, start, cycles = rng.uniform((-1, -1, 0, 0.5), (1, 1, 2 * np.pi, 2))
    time = np.linspace(-1, 1, num_frames)
    return (1 + drift * (slope * time + wave * np.sin(np.pi * cycles * time + start)) / 2).astype(np.float32)
