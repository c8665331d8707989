"""How image networks of timm are walked layer by layer, so that frames of a clip can meet in between.

A `TrunkKind` describes one class of timm's networks and holds no layers: those, and what they compute, are timm's own.
Of maps (N, C, H, W) and tokens (N, L, C) alike, N is the number of images or of frames folded into the batch.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import timm
import torch
from timm.layers.mlp import Mlp
from timm.layers.norm import RmsNorm, RmsNorm2d
from timm.models import convnext, efficientnet, eva, is_model_in_modules, resnet, vision_transformer
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unidual_zoo.checks import nearest, shorten
from unidual_zoo.models.practice import CONVNEXTS, TRANSFORMERS, Practice

Network = Any  # one of timm's, whose layers a Module's type does not show
Project = Callable[[Tensor], Tensor]  # maps (N, C, H, W) -> maps (N, C', H, W)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)
_EMBED_POSITIONS = {"vision_transformer", "deit", "eva"}  # timm's modules whose networks have a size of their own
_GIVEN = ("num_classes", "in_chans", "drop_path_rate", "img_size", "features_only")  # arguments that are not a trunk's


class Frames(NamedTuple):
    """What goes with the activations of a batch of clips: their number, and of tokens how many come before the grid's.

    `rope` is timm's table of rotary positions.
    """

    batch: int
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)
    rope: Tensor | None = None


class TrunkKind(ABC):
    """A class of timm's networks. Images go stem -> (approach -> block) for every block -> tail -> forward_head."""

    network_class: ClassVar[type[nn.Module]]
    tokens: ClassVar[bool] = False  # (N, L, C) with prefix tokens in front, in place of maps (N, C, H, W)
    practice: ClassVar[Practice | None] = None  # the rates of fine-tuning, where the recipe's own do not do

    @abstractmethod
    def block_names(self, network: Network) -> list[str]:
        """Names of the residual blocks in their order."""

    @abstractmethod
    def channels(self, network: Network, block: Any) -> int:
        """Channels of a block's output."""

    @abstractmethod
    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        """Images, or the frames of `batch` clips -> the input of the first block, or of what its `approach` is."""

    def enter(self, network: Network, patches: Tensor, batch: int, grid: tuple[int, int]) -> tuple[Tensor, Frames]:
        """What `stem` gives, of a transformer's embedded patches (N, H', W', C)."""
        raise NotImplementedError(f"{type(network).__name__} has no patches")

    def approach(self, network: Network, name: str, x: Tensor) -> Tensor:
        """Layers directly before a block that belong to none."""
        return x

    def at(self, network: Network, name: str, frames: Frames) -> Frames:
        """What goes with the activations at a block."""
        return frames

    def run(self, block: Any, x: Tensor, frames: Frames) -> Tensor:
        """A block's output."""
        return block(x)

    def tail(self, network: Network, x: Tensor) -> Tensor:
        """Everything between the last block and `forward_head`."""
        return x

    def normed_behind(self, network: Network) -> bool:
        """Whether there are norms behind the last block that also fit behind pooling."""
        return False

    def pool(self, network: Network, x: Tensor) -> Tensor:
        """The last block's output -> (N, C), without a norm."""
        return x.mean((2, 3))

    def norm(self, network: Network, pooled: Tensor) -> Tensor:
        """What `pool` gave -> (N, D), through the norms that `tail` and `forward_head` have."""
        return pooled

    def frames(self, network: Network, batch: int, grid: tuple[int, int]) -> Frames:
        """What goes with the activations of `batch` clips."""
        return Frames(batch)

    @abstractmethod
    def pooling(self, network: Network) -> str:
        """How `forward_head` pools, as timm's `reset_classifier` takes it."""

    def cut(self, network: Network, last: int, *, neck: bool) -> None:
        """Removes the layers behind output number `last` of `feature_info`, without `neck` all up to the pooling."""
        pooling = self.pooling(network)
        network.prune_intermediate_layers([last], prune_norm=not neck, prune_head=not neck)
        if self.pooling(network) != pooling:  # timm takes it, too
            network.reset_classifier(0, pooling)

    def from_timm(self, weights: Mapping[str, Tensor], network: Network) -> Mapping[str, Tensor]:
        """A checkpoint as timm publishes it -> the weights of this network, as timm makes them fit."""
        return weights

    # ---- parts of blocks, for operators within them ----

    def has_halves(self, block: nn.Module) -> bool:
        """Whether a block can be run in two halves, `attend` and `transform`."""
        return False

    def attend(self, block: Any, x: Tensor, frames: Frames) -> Tensor:
        """The first half of a transformer's block: attention and what it is added to."""
        raise NotImplementedError(f"{type(block).__name__} has no halves")

    def transform(self, block: Any, x: Tensor) -> Tensor:
        """The second half: the MLP and what it is added to."""
        raise NotImplementedError(f"{type(block).__name__} has no halves")

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

    def channels(self, network: Network, block: Any) -> int:
        return block.feature_info("bottleneck")["num_chs"]

    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        return network.bn1(network.conv_stem(x)), Frames(batch)

    def tail(self, network: Network, x: Tensor) -> Tensor:
        return network.bn2(network.conv_head(x))

    def pooling(self, network: Network) -> str:
        return network.global_pool.pool_type

    def projection(self, block: Any) -> tuple[str, str | None] | None:
        names = {
            DepthwiseSeparableConv: ("conv_pw", "bn2"),
            InvertedResidual: ("conv_pwl", "bn3"),
            EdgeResidual: ("conv_pwl", "bn2"),
        }
        found = names.get(type(block))
        if found is None or getattr(block, "conv_s2d", None) or not _is_pointwise(block.get_submodule(found[0])):
            return None
        return found

    def with_projection(self, block: Any, x: Tensor, project: Project) -> Tensor:
        if hasattr(block, "conv_exp"):
            inner = block.bn2(project(block.se(block.aa(block.bn1(block.conv_exp(x))))))
        elif hasattr(block, "conv_pwl"):
            inner = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
            inner = block.bn3(project(block.se(block.aa(inner))))
        else:
            inner = block.bn2(project(block.se(block.aa(block.bn1(block.conv_dw(x))))))
        return block.drop_path(inner) + x if block.has_skip else inner


class ResNetKind(TrunkKind):
    """ResNet, ResNeXt, Wide ResNet, SE-ResNet and others of timm's class."""

    network_class = resnet.ResNet

    def block_names(self, network: Network) -> list[str]:
        return [f"layer{i}.{j}" for i in range(1, 5) for j in range(len(getattr(network, f"layer{i}")))]

    def channels(self, network: Network, block: Any) -> int:
        return (block.conv3 if isinstance(block, resnet.Bottleneck) else block.conv2).out_channels

    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        return network.act1(network.bn1(network.conv1(x))), Frames(batch)

    def approach(self, network: Network, name: str, x: Tensor) -> Tensor:
        return network.maxpool(x) if name == "layer1.0" else x

    def pooling(self, network: Network) -> str:
        return network.global_pool.pool_type

    def projection(self, block: Any) -> tuple[str, str | None] | None:
        if type(block) is not resnet.Bottleneck or not _is_pointwise(block.conv3):
            return None
        return "conv3", "bn3"

    def with_projection(self, block: Any, x: Tensor, project: Project) -> Tensor:
        inner = block.act1(block.bn1(block.conv1(x)))
        inner = block.aa(block.act2(block.drop_block(block.bn2(block.conv2(inner)))))
        inner = block.bn3(project(inner))
        for layer in (block.se, block.drop_path):
            inner = inner if layer is None else layer(inner)
        return block.act3(inner + (x if block.downsample is None else block.downsample(x)))


class ConvNeXtKind(TrunkKind):
    """ConvNeXt."""

    network_class = convnext.ConvNeXt
    practice = CONVNEXTS

    def block_names(self, network: Network) -> list[str]:
        return [f"stages.{i}.blocks.{j}" for i, stage in enumerate(network.stages) for j in range(len(stage.blocks))]

    def channels(self, network: Network, block: Any) -> int:
        return block.conv_dw.out_channels

    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        return network.stem(x), Frames(batch)

    def approach(self, network: Network, name: str, x: Tensor) -> Tensor:
        stage, _, block = name.partition(".blocks.")
        return network.get_submodule(stage).downsample(x) if block == "0" else x

    def tail(self, network: Network, x: Tensor) -> Tensor:
        return network.norm_pre(x)

    def normed_behind(self, network: Network) -> bool:
        return True

    def norm(self, network: Network, pooled: Tensor) -> Tensor:
        return network.forward_head(network.norm_pre(pooled[..., None, None]), pre_logits=True)  # of maps of 1×1

    def pooling(self, network: Network) -> str:
        return network.head.global_pool.pool_type

    def from_timm(self, weights: Mapping[str, Tensor], network: Network) -> Mapping[str, Tensor]:
        return convnext.checkpoint_filter_fn(dict(weights), network)

    def projection(self, block: Any) -> tuple[str, str | None] | None:
        plain = type(block) is convnext.ConvNeXtBlock and type(block.mlp) is Mlp
        return ("mlp.fc2", None) if plain and _is_pointwise(block.mlp.fc2) else None

    def with_projection(self, block: Any, x: Tensor, project: Project) -> Tensor:
        inner, mlp = block.conv_dw(x), block.mlp
        if not block.use_conv_mlp:
            inner = inner.permute(0, 2, 3, 1)
        inner = mlp.norm(mlp.drop1(mlp.act(mlp.fc1(block.norm(inner)))))
        inner = mlp.drop2(project(inner if block.use_conv_mlp else inner.permute(0, 3, 1, 2)))
        if block.gamma is not None:
            inner = inner.mul(block.gamma.reshape(1, -1, 1, 1))
        return block.drop_path(inner) + block.shortcut(x)


def _is_pointwise(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear | nn.Identity)


# ---- transformers ---------------------------------------------------------------------------------------------------


class VisionTransformerKind(TrunkKind):
    """Vision transformers: CLIP's, DeiT III, those with registers, and others of timm's class."""

    network_class: ClassVar[type[nn.Module]] = vision_transformer.VisionTransformer
    tokens = True
    practice = TRANSFORMERS

    def block_names(self, network: Network) -> list[str]:
        return [f"blocks.{i}" for i in range(len(network.blocks))]

    def channels(self, network: Network, block: Any) -> int:
        return network.embed_dim

    def stem(self, network: Network, x: Tensor, batch: int) -> tuple[Tensor, Frames]:
        grid = patch_grid(network, x)
        return self.enter(network, network.patch_embed(x), batch, grid)

    def enter(self, network: Network, patches: Tensor, batch: int, grid: tuple[int, int]) -> tuple[Tensor, Frames]:
        x = network.patch_drop(network._pos_embed(patches))
        return network.norm_pre(x), self.frames(network, batch, grid)

    def tail(self, network: Network, x: Tensor) -> Tensor:
        return network.norm(x)

    def normed_behind(self, network: Network) -> bool:
        return network.attn_pool is None

    def pool(self, network: Network, x: Tensor) -> Tensor:
        return network.pool(x)

    def norm(self, network: Network, pooled: Tensor) -> Tensor:
        return network.fc_norm(network.norm(pooled))

    def frames(self, network: Network, batch: int, grid: tuple[int, int]) -> Frames:
        return Frames(batch, network.num_prefix_tokens, grid)

    def pooling(self, network: Network) -> str:
        return "avg" if network.attn_pool is not None else network.global_pool

    def from_timm(self, weights: Mapping[str, Tensor], network: Network) -> Mapping[str, Tensor]:
        return vision_transformer.checkpoint_filter_fn(dict(weights), network)

    def has_halves(self, block: nn.Module) -> bool:
        return type(block) is vision_transformer.Block

    def attend(self, block: Any, x: Tensor, frames: Frames) -> Tensor:
        return x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))

    def transform(self, block: Any, x: Tensor) -> Tensor:
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class EvaKind(VisionTransformerKind):
    """EVA, EVA-02 and others of timm's class, with rotary positions."""

    network_class = eva.Eva

    def enter(self, network: Network, patches: Tensor, batch: int, grid: tuple[int, int]) -> tuple[Tensor, Frames]:
        x, rope = network._pos_embed(patches)
        return network.norm_pre(x), Frames(batch, network.num_prefix_tokens, grid, rope)

    def frames(self, network: Network, batch: int, grid: tuple[int, int]) -> Frames:
        rope = None if network.rope is None else network.rope.get_embed(shape=grid)
        return Frames(batch, network.num_prefix_tokens, grid, rope)

    def at(self, network: Network, name: str, frames: Frames) -> Frames:
        if frames.rope is None or not network.rope_mixed:
            return frames
        return frames._replace(rope=frames.rope[int(name.rpartition(".")[2])])  # each block has its own

    def run(self, block: Any, x: Tensor, frames: Frames) -> Tensor:
        return block(x, rope=frames.rope)

    def from_timm(self, weights: Mapping[str, Tensor], network: Network) -> Mapping[str, Tensor]:
        return eva.checkpoint_filter_fn(dict(weights), network)

    def has_halves(self, block: nn.Module) -> bool:
        return type(block) is eva.EvaBlock

    def attend(self, block: Any, x: Tensor, frames: Frames) -> Tensor:
        inner = block.attn(block.norm1(x), rope=frames.rope)
        return x + block.drop_path1(inner if block.gamma_1 is None else block.gamma_1 * inner)

    def transform(self, block: Any, x: Tensor) -> Tensor:
        inner = block.mlp(block.norm2(x))
        return x + block.drop_path2(inner if block.gamma_2 is None else block.gamma_2 * inner)


def patch_grid(network: Network, x: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of an input.

    Raises:
        ValueError: it cannot be cut into patches.
    """
    patch = network.patch_embed.patch_size
    if not torch.jit.is_tracing() and any(side % size for side, size in zip(x.shape[-2:], patch, strict=True)):
        raise ValueError(f"needs sides that are multiples of the patch's, {patch[0]}×{patch[1]}, got {tuple(x.shape)}")
    return x.shape[-2] // patch[0], x.shape[-1] // patch[1]


# ---- making a trunk -------------------------------------------------------------------------------------------------

KINDS: dict[type[nn.Module], TrunkKind] = {
    kind.network_class: kind
    for kind in (EfficientNetKind(), ResNetKind(), ConvNeXtKind(), VisionTransformerKind(), EvaKind())
}


def create_trunk(
    name: str, *, img_size: int | None, in_chans: int, drop_path_rate: float, arguments: Mapping[str, Any]
) -> tuple[Network, TrunkKind]:
    """A network of timm without a classifier and without weights, and how it is walked.

    Raises:
        ValueError: timm has no network of that name, it is of no class that can be a trunk, or an argument is not one
            of a network's.
    """
    if not timm.is_model(name):
        near = ", ".join(nearest(name, timm.list_models()))
        raise ValueError(f"timm has no network {name!r} to be a trunk{near and f', the nearest: {near}'}")
    if others := sorted({*_GIVEN, *inspect.signature(timm.create_model).parameters} & {*arguments}):
        raise ValueError(f"trunk_args must be arguments of the network alone, got {shorten(others)}")
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
    resnet.ResNet: (("conv1", "bn1"),),
    resnet.BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
    resnet.Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
}


def fold_norms(network: nn.Module) -> None:
    """Folds the BatchNorms of a network in evaluation mode into the convolutions before them.

    Where a convolution was taken out, its BatchNorm goes: whatever stands in for it has it folded in.
    """
    for module in list(network.modules()):
        pairs = _FOLDABLE.get(type(module), ())
        if isinstance(module, nn.Sequential):  # deep stems and shortcuts
            names = [name for name, _ in module.named_children()]
            pairs = [
                (conv, norm)
                for conv, norm in itertools.pairwise(names)
                if isinstance(module.get_submodule(conv), nn.Conv2d)
            ]
        for conv, norm in pairs:
            _fold(module, conv, norm)


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
    if not isinstance(norm, nn.BatchNorm2d):
        return
    if isinstance(conv, nn.Sequential):  # a deep stem, which ends in a convolution
        last: Any = conv[-1]
        conv[-1] = fuse_conv_bn_eval(last, norm)
    elif isinstance(conv, nn.Conv2d):
        setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
    setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))  # timm's norms may have the activation in them
