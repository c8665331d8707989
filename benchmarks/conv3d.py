"""R(2+1)D and R2D of Conv3d, put together from torchvision's blocks as VMZ and ig65m-pytorch do: the twin of UniDual.

`Conv3dNet` knows nothing of the package and has torchvision's names of weights; `twin` gives it those of a pathway.
Tests hold outputs against it and read its files, `speed.py` races against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck

from unidual_zoo.models.pathways import SHARED, pathway_of
from unidual_zoo.models.unidual import UniDual, to_video_resnet
from unidual_zoo.spec import VIDEO

BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class Factorised(nn.Sequential):
    """1×3×3 convolution, BatchNorm, ReLU, t×1×1 convolution: torchvision's Conv2Plus1D, t = 1 for frames one by one.

    The middle is sized from the convolution's own channels (VMZ) or, `per_block`, from the block's (torchvision).
    """

    def __init__(
        self, chans: int, planes: int, middle: int, stride: int = 1, *, frames: int = 3, per_block: bool = False
    ) -> None:
        middle = middle if per_block else 27 * chans * planes // (9 * chans + 3 * planes)
        super().__init__(
            nn.Conv3d(chans, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(
                middle, planes, (frames, 1, 1), (_in_time(stride, frames), 1, 1), (frames // 2, 0, 0), bias=False
            ),
        )


def _in_time(stride: int, frames: int) -> int:
    return stride if frames > 1 else 1


class Conv3dNet(nn.Module):
    """Clips (B, C, T, H, W), or images as clips of one frame, -> logits; without classes mean features.

    Args:
        block: "basic" or "bottleneck"; `depths` blocks in each stage, `width` times the channels.
        frames: the temporal kernel: 3 is an R(2+1)D, 1 an R2D.
        pool: a 1×3×3 max pool of stride 2 behind the stem.
        mid_per_block: see `Factorised`.
    """

    def __init__(
        self,
        *,
        block: str,
        depths: Sequence[int],
        num_classes: int = 400,
        width: float = 1.0,
        frames: int = 3,
        pool: bool = False,
        in_chans: int = 3,
        mid_per_block: bool = False,
        norm_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        kind, planes, middle = BLOCKS[block], round(64 * width), round(45 * width)
        self.stem = nn.Sequential(
            nn.Conv3d(in_chans, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, planes, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False),
            nn.BatchNorm3d(planes),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if pool else nn.Identity()
        chans, convolution = planes, partial(Factorised, frames=frames, per_block=mid_per_block)
        self.depth = len(depths)
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride, out, shortcut = 2 if stage and not index else 1, planes * kind.expansion, None
                if stride > 1 or chans != out:
                    strides = (_in_time(stride, frames), stride, stride)
                    shortcut = nn.Sequential(nn.Conv3d(chans, out, 1, strides, bias=False), nn.BatchNorm3d(out))
                blocks.append(kind(chans, planes, convolution, stride, shortcut))
                chans = out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            planes *= 2
        self.fc = nn.Linear(chans, num_classes) if num_classes else nn.Identity()
        for norm in (module for module in self.modules() if isinstance(module, nn.BatchNorm3d)):
            norm.eps = norm_eps

    def features(self, x: Tensor) -> Tensor:
        """Unpooled features (B, D, T', H', W')."""
        x = self.pool(self.stem(x.unsqueeze(2) if x.ndim == 4 else x))
        for stage in range(self.depth):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3, 4)))


def twin(model: UniDual, pathway: str, task: str | None = None) -> Conv3dNet:
    """A pathway, and the head of a task if one is named, as a network of Conv3d with the same weights."""
    arguments = model.arguments()
    same = {name: arguments[name] for name in ("block", "depths", "width", "pool", "in_chans", "norm_eps")}
    made = Conv3dNet(
        **same,
        num_classes=model.tasks[task].num_classes if task else 0,
        frames=3 if pathway == VIDEO else 1,
        mid_per_block=arguments["mid_planes"] == "block",
    )
    own = {key: weight for key, weight in model.state_dict().items() if pathway_of(key) in (None, pathway)}
    own = {key.replace(f".{pathway}.", f".{VIDEO}.").replace(f".{SHARED}.", f".{VIDEO}."): own[key] for key in own}
    theirs = to_video_resnet(own, task or "")  # and what it does not know, such as other heads
    made.load_state_dict({key: theirs[key] for key in made.state_dict()})
    return made.train(model.training)
