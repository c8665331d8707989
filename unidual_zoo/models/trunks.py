"""How image networks of timm are walked layer by layer, so that frames of a clip can meet in between.

A `TrunkKind` describes one class of timm's networks and holds no layers: those, and what they compute, are timm's own.
Of maps (N, C, H, W) and tokens (N, L, C) alike, N is the number of images or of frames folded into the batch.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, NamedTuple

import timm
from timm.layers.norm import RmsNorm, RmsNorm2d
from timm.models import efficientnet, is_model_in_modules
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = Any  # one of timm's, whose layers a Module's type does not show
Project = Callable[[Tensor], Tensor]  # maps (N, C, H, W) -> maps (N, C', H, W)
_EMBED_POSITIONS = {"vision_transformer", "deit", "eva"}  # timm's modules whose networks have a size of their own
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)


class Frames(NamedTuple):
    """What goes with the activations of a batch of clips: their number, and of tokens the grid and the rotary table."""

    batch: int
    grid: tuple[int, int] | None = None
    rope: Tensor | None = None


class TrunkKind(ABC):
    """A class of timm's networks. Images go stem -> (approach -> block) for every block -> tail -> forward_head."""

    network_class: ClassVar[type[nn.Module]]
    tokens: ClassVar[bool] = False  # (N, L, C) with prefix tokens in front, in place of maps (N, C, H, W)
    normed_behind: ClassVar[bool] = False  # whether there is a norm between the last block and the heads

    @abstractmethod
    def block_names(self, network: Network) -> list[str]:
        """Names of the residual blocks in their order."""

    @abstractmethod
    def channels(self, block: nn.Module) -> int:
        """Channels of a block's output."""

    @abstractmethod
    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        """Images, or the frames of `batch` clips -> the input of the first block, or of what its `approach` is."""

    def approach(self, network: Network, name: str, x: Tensor) -> Tensor:
        """Layers directly before a block that belong to none."""
        return x

    def run(self, block: nn.Module, x: Tensor, frames: Frames) -> Tensor:
        """A block's output."""
        return block(x)

    def tail(self, network: Network, x: Tensor) -> Tensor:
        """Everything between the last block and `forward_head`."""
        return x

    def pool(self, network: Network, x: Tensor) -> Tensor:
        """The last block's output -> (N, C), without a norm."""
        return x.mean((2, 3))

    def norm(self, network: Network, pooled: Tensor) -> Tensor:
        """What `pool` gave -> (N, D), through the norms that `tail` and `forward_head` have."""
        return pooled

    @abstractmethod
    def pooling(self, network: Network) -> str:
        """How `forward_head` pools, as timm's `reset_classifier` takes it."""

    def cut(self, network: Network, last: int, *, neck: bool) -> None:
        """Removes the layers behind output number `last` of `feature_info`, without `neck` all up to the pooling."""
        pooling = self.pooling(network)
        network.prune_intermediate_layers([last], prune_head=not neck)
        network.reset_classifier(0, pooling)  # pruning took it

    def from_timm(self, weights: Mapping[str, Tensor], network: Network) -> Mapping[str, Tensor]:
        """A checkpoint as timm publishes it -> the weights of this network, as timm makes them fit."""
        return weights

    def projection(self, block: nn.Module) -> tuple[str, str | None] | None:
        """Names in a block of its last 1×1 projection and of the BatchNorm behind it; None if it has no such layer.

        The projection may have been taken out.
        """
        return None

    def with_projection(self, block: Any, x: Tensor, project: Project) -> Tensor:
        """The block's output with `project` in place of its last 1×1 projection."""
        raise NotImplementedError(f"{type(block).__name__} has no projection")


# ---- convolutional networks -----------------------------------------------------------------------------------------


class EfficientNetKind(TrunkKind):
    """EfficientNet, MobileNetV2, MNASNet and others of timm's builder."""

    network_class = efficientnet.EfficientNet

    def block_names(self, network: Network) -> list[str]:
        return [f"blocks.{i}.{j}" for i, stage in enumerate(network.blocks) for j in range(len(stage))]

    def channels(self, block: Any) -> int:
        return block.feature_info("bottleneck")["num_chs"]

    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        return network.bn1(network.conv_stem(x)), Frames(batch)

    def tail(self, network: Network, x: Tensor) -> Tensor:
        return network.bn2(network.conv_head(x))

    def pooling(self, network: Network) -> str:
        return network.global_pool.pool_type

    def projection(self, block: Any) -> tuple[str, str | None] | None:
        if getattr(block, "conv_s2d", None) is not None:
            return None
        names = {DepthwiseSeparableConv: ("conv_pw", "bn2"), InvertedResidual: ("conv_pwl", "bn3")}
        found = names.get(type(block))
        return found if found and _is_pointwise(block.get_submodule(found[0])) else None

    def with_projection(self, block: Any, x: Tensor, project: Project) -> Tensor:
        if hasattr(block, "conv_pwl"):
            inner = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
            inner = block.bn3(project(block.se(block.aa(inner))))
        else:
            inner = block.bn2(project(block.se(block.aa(block.bn1(block.conv_dw(x))))))
        return block.drop_path(inner) + x if block.has_skip else inner


def _is_pointwise(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear | nn.Identity)


KINDS: dict[type[nn.Module], TrunkKind] = {kind.network_class: kind for kind in (EfficientNetKind(),)}


def create_trunk(
    name: str, *, img_size: int | None, in_chans: int, drop_path_rate: float, arguments: Mapping[str, Any]
) -> tuple[Network, TrunkKind]:
    """A network of timm without a classifier and without weights, and how it is walked.

    Raises:
        ValueError: timm has no network of that name, or it is of no class that can be a trunk.
    """
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3))
        raise ValueError(f"timm has no network {name!r} to be a trunk{near and f', the nearest: {near}'}")
    arguments = {**_size_arguments(name, img_size), **arguments}
    network = timm.create_model(name, num_classes=0, in_chans=in_chans, drop_path_rate=drop_path_rate, **arguments)
    if type(network) not in KINDS:
        allowed = ", ".join(kind.__name__ for kind in KINDS)
        raise ValueError(f"trunk {name!r} is timm's {type(network).__name__}, allowed: {allowed}")
    return network, KINDS[type(network)]


def _size_arguments(name: str, img_size: int | None) -> dict[str, Any]:
    """What timm's transformers are to be told so that they take inputs of any size."""
    if not is_model_in_modules(name.partition(".")[0], _EMBED_POSITIONS):
        return {}
    return {"dynamic_img_size": True} | ({} if img_size is None else {"img_size": img_size})


# ---- one trunk, two sets of norms -----------------------------------------------------------------------------------


class OwnNorms(nn.Module):
    """A second network that shares every weight with `trunk` but for its norms, which start as copies of the trunk's.

    Its state dict holds these norms alone. `share` is to be called when the trunk's weights were replaced by others.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk: Network = copy.deepcopy(trunk)
        self.shares = True
        self.share(trunk)
        self.register_state_dict_post_hook(_leave_out_shared)
        self.register_load_state_dict_pre_hook(_put_in_shared)

    def share(self, trunk: nn.Module) -> None:
        """Takes the trunk's weights, all but the norms'."""
        if not self.shares:
            return
        for name, module in trunk.named_modules():
            if not isinstance(module, NORMS):
                own = self.trunk.get_submodule(name)
                for key, weight in module.named_parameters(recurse=False):
                    own.register_parameter(key, weight)

    def own_keys(self) -> set[str]:
        """Names of the norms' weights and statistics in this module's state dict."""
        norms = [(name, module) for name, module in self.trunk.named_modules() if isinstance(module, NORMS)]
        return {f"trunk.{name}.{key}" for name, norm in norms for key in norm.state_dict()}


def _leave_out_shared(module: OwnNorms, state_dict: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    if module.shares:
        own = module.own_keys()
        for key in [key for key in state_dict if key.startswith(prefix) and key.removeprefix(prefix) not in own]:
            del state_dict[key]


def _put_in_shared(module: OwnNorms, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Loading finds the shared weights as they are: the trunk loads them."""
    if module.shares:
        own = module.own_keys()
        for key, weight in module.trunk.state_dict(prefix="trunk.", keep_vars=True).items():
            if key not in own:
                state_dict[f"{prefix}{key}"] = weight


# ---- BatchNorms folded into convolutions ----------------------------------------------------------------------------

_FOLDABLE: dict[type[nn.Module], Sequence[tuple[str, str]]] = {  # convolutions and the BatchNorms behind them
    efficientnet.EfficientNet: (("conv_stem", "bn1"), ("conv_head", "bn2")),
    ConvBnAct: (("conv", "bn1"),),
    DepthwiseSeparableConv: (("conv_s2d", "bn_s2d"), ("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_s2d", "bn_s2d"), ("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    EdgeResidual: (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
}


def fold_norms(network: nn.Module) -> None:
    """Folds the BatchNorms of a network in evaluation mode into the convolutions before them.

    Where a convolution was taken out, its BatchNorm goes: whatever stands in for it has it folded in.
    """
    for module in list(network.modules()):
        for conv, norm in _FOLDABLE.get(type(module), ()):
            _fold(module, conv, norm)


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
    if isinstance(norm, nn.BatchNorm2d):
        if isinstance(conv, nn.Conv2d):
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms have the activation in them
