"""Frozen image networks that label frames of videos without labels: DistInit (arXiv 1901.09244).

The video pathway learns the teacher's class probabilities of one random frame of each clip by cross-entropy. The
paper's loss is known to us from its abstract alone: cross-entropy without a temperature is ours.
"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.summary import check_registered
from unidual_zoo.spec import IMAGE


class Teacher(nn.Module):
    """A network for images, as `timm.create_model` loads it by name: frames (B, 3, H, W) uint8 -> probabilities (B, N).

    Frames are resized to the network's input, whole; of a network of this package the image pathway answers, with its
    first task of images.

    Raises:
        ValueError: the name is unknown, or the network has no head for images.
        RuntimeError: its weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        if not (timm.is_model(name) or ":" in name):
            check_registered(name)  # which names the nearest
        self.name = name
        self.network: nn.Module = timm.create_model(name, pretrained=True).eval().requires_grad_(False)
        config = resolve_model_data_config(self.network)
        self.size = config["input_size"][1:]
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(config["mean"]).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(shape), persistent=False)
        self.classes = self._class_names()

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        x = frames.to(self.mean.dtype) / 255
        x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = (x - self.mean) / self.std
        own = {"modality": IMAGE} if isinstance(self.network, TaskModel) else {}
        return self.network(x, **own).softmax(-1)

    def train(self, mode: bool = True) -> Teacher:
        """A teacher does not learn: it stays in evaluation mode."""
        return super().train(False)

    def _class_names(self) -> tuple[str, ...]:
        if not isinstance(self.network, TaskModel):
            return tuple(map(str, range(self.network.num_classes)))  # pyright: ignore[reportArgumentType]
        task = self.network.default_task(IMAGE, IMAGE) if IMAGE in self.network.pathways else None
        if task is None:
            raise ValueError(f"{self.name} has no head for images on an image pathway, and so cannot be a teacher")
        number = self.network.tasks[task].num_classes
        return self.network.spec.class_names(task) or tuple(map(str, range(number)))
