"""Every registered network, made narrow and short, and inputs that fit it."""

import timm
import torch
from torch import nn

import unidual_zoo  # noqa: F401  (registers the models)

NAMES = timm.list_models(module="unidual")
DUAL = [name for name in NAMES if name.startswith("unidual")]
TASKS = {"in1k": ("image", 7), "k400": ("video", 6)}


def small(name: str, **kwargs) -> nn.Module:
    """The network `name` at 1/16 of its width, two blocks at most in a stage, clips of 4 frames."""
    depths = (2, 1, 1, 1) if "10" not in name else (1, 1, 1, 1)
    kwargs = dict(width=1 / 16, depths=depths, num_frames=4) | kwargs
    model = timm.create_model(name, **kwargs)
    return randomise_norms(model).eval()


def randomise_norms(model: nn.Module) -> nn.Module:
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
