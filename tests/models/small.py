"""UniDual's networks, made narrow and short, and inputs that fit them."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.unidual import FAMILY

NAMES = list(FAMILY.architectures)
DIFFERENT = [name for name in NAMES if "34" not in name]  # made small: those of 34 layers are then those of 10
DUAL = [name for name in DIFFERENT if name.startswith("unidual")]
TASKS = {"in1k": ("image", 7), "k400": ("video", 6)}
SMALL = dict(width=1 / 16, depths=(2, 1, 1, 1), num_frames=4)


def small(name: str, **kwargs: Any) -> TaskModel:
    """The network `name` at 1/16 of its width, two blocks at most in a stage, clips of 4 frames."""
    return make(name, SMALL, **kwargs)


def make(name: str, arguments: Mapping[str, Any], **kwargs: Any) -> TaskModel:
    """A registered network with these arguments in evaluation mode, no BatchNorm of which is as a fresh one."""
    return randomise_norms(timm.create_model(name, **{**arguments, **kwargs})).eval()


def randomise_norms(model):
    """Running statistics and affine weights that are not those of a fresh network, so that mixing them up shows."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


def images(batch: int = 2, size: int = 32, chans: int = 3) -> torch.Tensor:
    return torch.randn(batch, chans, size, size)


def clips(batch: int = 2, frames: int = 4, size: int = 32, chans: int = 3) -> torch.Tensor:
    return torch.randn(batch, chans, frames, size, size)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = b.abs().max().clamp(min=1e-6)
    assert (a - b).abs().max() <= tolerance * scale, f"differ by {(a - b).abs().max() / scale:.2g} of the largest value"
