"""Weights of R(2+1)D in torchvision's layout, as VMZ and ig65m-pytorch publish them, and in ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unidual_zoo.weights.key_map import KeyMap

# (torchvision's VideoResNet, ours). A (2+1)D convolution is Sequential(spatial, norm, ReLU, temporal) there.
_ENDS = [
    ("stem.0", "stem.spatial"),
    ("stem.1", "stem.spatial_norm.video"),
    ("stem.3", "stem.pointwise.video"),
    ("stem.4", "stem.norm.video"),
    ("layer{s+1}.{b}.downsample.0", "stages.{s}.{b}.shortcut.conv"),
    ("layer{s+1}.{b}.downsample.1", "stages.{s}.{b}.shortcut.conv_norm.video"),
    ("fc", "heads.video.{task}"),
]
_BASIC = [
    *_ENDS,
    ("layer{s+1}.{b}.conv{i}.0.0", "stages.{s}.{b}.conv{i}.spatial"),
    ("layer{s+1}.{b}.conv{i}.0.1", "stages.{s}.{b}.conv{i}.spatial_norm.video"),
    ("layer{s+1}.{b}.conv{i}.0.3", "stages.{s}.{b}.conv{i}.pointwise.video"),
    ("layer{s+1}.{b}.conv{i}.1", "stages.{s}.{b}.conv{i}.norm.video"),
]
_BOTTLENECK = [
    *_ENDS,
    ("layer{s+1}.{b}.conv1.0", "stages.{s}.{b}.conv1"),
    ("layer{s+1}.{b}.conv1.1", "stages.{s}.{b}.conv1_norm.video"),
    ("layer{s+1}.{b}.conv2.0.0", "stages.{s}.{b}.conv2.spatial"),
    ("layer{s+1}.{b}.conv2.0.1", "stages.{s}.{b}.conv2.spatial_norm.video"),
    ("layer{s+1}.{b}.conv2.0.3", "stages.{s}.{b}.conv2.pointwise.video"),
    ("layer{s+1}.{b}.conv2.1", "stages.{s}.{b}.conv2.norm.video"),
    ("layer{s+1}.{b}.conv3.0", "stages.{s}.{b}.conv3"),
    ("layer{s+1}.{b}.conv3.1", "stages.{s}.{b}.conv3_norm.video"),
]
_TEMPORAL = ".pointwise.video."


def from_video_resnet(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights in torchvision's layout -> ours, its classifier as the head of `task`.

    Filters (O, I, 1, k, k) and (O, I, t, 1, 1) become (O, I, k, k) and (O, I, t, 1). Other weights stay as they are.
    """
    keys = KeyMap(_BOTTLENECK if "layer1.0.conv3.0.weight" in state_dict else _BASIC, task=task)
    ours = keys.forward(state_dict)
    return {key: value if key in state_dict else _without_axis(key, value) for key, value in ours.items()}


def to_video_resnet(state_dict: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """An R(2+1)D's weights (of the video pathway alone) -> torchvision's layout, the head of `task` as classifier.

    It undoes `from_video_resnet`: filters have five dimensions again. Other weights stay as they are.
    """
    keys = KeyMap(_BOTTLENECK if "stages.0.0.conv3.weight" in state_dict else _BASIC, task=task)
    theirs = keys.back({key: _with_axis(key, value) for key, value in state_dict.items()})
    return {key: state_dict.get(key, value) for key, value in theirs.items()}


def _without_axis(key: str, filters: Tensor) -> Tensor:
    """5-D filters without the axis on which they are one pixel or frame wide; if they are not, the fit will say so."""
    return filters.squeeze(-1 if _TEMPORAL in key else 2) if filters.ndim == 5 else filters


def _with_axis(key: str, filters: Tensor) -> Tensor:
    return filters.unsqueeze(-1 if _TEMPORAL in key else 2) if filters.ndim == 4 else filters
