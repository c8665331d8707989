"""What `speed.py` compares with: the same network written with Conv3d, and networks of other libraries."""

from __future__ import annotations

import importlib.util
from typing import Any

import timm
from conv3d import twin
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from unidual_zoo.models.unidual import checkpoint_filter_fn


def resnet(size: str) -> tuple[nn.Module, tuple[int, ...]]:
    """timm's ResNet of as many layers, and its input (C, H, W)."""
    return timm.create_model(f"resnet{size}"), (3, 224, 224)


def pytorchvideo_r2plus1d50() -> tuple[nn.Module, tuple[int, ...]] | None:
    """pytorchvideo's R(2+1)D-50 and its input (C, T, H, W), or None where it is not installed."""
    if importlib.util.find_spec("pytorchvideo") is None:
        return None
    from pytorchvideo.models.r2plus1d import create_r2plus1d  # type: ignore[import-not-found]

    return create_r2plus1d(model_num_class=400, head_activation=None), (3, 16, 224, 224)


def hf_timesformer() -> tuple[nn.Module, tuple[int, ...]] | None:
    """The Hub library's TimeSformer (base, 8 frames) and its input (C, T, H, W), or None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import TimesformerConfig, TimesformerForVideoClassification  # type: ignore[import-not-found]

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = TimesformerForVideoClassification(TimesformerConfig(num_labels=400))

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x.transpose(1, 2)).logits  # it wants (B, T, C, H, W)

    return Logits(), (3, 8, 224, 224)


OTHERS = {
    "image": {"timm resnet34": lambda: resnet("34"), "timm resnet152": lambda: resnet("152")},
    "video": {"pytorchvideo R(2+1)D-50": pytorchvideo_r2plus1d50, "transformers TimeSformer": hf_timesformer},
}


class Pathway(nn.Module):
    """A pathway and a head of our network as a function of the input alone."""

    def __init__(self, model: Any, pathway: str, task: str) -> None:
        super().__init__()
        self.model, self.pathway, self.task = model, pathway, task

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, modality=self.pathway, task=self.task)


def same_network(name: str, ours: Pathway) -> tuple[str, nn.Module]:
    """Who else computes what `ours` does, and that network, after both were given the same weights and statistics.

    r2plus1d18 is torchvision's and gets its weights by the checkpoint filter; of the others it is the twin of Conv3d.
    """
    if name != "r2plus1d18":
        _randomise(ours)
        return "Conv3d", twin(ours.model, ours.pathway, ours.task)
    theirs = r2plus1d_18(num_classes=ours.model.tasks[ours.task].num_classes)
    _randomise(theirs)
    ours.model.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours.model, task=ours.task))
    return "torchvision", theirs


def _randomise(network: nn.Module) -> None:
    """Running statistics and affine weights that are not those of a fresh BatchNorm, which would fold to nothing."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            state = norm.state_dict()
            for name, low, high in (("running_mean", -0.1, 0.1), ("running_var", 0.5, 2), ("bias", -0.1, 0.1)):
                state[name].uniform_(low, high)
