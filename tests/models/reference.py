"""R(2+1)D with VMZ's widths, assembled from torchvision's blocks: the networks of ig65m-pytorch (34) and VMZ (152).

It is independent of the package: other blocks, Conv3d, torchvision's names of weights. `fill` gives it weights that
any other implementation can be given too.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv2Plus1D

DEPTHS = {"34": (3, 4, 6, 3), "152": (3, 8, 36, 3)}
BLOCKS = {"34": BasicBlock, "152": Bottleneck}


class VmzConv(Conv2Plus1D):
    """torchvision's factorised convolution, its middle sized from its own channels."""

    def __init__(self, chans: int, planes: int, _: int, stride: int = 1, padding: int = 1) -> None:
        super().__init__(chans, planes, 27 * chans * planes // (9 * chans + 3 * planes), stride, padding)


class Reference(nn.Module):
    """Clips (B, 3, T, H, W) -> logits."""

    def __init__(self, size: str, *, num_classes: int = 400, depths: tuple[int, ...] | None = None, width: float = 1):
        super().__init__()
        block, planes, middle = BLOCKS[size], round(64 * width), round(45 * width)
        self.stem = nn.Sequential(
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(middle), nn.ReLU(),
            nn.Conv3d(middle, planes, (3, 1, 1), padding=(1, 0, 0), bias=False), nn.BatchNorm3d(planes), nn.ReLU(),
        )  # fmt: skip
        chans = planes
        for stage, depth in enumerate(depths or DEPTHS[size]):
            blocks = []
            for index in range(depth):
                stride, out = 2 if stage and not index else 1, planes * block.expansion
                shortcut = None
                if stride > 1 or chans != out:
                    shortcut = nn.Sequential(nn.Conv3d(chans, out, 1, stride, bias=False), nn.BatchNorm3d(out))
                blocks.append(block(chans, planes, VmzConv, stride, shortcut))
                chans = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            planes *= 2
        self.fc = nn.Linear(chans, num_classes)
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm3d)):
            norm.eps = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3, 4)))


def fill(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights and running statistics for a state dict's names and shapes; the same wherever names and shapes are."""
    rng, state = np.random.default_rng(seed), {}
    for key in sorted(shapes):
        shape = tuple(shapes[key].shape)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1)
            continue
        x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        if key.endswith("running_var"):
            x = 0.5 + x.abs()
        elif len(shape) == 1:
            x = 1 + 0.2 * x if key.endswith("weight") else 0.1 * x
        else:
            x *= (2 / np.prod(shape[1:])) ** 0.5
        state[key] = x
    return state


def filled(size: str, **kwargs) -> Reference:
    """A reference with those weights, in evaluation mode."""
    with torch.device("meta"):
        model = Reference(size, **kwargs)
    model.load_state_dict(fill(model.state_dict()), assign=True)
    return model.eval()


def seeded_clip(*shape: int) -> Tensor:
    """The clip that the golden logits were made of."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
