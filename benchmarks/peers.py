"""What `speed.py` compares with: the same network written with Conv3d, and networks of other libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from conv3d import twin
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from unidual_zoo.models.unidual import UniDual
from unidual_zoo.spec import VIDEO


def torchvision_r2plus1d18() -> nn.Module:
    """torchvision's R(2+1)D-18."""
    return r2plus1d_18(num_classes=CLASSES)


def pytorchvideo_r2plus1d50() -> nn.Module:
    """PyTorchVideo's R(2+1)D-50, with the head of its published network."""
    from pytorchvideo.models.r2plus1d import create_r2plus1d  # type: ignore[import-not-found]

    return create_r2plus1d(model_num_class=CLASSES, head_activation=None, head_pool_kernel_size=(4, 7, 7))


def pytorchvideo_csn(depth: int) -> nn.Module:
    """PyTorchVideo's ir-CSN, with the pool behind the stem that its published network has."""
    from pytorchvideo.models.csn import create_csn  # type: ignore[import-not-found]

    return create_csn(
        model_depth=depth, model_num_class=CLASSES, stem_pool=nn.MaxPool3d, head_pool_kernel_size=(4, 7, 7)
    )


def pytorchvideo_hub(name: str) -> nn.Module:
    """A network of PyTorchVideo's hub, without its weights."""
    from pytorchvideo.models import hub  # type: ignore[import-not-found]

    return getattr(hub, name)(pretrained=False)


def hf_timesformer() -> nn.Module:
    """The Hub library's TimeSformer (base, 8 frames); what it adds to names and outputs is taken off."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification  # type: ignore[import-not-found]

    class Logits(TimesformerForVideoClassification):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward(x.transpose(1, 2)).logits  # it wants (B, T, C, H, W)

    return Logits(TimesformerConfig(num_labels=CLASSES))


CLASSES = 400
UPSTREAM: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {  # our name -> library, its module, its network
    "r2plus1d18": ("torchvision", "torchvision", torchvision_r2plus1d18),
    "ircsn50": ("pytorchvideo", "pytorchvideo", lambda: pytorchvideo_csn(50)),
    "ircsn101": ("pytorchvideo", "pytorchvideo", lambda: pytorchvideo_csn(101)),
    "r2plus1d50": ("pytorchvideo", "pytorchvideo", pytorchvideo_r2plus1d50),
    "c2d50": ("pytorchvideo", "pytorchvideo", lambda: pytorchvideo_hub("c2d_r50")),
    "i3d50": ("pytorchvideo", "pytorchvideo", lambda: pytorchvideo_hub("i3d_r50")),
    "timesformer_base": ("transformers", "transformers", hf_timesformer),
}
OTHERS: dict[str, dict[str, tuple[str, tuple[int, ...], Callable[[], nn.Module]]]] = {  # module, input, network
    "image": {
        f"timm resnet{size}": ("timm", (3, 224, 224), lambda size=size: timm.create_model(f"resnet{size}"))
        for size in (34, 152)
    },
    "video": {
        "pytorchvideo R(2+1)D-50": ("pytorchvideo", (3, 16, 224, 224), pytorchvideo_r2plus1d50),
        "transformers TimeSformer": ("transformers", (3, 8, 224, 224), hf_timesformer),
    },
}


def add_upstream(name: str, file: Path) -> None:
    """From now on the network that a Python file's `network()` makes is the one that our `name` has its weights from.

    Raises:
        ValueError: there is no such file, or it has no such function.
    """
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ValueError(f"{file}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "network", None)):
        raise ValueError(f"{file}: it has no function network(), which makes a network")
    UPSTREAM[name] = (file.stem, "torch", module.network)


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class Pathway(nn.Module):
    """A pathway and a head of our network as a function of the input alone."""

    def __init__(self, model: Any, pathway: str, task: str) -> None:
        super().__init__()
        self.model, self.pathway, self.task = model, pathway, task

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, modality=self.pathway, task=self.task)


def same_network(name: str, ours: Pathway) -> tuple[str, nn.Module] | None:
    """Who else computes what `ours` does, and that network, after both were given the same weights and statistics.

    Of a network with an upstream, `ours` becomes the one that a file of upstream's weights gives, or None comes where
    that is not installed; of UniDual's networks it is the twin of Conv3d.
    """
    if name not in UPSTREAM or ours.pathway != VIDEO:
        if not isinstance(ours.model, UniDual):
            return None
        _randomise(ours)
        return "Conv3d", twin(ours.model, ours.pathway, ours.task)
    whose, module, make = UPSTREAM[name]
    if not is_installed(module):
        return None
    theirs = make()
    _randomise(theirs)
    ours.model = _read(name, theirs, ours.model)
    return whose, theirs


def _read(name: str, theirs: nn.Module, like: Any) -> nn.Module:
    """Our network with the tasks of `like` as it comes of a file of another one's weights, which may be of another form
    than the name's own."""
    tasks = {task.name: (task.modality, task.num_classes) for task in like.tasks.values()}
    with TemporaryDirectory() as folder:
        file = Path(folder, "theirs.pth")
        torch.save(theirs.state_dict(), file)
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(file)), tasks=tasks)


def _randomise(network: nn.Module) -> None:
    """Running statistics and affine weights that are not those of a fresh BatchNorm, which would fold to nothing."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            state = norm.state_dict()
            for name, low, high in (("running_mean", -0.1, 0.1), ("running_var", 0.5, 2), ("bias", -0.1, 0.1)):
                state[name].uniform_(low, high)
