"""A family from outside the package: attention over patches, LayerNorm, and a format of weights of its own.

It stands for the families to come: what the package asks of a family is here, and nothing else is. docs/architecture.md
explains it part by part. Patches are embedded one by one; an image's attend to each other, a clip's to those of all its
frames, which a time embedding tells apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.pathways import PerPathway, pathway_of
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, KeyMap, fit_to_model

# ---- facts: in the package they stand in rows/tokennet.py -----------------------------------------------------------

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
SPEC = InputSpec(resize=(72, 96), crop=(64, 64), clip=ClipSpec(length=8, stride=2))

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "tokennet": dict(width=64, depth=4, patch=16, pathways=("image", "video"), tasks=IN1K | K400, spec=SPEC),
    "tokennet_video": dict(width=64, depth=4, patch=16, pathways=("video",), tasks=K400, spec=SPEC),
}
CHECKPOINTS: dict[str, Checkpoint] = {
    "tokennet.theirs_in1k": Checkpoint(
        url="https://example.org/theirs-0a1b2c3d.pth", sha256="0a1b2c3d", spec=SPEC, arguments=dict(tasks=IN1K),
        license="mit", source="https://example.org/theirs", about="ImageNet-1k",
    ),
    "tokennet.in1k_k400": Checkpoint(spec=SPEC, recipe="mini --set model=tokennet"),
}  # fmt: skip

# ---- the network ----------------------------------------------------------------------------------------------------


class TokenNet(TaskModel):
    """Images and clips -> logits. Features are tokens: (B, N, D) of an image, (B, T, N, D) of a clip.

    Args:
        width: channels of a token.
        depth: number of blocks.
        patch: pixels along a patch's side.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        patch: int,
        pathways: Sequence[str] = MODALITIES,
        tasks: Mapping[str, Any],
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        spec: InputSpec | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        own = dict(width=width, depth=depth, patch=patch)
        super().__init__(pathways=pathways, spec=spec, num_frames=num_frames, in_chans=in_chans, arguments=own)
        self.grid = tuple(side // patch for side in self.spec.crop)
        self.embed = nn.Conv2d(in_chans, width, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, width, *self.grid))
        self.time = PerPathway({VIDEO: nn.Embedding(self.num_frames, width)} if VIDEO in self.pathways else {})
        self.blocks = nn.ModuleList(Block(width, num_heads=2) for _ in range(depth))
        self.norm = PerPathway({pathway: nn.LayerNorm(width) for pathway in self.pathways})
        self.feature_info = [dict(num_chs=width, reduction=patch, module=f"blocks.{i}") for i in range(depth)]
        self.add_heads(
            num_features=width, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        leading = x.shape[:1] if x.ndim == 4 else (x.shape[0], x.shape[2])  # (B,) of images, (B, T) of clips
        x = self.embed(x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1))  # (B*T, D, h, w)
        grid = x.shape[-2:]
        x = x + F.interpolate(self.position, grid, mode="bilinear")
        x = x.flatten(2).transpose(1, 2)  # (B*T, N, D)
        if pathway == VIDEO:
            times = _resample(self.time[VIDEO].weight, leading[1])
            x = (x.unflatten(0, leading) + times[:, None]).flatten(1, 2)  # (B, T*N, D)
        taken = []
        for number, block in enumerate(self.blocks[: last + 1]):
            x = self.run_block(block, x)
            if number in take:
                taken.append(x.reshape(*leading, *grid, -1).movedim(-1, 1))  # (B, D, [T,] h, w)
        return self.norm[pathway](x).reshape(*leading, grid.numel(), -1), taken

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        return features.flatten(1, -2).mean(1)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return dict(stem=r"^embed|^position|^time", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])

    # ---- hooks, each of which has a default ----

    def features_modality(self, features: Tensor) -> str:
        return IMAGE if features.ndim == 3 else VIDEO

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith(("position", "time."))}

    def explained_layers(self) -> tuple[list[str], list[str]]:
        blocks = [info["module"] for info in self.feature_info]
        return blocks, blocks

    def layer_maps(self, output: Tensor) -> Tensor:
        return output.unflatten(1, (-1, *self.grid))[0].movedim(-1, 1)  # (1, T*N, D) -> (T, D, h, w)

    def feature_maps(self, features: Tensor, pathway: str) -> Tensor:
        return features.unflatten(-2, self.grid).movedim(-1, 1)  # (B, [T,] N, D) -> (B, D, [T,] h, w)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A pathway that the weights lack gets the other's norm, and frames that it cannot tell apart as yet.

        Embeddings of positions and times are resampled to this network's inputs.
        """
        adopted = {key: value for key, value in weights.items() if pathway_of(key) in (None, *self.pathways)}
        for pathway, other in ((IMAGE, VIDEO), (VIDEO, IMAGE)):
            if pathway in self.pathways and f"norm.{pathway}.weight" not in weights:
                norm = {key: value for key, value in weights.items() if key.startswith(f"norm.{other}.")}
                adopted |= {key.replace(other, pathway): value for key, value in norm.items()}
        if "position" in weights:
            adopted["position"] = F.interpolate(weights["position"], self.grid, mode="bilinear")
        if VIDEO in self.pathways:
            times = weights.get("time.video.weight", torch.zeros(1, self.num_features))
            adopted["time.video.weight"] = _resample(times, self.num_frames)
        return adopted

    def _prune(self, last: int) -> None:
        self.blocks = self.blocks[: last + 1]
        self._own_arguments["depth"] = len(self.blocks)


def _resample(times: Tensor, length: int) -> Tensor:
    """Embeddings (F, D) of F times -> (length, D) of as many."""
    return times if len(times) == length else F.interpolate(times.T[None], length, mode="linear")[0].T


# ---- weights of another code base -----------------------------------------------------------------------------------

THEIRS = [  # (theirs, ours): a module or a weight
    ("grid", "position"),
    ("patches", "embed"),
    ("layers.{i+1}.ln1", "blocks.{i}.norm1"),
    ("layers.{i+1}.attention.qkv", "blocks.{i}.attn.qkv"),
    ("layers.{i+1}.attention.out", "blocks.{i}.attn.proj"),
    ("layers.{i+1}.ln2", "blocks.{i}.norm2"),
    ("layers.{i+1}.up", "blocks.{i}.mlp.fc1"),
    ("layers.{i+1}.down", "blocks.{i}.mlp.fc2"),
    ("last_norm", "norm.image"),
    ("classifier", "heads.image.{task}"),
]


def checkpoint_filter_fn(
    weights: Mapping[str, Tensor], model: TokenNet, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """A checkpoint of theirs or of ours -> exactly the model's weights, or an error that says what does not fit."""
    if "patches.weight" in weights:
        weights = KeyMap(THEIRS, task=task or "").forward(weights)
    return fit_to_model(model.adopt(weights), model, adaptable=("embed.weight",), fresh_heads=fresh_heads)


# ---- registered names -----------------------------------------------------------------------------------------------


def _reduction(arguments: Arguments) -> int:
    return arguments["patch"]


FAMILY = Family(
    model_class=TokenNet,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv="embed",
    reduction=_reduction,
    about="attention over patches, the example of a family in [the documentation](https://example.org)",
    classifier_of=IMAGE,
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def tokennet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Attention over the patches of an image, or of all frames of a clip."""
    return build(FAMILY, "tokennet", pretrained, **kwargs)


@register_model
def tokennet_video(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The video pathway alone."""
    return build(FAMILY, "tokennet_video", pretrained, **kwargs)
