"""A network whose answers can be worked out by hand, and tiny files to show it."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unidual_zoo.spec import ClipSpec, InputSpec, Task

LEVELS = 6  # classes of GreyNet: grey 0, 51, 102, 153, 204, 255
SIDE = 32
SPEC = InputSpec(
    resize=(SIDE, SIDE), crop=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), clip=ClipSpec(length=2, stride=1),
    classes={"greys": tuple(f"grey {level}" for level in range(LEVELS))},
)  # fmt: skip


class GreyNet(nn.Module):
    """Says which of `LEVELS` greys is nearest to the mean of its input. Features are means over 8×8 pixels.

    Task "greys" has names, "codes" none; both modalities have both. `calls` notes the shape of every batch.
    """

    fully_convolutional = True

    def __init__(self, spec: InputSpec = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.pathways = ("image", "video")
        self.tasks = {name: Task(name, "video", LEVELS) for name in ("greys", "codes")}
        self.feature_info = [{"num_chs": 3, "reduction": 8, "module": "pool"}]
        self.scale = nn.Parameter(torch.tensor(200.0))
        self.calls: list[tuple[int, ...]] = []

    def fold(self) -> None:
        """There is nothing to fold."""

    def default_pathway(self, modality: str) -> str:
        return modality

    def default_task(self, modality: str, pathway: str) -> str:
        return "greys"

    def pathway_tasks(self, pathway: str) -> tuple[str, ...]:
        return tuple(self.tasks)

    def forward_features(self, x: Tensor, modality: str | None = None) -> Tensor:
        self.calls.append(tuple(x.shape))
        return nn.functional.avg_pool3d(x, (1, 8, 8)) if x.ndim == 5 else nn.functional.avg_pool2d(x, 8)

    def forward_head(
        self, x: Tensor, pre_logits: bool = False, modality: str | None = None, task: str | None = None
    ) -> Tensor:
        levels = torch.linspace(0, 1, LEVELS, device=x.device)
        return -self.scale * (x.flatten(1).mean(1, keepdim=True) - levels).square()

    def forward(self, x: Tensor, modality: str | None = None, task: str | None = None) -> Tensor:
        return self.forward_head(self.forward_features(x, modality=modality), modality=modality, task=task)


def grey(level: int) -> int:
    """The pixel value of a class of GreyNet."""
    return round(255 * level / (LEVELS - 1))


def grey_video(path: Path, levels: Sequence[int], *, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """An MP4 with one frame for each grey level; `size` is (width, height)."""
    width, height = size
    return film(path, np.stack([np.full((height, width, 3), grey(level), dtype=np.uint8) for level in levels]))


def film(path: Path, frames: np.ndarray) -> Path:
    """An MP4 of frames (T, H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey_image(path: Path, level: int, *, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """An image of one grey level; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey(level),) * 3).save(path)
    return path
