"""What `speed.py` compares with: the same network written with Conv3d, and networks of other libraries."""

from __future__ import annotations

import importlib.util
from typing import Any

import timm
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from unidual_zoo.models.pathways import SHARED, PathwayNorm, TemporalConv, UniDualConv
from unidual_zoo.models.unidual import checkpoint_filter_fn
from unidual_zoo.spec import IMAGE


class Conv3dForm(nn.Module):
    """One pathway and one head of a UniDual as a network of Conv3d and BatchNorm3d with the same weights.

    Images (B, C, H, W) run as clips of one frame. It is written as torchvision writes its video networks.
    """

    def __init__(self, model: Any, pathway: str, task: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_unit(model.stem, pathway), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if model.pool is not None else nn.Identity()
        self.blocks = nn.Sequential(*(_Block3d(block, pathway) for stage in model.stages for block in stage))
        self.head = nn.Linear(model.num_features, model.tasks[task].num_classes)
        self.head.load_state_dict(model.heads[pathway][task].state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(2) if x.ndim == 4 else x
        return self.head(self.blocks(self.pool(self.stem(x))).mean((2, 3, 4)))


class _Block3d(nn.Module):
    def __init__(self, block: Any, pathway: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for name, child in block.named_children():
            if isinstance(child, UniDualConv):
                layers += [*_unit(child, pathway), nn.ReLU(inplace=True)]
            elif isinstance(child, nn.Conv2d):
                norm = block.get_submodule(f"{name}_norm")
                layers += [_conv(child), _norm(norm, pathway), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if block.shortcut is not None:
            stride = 1 if pathway == IMAGE else block.shortcut.temporal_stride
            self.shortcut = nn.Sequential(_conv(block.shortcut.conv, stride), _norm(block.shortcut.conv_norm, pathway))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.residual(x) + self.shortcut(x))


def _unit(unit: UniDualConv, pathway: str) -> list[nn.Module]:
    spatial = [_conv(unit.spatial), _norm(unit.spatial_norm, pathway), nn.ReLU(inplace=True)]
    pointwise: Any = unit.pointwise[pathway]
    return [*spatial, _conv(pointwise), _norm(unit.norm, pathway)]


def _conv(conv: nn.Conv2d, temporal_stride: int = 1) -> nn.Conv3d:
    """A Conv2d over (H, W), or one over (T, H*W), as a Conv3d over (T, H, W)."""
    weight, (first, second), (kernel, _) = conv.weight.detach(), conv.stride, conv.kernel_size
    if isinstance(conv, TemporalConv):
        size, stride, padding, weight = (kernel, 1, 1), (first, 1, 1), (kernel // 2, 0, 0), weight[..., None]
    else:
        size, stride, padding = (1, kernel, kernel), (temporal_stride, first, second), (0, kernel // 2, kernel // 2)
        weight = weight[:, :, None]
    made = nn.Conv3d(conv.in_channels, conv.out_channels, size, stride, padding, bias=False)
    made.weight.data.copy_(weight)
    return made


def _norm(norms: PathwayNorm, pathway: str) -> nn.BatchNorm3d:
    norm: Any = norms[SHARED if SHARED in norms else pathway]
    made = nn.BatchNorm3d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    made.load_state_dict(norm.state_dict())
    return made


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

    r2plus1d18 is torchvision's and gets its weights by the checkpoint filter; of the others it is the Conv3d form.
    """
    if name != "r2plus1d18":
        _randomise(ours)
        return "Conv3d", Conv3dForm(ours.model, ours.pathway, ours.task)
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
