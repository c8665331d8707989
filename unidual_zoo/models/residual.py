"""What residual networks over folded frames have in common: blocks, stages, and what `TaskModel` asks of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.fillers import fill_convolutional
from unidual_zoo.models.folding import FoldedBlock, FoldedConvs, UnfoldedConv
from unidual_zoo.models.pathways import Norms, time_to_batch, time_to_rows
from unidual_zoo.spec import VIDEO


class StridedPixelConv(nn.Conv2d):
    """1×1 convolution (N, C, H, W) -> (N, C', ceil(H/stride), ceil(W/stride)).

    Of fewer than 8 channels, the positions are taken first: on processors with AVX2 and no AVX-512 the backward pass of
    oneDNN 3.13 (torch 2.15) writes past its buffers if it is to take them.
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int) -> None:
        super().__init__(in_chans, out_chans, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels >= 8 or self.stride == (1, 1):
            return super().forward(x)
        return F.conv2d(F.avg_pool2d(x, 1, self.stride), self.weight)


class Shortcut(nn.Module):
    """1×1 projection of the residual connection, shared by the pathways: (B*T, C, H, W) -> (B*T', C', H', W')."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int, temporal_stride: int, norms: Norms) -> None:
        super().__init__()
        self.temporal_stride = temporal_stride
        self.conv: nn.Module = StridedPixelConv(in_chans, out_chans, stride=stride)
        self.conv_norm = norms.behind_shared(out_chans)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        if pathway == VIDEO and self.temporal_stride > 1:
            # A slice would be copied, and torch.export cannot tell that it has as many frames as a convolution gives.
            frames = F.avg_pool2d(time_to_rows(x, batch), 1, (self.temporal_stride, 1))
            x = time_to_batch(frames, x.shape[2])
        return self.conv_norm(self.conv(x), pathway)

    def fold(self, pathways: Sequence[str]) -> None:
        """Folds the norm into the convolution."""
        self.conv_norm = FoldedConvs(dict.fromkeys(pathways, self.conv), self.conv_norm)
        self.conv = nn.Identity()

    def unfolded(self, pathway: str) -> UnfoldedConv:
        """The folded shortcut as a Conv3d, its stride in time included."""
        folded: Any = self.conv_norm
        return folded[pathway].unfolded(frame_stride=self.temporal_stride)


class Block(nn.Module, ABC):
    """A residual block of subclasses' layers, perhaps another block behind: (B*T, C, H, W) -> (B*T', C', H', W')."""

    expansion = 1
    behind = ""  # name of the module that takes the sum, if a block has one

    def __init__(
        self,
        in_chans: int,
        planes: int,
        *,
        norms: Norms,
        stride: int = 1,
        temporal_stride: int = 1,
        mid_per_block: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.shortcut = None
        if stride > 1 or in_chans != planes * self.expansion:
            chans = planes * self.expansion
            self.shortcut = Shortcut(in_chans, chans, stride=stride, temporal_stride=temporal_stride, norms=norms)
        self.drop_path = DropPath(drop_path) if drop_path else None
        self.act = nn.ReLU(inplace=True)

    @abstractmethod
    def residual(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        """What is added to the shortcut."""

    @abstractmethod
    def folded_layers(self, pathways: Sequence[str]) -> list[FoldedConvs]:
        """The convolutions of the residual branch in their order, the norm behind each folded in."""

    def folded(self, pathways: Sequence[str]) -> nn.Module:
        """The block that serves, with what is behind it."""
        if self.shortcut is not None:
            self.shortcut.fold(pathways)
        served = FoldedBlock(self.folded_layers(pathways), shortcut=self.shortcut)
        behind: Any = getattr(self, self.behind) if self.behind else None
        if behind is None:
            return served
        behind.fold(pathways)
        return ServedPair(served, behind)

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, pathway, batch)
        x = self.residual(x, pathway, batch)
        if self.drop_path is not None:  # a clip is dropped as a whole
            x = self.drop_path(x.unflatten(0, (batch, -1))).flatten(0, 1)
        x = self.act(x + shortcut)
        behind = getattr(self, self.behind) if self.behind else None
        return x if behind is None else behind(x, pathway, batch)


class ServedPair(nn.Module):
    """A folded block and what is behind it, folded as well."""

    def __init__(self, block: FoldedBlock, behind: nn.Module) -> None:
        super().__init__()
        self.block, self.behind = block, behind

    def forward(self, x: Tensor, pathway: str, batch: int) -> Tensor:
        return self.behind(self.block(x, pathway, batch), pathway, batch)


class Stage(nn.ModuleList):
    """Residual blocks in a row."""

    def forward(self, x: Tensor, run_block: Callable[..., Tensor], pathway: str, batch: int) -> Tensor:
        for block in self.children():
            x = run_block(block, x, pathway, batch)
        return x


def drop_paths(rate: float, depths: Sequence[int]) -> Iterator[float]:
    """How often each block's residual is dropped: from nothing to `rate`, growing with the depth."""
    blocks = sum(depths)
    return iter([rate * index / max(1, blocks - 1) for index in range(blocks)])


class ResidualNet(TaskModel, ABC):
    """A stem, called `stem`, and `stages` of residual blocks, whose numbers are the argument `depths`."""

    fully_convolutional = True
    stem: Any
    stages: nn.ModuleList

    def init_weights(self) -> None:
        """Fills all weights afresh (`models.fillers`)."""
        fill_convolutional(self)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.stem.dtype

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        return features.mean(tuple(range(2, features.ndim)))

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return dict(stem=r"^stem", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)")

    def explained_layers(self) -> tuple[list[str], list[str]]:
        """The stem and the residual blocks; the blocks."""
        depths = [len(list(stage.children())) for stage in self.stages]
        blocks = [f"stages.{number}.{index}" for number, depth in enumerate(depths) for index in range(depth)]
        return ["stem", *blocks], blocks

    def fold(self) -> None:
        if not any(isinstance(module, nn.BatchNorm2d) for module in self.modules()):
            return
        self._fold_stem()
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for index, block in enumerate(stage):
                stage[index] = block.folded(self.pathways)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def _fold_stem(self) -> None:
        self.stem.fold(self.pathways)

    def _prune(self, last: int) -> None:
        self.stages = self.stages[:last]
        self._own_arguments["depths"] = self._own_arguments["depths"][:last]
