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

from unidual_zoo.checks import first_line
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.summary import check_registered, registered_names
from unidual_zoo.spec import IMAGE
from unidual_zoo.weights import WEIGHTS_FILE, cached_from_hub, check_hub


def find_teacher(task: str, name: str) -> Teacher:
    """The teacher of a task, as the setting `teachers` names it.

    Raises:
        ValueError, RuntimeError: see `Teacher`; the sentence names the setting.
    """
    try:
        return Teacher(name)
    except (ValueError, RuntimeError) as error:
        raise type(error)(f"teachers={task}:{name}: {error}") from error


def _load(name: str) -> nn.Module:
    """A network with its weights, of this package or any of timm's; a server that is not there is given up soon."""
    source, _, where = name.partition(":")
    if not where and not timm.is_model(name):
        check_registered(name)  # which names the nearest
    if source == "local-dir" or name.partition(".")[0] in registered_names():
        return create_model(name, pretrained=True)
    try:
        config = None if where else timm.get_pretrained_cfg(name)
        repository = where or (config and config.hf_hub_id)
        files = ("config.json",) if where else (WEIGHTS_FILE, "pytorch_model.bin")
        if repository and not any(cached_from_hub(repository, file) for file in files):
            check_hub()
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # of timm, of the Hub's client and of whichever HTTP library that is built on
        raise RuntimeError(f"it cannot be loaded: {first_line(error)}") from error


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
        self.name = name
        self.network = _load(name).eval().requires_grad_(False)
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
