"""TimeSformer (Bertasius et al. 2021): a Vision Transformer that attends over time and over space in turn.

Divided attention is the authors' choice: in every block a patch first attends to itself in the other frames, then to
the other patches of its frame, where each frame sees the clip's one class token. Joint attention is over all tokens of
a clip, space-only attention within the frames alone. All but time is a ViT of timm's, from which training starts.

With one frame the temporal branch is a map of each patch by itself, norm, value, two projections. With an image pathway
images have that 1×1 map as a layer of their own, as UniDual's point-wise convolutions, while videos attend over time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models import register_model
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.attention import is_plain
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.heads import first_task
from unidual_zoo.models.pathways import PerPathway, pathway_of
from unidual_zoo.models.practice import TRANSFORMERS
from unidual_zoo.models.rows.timesformer import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec
from unidual_zoo.weights import HEADS, CheckpointError, KeyMap, fit_to_model

DIVIDED, JOINT, SPACE = "divided_space_time", "joint_space_time", "space_only"
ATTENTION_TYPES = (DIVIDED, JOINT, SPACE)  # as the authors, Hugging Face and OpenMMLab call them
PATCH = 16  # pixels of a patch's side, by default
EPS = 1e-6
INIT_STD = 0.02
BRANCH_LAYERS = ("norm", "attn.qkv", "attn.proj", "fc")  # of a `TemporalAttention`

norm_layer = partial(nn.LayerNorm, eps=EPS)


class TimeEmbedding(nn.Module):
    """What is added to the tokens of each of T frames, (T, D): its own row, or that of the nearest frame there is."""

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, frames, dim))

    def forward(self, frames: int) -> Tensor:
        return resize_times(self.weight, frames)[0]


class TemporalAttention(nn.Module):
    """What a patch's tokens (B, N, T, D) gather from one another over time; it starts as nothing."""

    def __init__(self, dim: int, num_heads: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
        self.drop_path = DropPath(drop_path)
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        gathered = self.drop_path(self.attn(self.norm(x).flatten(0, 1)))  # (B*N, T, D)
        return self.fc(gathered).unflatten(0, x.shape[:2])

    def fold(self) -> None:
        """Makes one layer of two: the attention's projection and the one behind it."""
        first, second = self.attn.proj, self.fc
        if not (is_plain(first) and is_plain(second)):  # folded before, for one
            return
        with torch.no_grad():
            weights = (first.weight, first.bias, second.weight, second.bias)
            inner, shift, outer, bias = (weight.to("cpu", torch.float64) for weight in weights)  # some devices lack it
            second.weight.copy_(outer @ inner)
            second.bias.copy_(outer @ shift + bias)
        self.attn.proj = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]


class PixelMap(nn.Module):
    """What the temporal branch is on one token, of any shape (..., D), as a layer; it starts as nothing."""

    def __init__(self, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.norm = norm_layer(dim)
        self.fc = nn.Linear(dim, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.fc(self.norm(x)))


class Block(nn.Module):
    """Tokens (B, 1+N*T, D) of T frames -> the same: each pathway's temporal branch, if it has one, attention, an MLP.

    The class token comes first, then the patches, of which each one's frames lie together. With a temporal branch the
    second attention is within each frame.
    """

    def __init__(self, dim: int, num_heads: int, *, temporal: Mapping[str, nn.Module], drop_path: float) -> None:
        super().__init__()
        self.temporal = PerPathway(dict(temporal))
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias=True)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, pathway: str, frames: int) -> Tensor:
        if pathway in self.temporal:
            patches = x[:, 1:].unflatten(1, (-1, frames))  # (B, N, T, D)
            x = self._attend_within_frames(x[:, :1], patches + self.temporal[pathway](patches))
        else:
            x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend_within_frames(self, token: Tensor, patches: Tensor) -> Tensor:
        """The class token (B, 1, D), which every frame sees and whose answers are averaged, and (B, N, T, D)."""
        batch, frames = patches.shape[0], patches.shape[2]
        x = torch.cat([token.unsqueeze(1).expand(-1, frames, -1, -1), patches.transpose(1, 2)], 2)  # (B, T, 1+N, D)
        x = self.drop_path(self.attn(self.norm1(x.flatten(0, 1)))).unflatten(0, (batch, frames))
        patches = patches + x[:, :, 1:].transpose(1, 2)
        return torch.cat([token + x[:, :, 0].mean(1, keepdim=True), patches.flatten(1, 2)], 1)


class TimeSformer(TaskModel):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Height and width are multiples of the patch's side; of other sizes and numbers of frames than the spec's, embeddings
    are those of the nearest positions and frames. Features are normalised tokens, the class token first: (B, 1+N, D) of
    an image, (B, T, 1+N, D) of a clip, in whose frames the video pathway's class token is the same.

    Args:
        embed_dim, depth, num_heads: of the transformer.
        patch_size: pixels of a patch's side.
        attention_type: "divided_space_time", "joint_space_time" or "space_only", of the video pathway.
        tasks, auxiliary, heads, in_chans, drop_rate: as in `UniDual`.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
        drop_path_rate: of the last block; the authors train with 0.1.
    """

    hooks_see_maps = False
    practice = TRANSFORMERS

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        patch_size: int = PATCH,
        attention_type: str = DIVIDED,
        pathways: Sequence[str] = (VIDEO,),
        tasks: Mapping[str, Any],
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        spec: InputSpec | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("attention_type", attention_type, ATTENTION_TYPES)
        super().__init__(
            pathways=pathways, spec=spec, num_frames=num_frames, in_chans=in_chans,
            arguments=dict(
                embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_size=patch_size,
                attention_type=attention_type, drop_path_rate=drop_path_rate,
            ),
        )  # fmt: skip
        if sides := [side for side in self.spec.crop if side % patch_size]:
            raise ValueError(f"needs inputs of a multiple of {patch_size} pixels, the spec crops to {sides[0]}")
        self.attention_type, self.patch_size = attention_type, patch_size
        self.grid = (self.spec.crop[0] // patch_size, self.spec.crop[1] // patch_size)
        self.patch_embed = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid), embed_dim))
        frames = {IMAGE: 1, VIDEO: self.num_frames}
        timed = () if attention_type == SPACE else self.pathways
        self.time = PerPathway({pathway: TimeEmbedding(frames[pathway], embed_dim) for pathway in timed})
        rates = [drop_path_rate * number / max(1, depth - 1) for number in range(depth)]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, temporal=self._branches(embed_dim, num_heads, rate), drop_path=rate)
            for rate in rates
        )
        self.norm = norm_layer(embed_dim)
        self.feature_info = [
            dict(num_chs=embed_dim, reduction=patch_size, module=f"blocks.{number}") for number in range(depth)
        ]
        self.init_weights()
        self.add_heads(
            num_features=embed_dim, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip

    def _branches(self, dim: int, num_heads: int, drop_path: float) -> dict[str, nn.Module]:
        """A block's temporal branch of each pathway."""
        own: dict[str, nn.Module] = {}
        if self.attention_type == DIVIDED and IMAGE in self.pathways:
            own[IMAGE] = PixelMap(dim, drop_path=drop_path)
        if self.attention_type == DIVIDED and VIDEO in self.pathways:
            own[VIDEO] = TemporalAttention(dim, num_heads, drop_path=drop_path)
        return own

    def init_weights(self) -> None:
        """Normal of deviation 0.02; the temporal branches and the time embeddings begin as nothing."""
        for weight in (self.cls_token, self.pos_embed):
            nn.init.normal_(weight, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, TemporalAttention | PixelMap):
                nn.init.zeros_(module.fc.weight)

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.patch_embed.weight.dtype

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The normalised tokens behind the block number `last`, and the patches to take as maps.

        Frames on the image pathway are images.
        """
        self._check_sides(x)
        leading = x.shape[:1] if x.ndim == 4 else (x.shape[0], x.shape[2])  # (B,) or (B, T)
        frames = x.shape[2] if pathway == VIDEO and self.attention_type != SPACE else 1  # that are one sequence
        x, grid = self._embed(x, pathway, frames)
        taken = {}
        for number, block in enumerate(self.blocks[: last + 1]):
            x = self.run_block(block, x, pathway, frames)
            if number in take:
                taken[number] = by_frame(x[:, 1:], frames).reshape(*leading, *grid, -1).movedim(-1, 1)
        return self.norm(self._tokens(x, pathway, frames, leading)), [taken[number] for number in take]

    def _embed(self, x: Tensor, pathway: str, frames: int) -> tuple[Tensor, torch.Size]:
        """The tokens (S, 1+N*T, D) of sequences of T frames, and the grid (H', W') of their patches."""
        x = self.patch_embed(x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1))  # (S*T, D, H', W')
        grid = x.shape[-2:]
        positions = resize_positions(self.pos_embed, self.grid, grid)
        x = x.flatten(2).transpose(1, 2) + positions[:, 1:]  # (S*T, N, D)
        x = x.unflatten(0, (-1, frames)).transpose(1, 2)  # (S, N, T, D)
        if pathway in self.time:
            x = x + self.time[pathway](frames)
        token = (self.cls_token + positions[:, :1]).expand(x.shape[0], -1, -1)
        return torch.cat([token, x.flatten(1, 2)], 1), grid

    def _tokens(self, x: Tensor, pathway: str, frames: int, leading: Sequence[int]) -> Tensor:
        """(S, 1+N*T, D) -> (B, [T,] 1+N, D), every frame of a clip with the class token of the clip."""
        patches = by_frame(x[:, 1:], frames)  # (S, T, N, D)
        token = x[:, :1].unsqueeze(1).expand(-1, frames, -1, -1)  # (S, T, 1, D)
        x = torch.cat([token, patches], 2).reshape(*leading, -1, x.shape[-1])
        if pathway == VIDEO and self.attention_type == SPACE:
            x = torch.cat([x[:, :, :1].mean(1, keepdim=True).expand(-1, x.shape[1], -1, -1), x[:, :, 1:]], 2)
        return x

    def _check_sides(self, x: Tensor) -> None:
        if not torch.jit.is_tracing() and any(side % self.patch_size for side in x.shape[-2:]):
            raise ValueError(f"needs height and width that are multiples of {self.patch_size}, got {tuple(x.shape)}")

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        token = features.select(-2, 0)  # (B, [T,] D)
        return token.mean(1) if token.ndim == 3 else token

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        stem = r"^cls_token|^pos_embed|^patch_embed|^time"
        return dict(stem=stem, blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])

    def features_modality(self, features: Tensor) -> str:
        return IMAGE if features.ndim == 3 else VIDEO

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed", *(f"time.{pathway}.weight" for pathway in self.time)}

    def explained_layers(self) -> tuple[list[str], list[str]]:
        names = [info["module"] for info in self.feature_info]
        return names, names

    def layer_maps(self, output: Tensor) -> Tensor:
        """A block's tokens (S, 1+N*T, D) of one input of the spec's size -> (S*T, D, H', W')."""
        patches = output[:, 1:].unflatten(1, (*self.grid, -1))  # (S, H', W', T, D)
        return patches.permute(0, 3, 4, 1, 2).flatten(0, 1)

    def feature_maps(self, features: Tensor, pathway: str) -> Tensor:
        """Tokens (B, [T,] 1+N, D) -> (B, D, [T,] H', W'), the patches' with the class token added.

        That alone is pooled: its gradient is to weigh the patches, which have none.
        """
        return (features[..., 1:, :] + features[..., :1, :]).unflatten(-2, self.grid).movedim(-1, 1)

    def _prune(self, last: int) -> None:
        self.blocks = self.blocks[: last + 1]
        self._own_arguments["depth"] = last + 1

    def fold(self) -> None:
        for module in self.modules():
            if isinstance(module, TemporalAttention):
                module.fold()

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a network of this family, with other pathways, sizes, clips or attention, as this one's.

        An image pathway that they lack does to an image what their video pathway does to a single frame. Weights that
        know nothing of time, a space-only network's, are the start that a ViT is.
        """
        adopted = dict(weights)
        temporal = {pathway_of(key) for key in weights if not key.startswith(HEADS)} - {None}
        if not temporal:
            adopted |= self._start_of_time(weights)
        elif IMAGE in self.pathways and IMAGE not in temporal:
            adopted |= on_one_frame(weights)
        if "pos_embed" in adopted:
            adopted["pos_embed"] = self._fitted_positions(adopted["pos_embed"], mode="nearest")
        if (times := adopted.get(f"time.{VIDEO}.weight")) is not None and times.ndim == 3:
            adopted[f"time.{VIDEO}.weight"] = resize_times(times, self.num_frames)
        return super().adopt(adopted)

    def _start_of_time(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The temporal weights with which a ViT begins: attention over time as over space, counting for nothing."""
        begun = {}
        own = self.state_dict()
        for key in [key for key in own if pathway_of(key) and not key.startswith(HEADS)]:
            of_space = re.sub(r"temporal\.\w+\.", "", key).replace(".norm.", ".norm1.")
            begun[key] = weights[of_space] if of_space in weights else torch.zeros_like(own[key])
        return begun

    def _fitted_positions(self, positions: Tensor, *, mode: str) -> Tensor:
        """Position embeddings of a square grid for this network's; those of another are left as they are."""
        rows = positions.shape[1] if positions.ndim == 3 else 0
        side = math.isqrt(max(0, rows - 1))
        if rows in (0, self.pos_embed.shape[1]) or 1 + side**2 != rows:
            return positions
        return resize_positions(positions, (side, side), self.grid, mode=mode)


def by_frame(patches: Tensor, frames: int) -> Tensor:
    """(S, N*T, D), where each patch's frames lie together -> (S, T, N, D)."""
    return patches.unflatten(1, (-1, frames)).transpose(1, 2)


def resize_times(times: Tensor, frames: int) -> Tensor:
    """Time embeddings (1, T, D) -> (1, frames, D), each that of the nearest frame."""
    return F.interpolate(times.transpose(1, 2), size=frames, mode="nearest").transpose(1, 2)


def resize_positions(positions: Tensor, source: Sequence[int], grid: Sequence[int], *, mode: str = "nearest") -> Tensor:
    """Position embeddings (1, 1+N, D) of the class token and a grid (H', W') -> those of another grid."""
    maps = positions[:, 1:].transpose(1, 2).unflatten(2, source)
    maps = F.interpolate(maps, size=tuple(grid), mode=mode, antialias=mode == "bicubic")
    return torch.cat([positions[:, :1], maps.flatten(2).transpose(1, 2)], 1)


# ---- the pathways' weights out of one another's ---------------------------------------------------------------------


def on_one_frame(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image pathway that does to an image what the video pathway of these weights does to a clip of one frame.

    Attention over one token is its value, so that the branch is one linear map behind its norm.
    """
    branch, times = f".temporal.{VIDEO}.", weights.get(f"time.{VIDEO}.weight")
    ours = {} if times is None else {f"time.{IMAGE}.weight": times[:, :1]}
    for at in sorted({key.split(branch)[0] for key in weights if branch in key}):
        theirs = {key.removeprefix(at + branch): value for key, value in weights.items() if key.startswith(at + branch)}
        if theirs.keys() >= {f"{layer}.{last}" for layer in BRANCH_LAYERS for last in ("weight", "bias")}:
            ours |= {f"{at}.temporal.{IMAGE}.{key}": value for key, value in _on_one_token(theirs).items()}
    return ours


def _on_one_token(branch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `TemporalAttention`'s weights -> the `PixelMap`'s."""
    weight, bias = (branch[f"attn.qkv.{last}"].chunk(3)[2] for last in ("weight", "bias"))
    for layer in ("attn.proj", "fc"):
        outer = branch[f"{layer}.weight"]
        weight, bias = outer @ weight, outer @ bias + branch[f"{layer}.bias"]
    norm = {f"norm.{last}": branch[f"norm.{last}"] for last in ("weight", "bias")}
    return {**norm, "fc.weight": weight, "fc.bias": bias}


# ---- checkpoints of other code bases --------------------------------------------------------------------------------

BRANCH = f"blocks.{{i}}.temporal.{VIDEO}"
UPSTREAM = [  # (theirs, ours); without the branch, time and "model." these are timm's names of a ViT
    ("{root}patch_embed.proj", "patch_embed"),
    ("{root}cls_token", "cls_token"),
    ("{root}pos_embed", "pos_embed"),
    ("{root}time_embed", f"time.{VIDEO}.weight"),
    ("{root}blocks.{i}.temporal_norm1", f"{BRANCH}.norm"),
    ("{root}blocks.{i}.temporal_attn.qkv", f"{BRANCH}.attn.qkv"),
    ("{root}blocks.{i}.temporal_attn.proj", f"{BRANCH}.attn.proj"),
    ("{root}blocks.{i}.temporal_fc", f"{BRANCH}.fc"),
    ("{root}blocks.{i}.norm1", "blocks.{i}.norm1"),
    ("{root}blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv"),
    ("{root}blocks.{i}.attn.proj", "blocks.{i}.attn.proj"),
    ("{root}blocks.{i}.norm2", "blocks.{i}.norm2"),
    ("{root}blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"),
    ("{root}blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"),
    ("{root}norm", "norm"),
    ("{root}head", f"{HEADS}{VIDEO}.{{task}}"),
]
HUGGING_FACE = [
    ("timesformer.embeddings.patch_embeddings.projection", "patch_embed"),
    ("timesformer.embeddings.cls_token", "cls_token"),
    ("timesformer.embeddings.position_embeddings", "pos_embed"),
    ("timesformer.embeddings.time_embeddings", f"time.{VIDEO}.weight"),
    ("timesformer.encoder.layer.{i}.temporal_layernorm", f"{BRANCH}.norm"),
    ("timesformer.encoder.layer.{i}.temporal_attention.attention.qkv", f"{BRANCH}.attn.qkv"),
    ("timesformer.encoder.layer.{i}.temporal_attention.output.dense", f"{BRANCH}.attn.proj"),
    ("timesformer.encoder.layer.{i}.temporal_dense", f"{BRANCH}.fc"),
    ("timesformer.encoder.layer.{i}.layernorm_before", "blocks.{i}.norm1"),
    ("timesformer.encoder.layer.{i}.attention.attention.qkv", "blocks.{i}.attn.qkv"),
    ("timesformer.encoder.layer.{i}.attention.output.dense", "blocks.{i}.attn.proj"),
    ("timesformer.encoder.layer.{i}.layernorm_after", "blocks.{i}.norm2"),
    ("timesformer.encoder.layer.{i}.intermediate.dense", "blocks.{i}.mlp.fc1"),
    ("timesformer.encoder.layer.{i}.output.dense", "blocks.{i}.mlp.fc2"),
    ("timesformer.layernorm", "norm"),
    ("classifier", f"{HEADS}{VIDEO}.{{task}}"),
]
_OPENMMLAB = [  # whatever the attention
    ("backbone.patch_embed.projection", "patch_embed"),
    ("backbone.cls_token", "cls_token"),
    ("backbone.pos_embed", "pos_embed"),
    ("backbone.time_embed", f"time.{VIDEO}.weight"),
    ("backbone.transformer_layers.layers.{i}.ffns.0.layers.0.0", "blocks.{i}.mlp.fc1"),
    ("backbone.transformer_layers.layers.{i}.ffns.0.layers.1", "blocks.{i}.mlp.fc2"),
    ("backbone.norm", "norm"),
    ("cls_head.fc_cls", f"{HEADS}{VIDEO}.{{task}}"),
]
OPENMMLAB_DIVIDED = [
    *_OPENMMLAB,
    ("backbone.transformer_layers.layers.{i}.attentions.0.norm", f"{BRANCH}.norm"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.in_proj_weight", f"{BRANCH}.attn.qkv.weight"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.in_proj_bias", f"{BRANCH}.attn.qkv.bias"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.out_proj", f"{BRANCH}.attn.proj"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.temporal_fc", f"{BRANCH}.fc"),
    ("backbone.transformer_layers.layers.{i}.attentions.1.norm", "blocks.{i}.norm1"),
    ("backbone.transformer_layers.layers.{i}.attentions.1.attn.in_proj_weight", "blocks.{i}.attn.qkv.weight"),
    ("backbone.transformer_layers.layers.{i}.attentions.1.attn.in_proj_bias", "blocks.{i}.attn.qkv.bias"),
    ("backbone.transformer_layers.layers.{i}.attentions.1.attn.out_proj", "blocks.{i}.attn.proj"),
    ("backbone.transformer_layers.layers.{i}.ffns.0.norm", "blocks.{i}.norm2"),
]
OPENMMLAB = [
    *_OPENMMLAB,
    ("backbone.transformer_layers.layers.{i}.norms.0", "blocks.{i}.norm1"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.in_proj_weight", "blocks.{i}.attn.qkv.weight"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.in_proj_bias", "blocks.{i}.attn.qkv.bias"),
    ("backbone.transformer_layers.layers.{i}.attentions.0.attn.out_proj", "blocks.{i}.attn.proj"),
    ("backbone.transformer_layers.layers.{i}.norms.1", "blocks.{i}.norm2"),
]
TIMMS_STEM = "patch_embed.proj.weight"


def key_map(weights: Mapping[str, Tensor], task: str) -> KeyMap | None:
    """The names of the code base that the weights are of; None if they are our own."""
    if f"model.{TIMMS_STEM}" in weights:
        return KeyMap(UPSTREAM, root="model.", task=task)
    if TIMMS_STEM in weights:
        return KeyMap(UPSTREAM, root="", task=task)
    if any(key.startswith("timesformer.") for key in weights):
        return KeyMap(HUGGING_FACE, task=task)
    if any(key.startswith("backbone.") for key in weights):
        divided = any(".attentions.1." in key for key in weights)
        return KeyMap(OPENMMLAB_DIVIDED if divided else OPENMMLAB, task=task)
    return None


def start(weights: Mapping[str, Tensor], model: TimeSformer, task: str | None) -> dict[str, Tensor]:
    """A ViT in timm's format -> this network's names, from which `adopt` makes a start.

    Scales of layers are folded into them. The classifier is that of `task`, or left out.
    """
    ours = KeyMap(UPSTREAM, root="", task=task or "").forward(_without_scales(weights))
    if not task:
        ours = {key: value for key, value in ours.items() if not key.startswith(HEADS)}
    if (positions := ours.get("pos_embed")) is not None and positions.ndim == 3:
        if math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:  # the class token has none
            positions = F.pad(positions, (0, 0, 1, 0))
        ours["pos_embed"] = model._fitted_positions(positions, mode="bicubic")
    return ours


def _without_scales(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights, LayerScale's factors multiplied into the layers before them."""
    scaled = dict(weights)
    for place, layer in (("ls1.gamma", "attn.proj"), ("ls2.gamma", "mlp.fc2")):
        for key in [key for key in weights if key.endswith(f".{place}")]:
            gamma, name = scaled.pop(key), key.replace(place, layer)
            for key in {f"{name}.weight", f"{name}.bias"} & scaled.keys():
                value = scaled[key]
                scaled[key] = gamma[:, None] * value if value.ndim == 2 else gamma * value
    return scaled


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: TimeSformer, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """Our own weights, the authors', Hugging Face's or OpenMMLab's, or those of a ViT of timm's, told by their keys.

    Another code base's classifier becomes the head of `task` on every pathway that has one; heads of other tasks are
    fresh then. A ViT's is that of the first image task with as many classes, and nothing is demanded of it.

    Raises:
        CheckpointError: the format is unknown, or what is in it does not fit.
    """
    weights, task = dict(state_dict), task or first_task(model.tasks, VIDEO) or "k400"
    if _is_image_network(state_dict, model, task):
        of_images = first_task(model.tasks, IMAGE)
        fits = of_images and len(weights.get("head.weight", ())) == model.tasks[of_images].num_classes
        task, fresh_heads = of_images if fits else None, True
        weights = start(weights, model, task)
    elif names := key_map(weights, task):
        weights = names.forward(weights)
        fresh_heads = fresh_heads or any(set(model.pathway_tasks(pathway)) - {task} for pathway in model.pathways)
    else:
        task = None  # its heads are where they belong
    if task:
        heads = {key: value for key, value in weights.items() if key.startswith(f"{HEADS}{VIDEO}.{task}.")}
        weights |= {key.replace(VIDEO, pathway, 1): value for pathway in model.pathways for key, value in heads.items()}
    if {key for key in weights if not key.startswith(HEADS)}.isdisjoint(model.state_dict()):
        read = "this package's own, facebookresearch/TimeSformer, Hugging Face, mmaction2, the ViTs of timm"
        raise CheckpointError(f"the weights are in no format of a TimeSformer that is read here: {read}")
    return fit_to_model(model.adopt(weights), model, adaptable=("patch_embed.weight",), fresh_heads=fresh_heads)


def _is_image_network(weights: Mapping[str, Tensor], model: TimeSformer, task: str) -> bool:
    """Whether weights of timm's names know nothing of time; a space-only network's differ in their classes alone."""
    if TIMMS_STEM not in weights or any(key == "time_embed" or ".temporal_" in key for key in weights):
        return False
    classes = model.tasks[task].num_classes if task in model.tasks else 0
    return model.attention_type != SPACE or len(weights.get("head.weight", ())) != classes


def _reduction(arguments: Arguments) -> int:
    """Pixels of the input per token."""
    return arguments.get("patch_size", PATCH)


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=TimeSformer,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv="patch_embed",
    reduction=_reduction,
    about="[TimeSformer](https://arxiv.org/abs/2102.05095), a ViT that attends over time and space in turn, also as "
    "[CoVeR](https://arxiv.org/abs/2112.07175) trains it, on images and videos together",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def timesformer_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TimeSformer, 8 frames of 224 pixels, ViT-B/16, 122 M parameters."""
    return build(FAMILY, "timesformer_base", pretrained, **kwargs)


@register_model
def timesformer_hr(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TimeSformer-HR, 16 frames of 448 pixels, ViT-B/16."""
    return build(FAMILY, "timesformer_hr", pretrained, **kwargs)


@register_model
def timesformer_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TimeSformer-L, 96 frames of 224 pixels, ViT-B/16."""
    return build(FAMILY, "timesformer_large", pretrained, **kwargs)


@register_model
def timesformer_base_dual(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TimeSformer with an image pathway: what the temporal branch is on one token, as a layer of its own."""
    return build(FAMILY, "timesformer_base_dual", pretrained, **kwargs)


@register_model
def cover_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CoVeR's network, 16 frames of 448 pixels, ViT-L/16, 432 M parameters, with a head for each of its data sets."""
    return build(FAMILY, "cover_large", pretrained, **kwargs)
