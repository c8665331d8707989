"""Videos and photos that benchmarks of reading make on the spot.

A video is like one of Kinetics: 30 frames/s, 10 s, H.264, a key frame every 235 frames. A photo is a frame of one, at
the usual size of a photo of ImageNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

SIZES = {"kinetics": (256, 340), "720p": (720, 1280)}  # height, width
FRAMES, RATE, KEY_FRAMES = 300, 30, 235
PHOTO, PHOTO_EVERY = (500, 375), 40  # width and height; frames of the video from one photo to the next


def write_video(path: Path, height: int, width: int, *, frames: int = FRAMES) -> Path:
    """A video with the key frames of Kinetics: a picture of soft shapes that drifts under a square, with some noise."""
    rng = np.random.default_rng(0)
    shapes = torch.from_numpy(rng.random((1, 3, 12, 16), np.float32))
    scene = F.resize(shapes, [height * 2, width * 2], antialias=True)[0].permute(1, 2, 0).numpy() * 255
    grain = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    options = {"g": str(KEY_FRAMES), "keyint_min": str(KEY_FRAMES), "sc_threshold": "0", "crf": "23"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            top, left = number * height // (2 * frames), number * width // (2 * frames)
            picture = scene[top : top + height, left : left + width] + np.roll(grain, 7 * number, 1)
            side, at = height // 4, (3 * number) % (width // 2)
            picture[side : 2 * side, at : at + side] = 255 - picture[side : 2 * side, at : at + side]
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_photos(folder: Path, video: str) -> list[str]:
    """JPEGs of frames of a video."""
    paths = []
    with av.open(video) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % PHOTO_EVERY == 0:
                path = folder / f"{number}.jpg"
                frame.to_image().resize(PHOTO, Image.Resampling.BICUBIC).save(path, quality=90)
                paths.append(str(path))
    return paths
