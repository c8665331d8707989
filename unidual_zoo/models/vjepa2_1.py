"""V-JEPA 2.1: one transformer for images and videos behind a tokeniser for each (facebookresearch/vjepa2, MIT).

An image is cut into 16×16 patches, a clip into tubelets of two frames; each kind has its own projection and its own
embedding added to all tokens. The rest is shared, with rotary positions over time, height and width. The public
checkpoints are encoders without classifiers: heads are trained on them, on the mean of the tokens or on an attentive
probe, as the authors evaluate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.mlp import Mlp
from timm.layers.weight_init import trunc_normal_
from timm.models import register_model
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.attention import gather
from unidual_zoo.models.base import LEARNING, TaskModel
from unidual_zoo.models.create import build
from unidual_zoo.models.family import Arguments, Family
from unidual_zoo.models.heads import init_head
from unidual_zoo.models.pathways import SHARED, PerPathway
from unidual_zoo.models.practice import TRANSFORMERS
from unidual_zoo.models.rows.vjepa2_1 import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.weights import HEADS, CheckpointError, fit_to_model

PATCH = 16  # pixels of a patch's side
TUBELET = 2  # frames of a clip that make one token
PROBE_DEPTH = 4  # blocks of the authors' classifier
POSITIONS = 15.0  # rows and columns count from 0 to this whatever the size: 256 / 16 - 1
BASE = 10_000.0  # of the rotary frequencies
EPS = 1e-6
INIT_STD = 0.02
_SHARED_NORM = f"norm.{SHARED}."


class Tokeniser(nn.Module):
    """Frames (B, C, T, H, W) -> tokens (B, D, T/t, H/16, W/16): a projection, and the modality's embedding."""

    def __init__(self, in_chans: int, dim: int, *, frames: int) -> None:
        super().__init__()
        kernel = (frames, PATCH, PATCH)
        self.proj = nn.Conv3d(in_chans, dim, kernel, kernel)
        self.modality = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) + self.modality[:, None, None, None]


def rotary_embedding(grid: Sequence[int], head_dim: int, *, like: Tensor) -> Tensor:
    """Sine and cosine (T*H*W, 2*head_dim) of the positions of a token grid (T, H, W), as timm's attention takes them.

    A third of the channels (rounded down to an even number) turns with each axis, pairs (2j, 2j+1) together; what is
    left over does not turn. Rows and columns are stretched to 0 … POSITIONS, time is not.
    """
    share = head_dim // 3 // 2  # frequencies of an axis
    frequencies = BASE ** -(torch.arange(share, dtype=like.dtype, device=like.device) / share)
    axes = []
    for axis, length in enumerate(grid):
        position = torch.arange(length, dtype=like.dtype, device=like.device)
        if axis > 0:
            position = position * (POSITIONS / max(1, length - 1))
        angles = (position[:, None] * frequencies).repeat_interleave(2, -1)  # (length, 2*share)
        shape = [1, 1, 1, -1]
        shape[axis] = length
        axes.append(angles.reshape(shape).expand(*grid, -1))
    still = like.new_zeros((*grid, head_dim - 6 * share))
    angles = torch.cat([*axes, still], -1).flatten(0, 2)
    return torch.cat([angles.sin(), angles.cos()], -1)


class CrossAttention(nn.Module):
    """Queries (B, Q, D) gather from tokens (B, N, D); without an output projection, as the authors' probe."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        (key, _), value = zip(self.kv.weight.chunk(2), self.kv.bias.chunk(2), strict=True)
        return gather(self.q(queries), x, key=key, value=value, num_heads=self.num_heads)


class AttentiveProbe(nn.Module):
    """Tokens (B, N, D) -> (B, D): `depth` - 1 transformer blocks, then one query that attends to all tokens."""

    def __init__(self, dim: int, num_heads: int, *, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth - 1)
        )
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        query = self.query.expand(x.shape[0], -1, -1)  # len(x) would be a constant to torch.export
        query = query + self.attn(query, self.norm1(x))
        return (query + self.mlp(self.norm2(query))).squeeze(1)


class VJepa21(TaskModel):
    """Images (B, C, H, W) and clips (B, C, T, H, W) -> logits (B, classes) of a task.

    Height and width are multiples of 16. On the video pathway two frames make a token, a last odd one is left out, and
    a single frame counts twice.

    Args:
        embed_dim, depth, num_heads: of the transformer.
        tasks, auxiliary, heads, in_chans, drop_rate, drop_path_rate: as in `UniDual`.
        norms: "shared" is the encoder's last LayerNorm for both pathways; "split" gives each its own.
        token_pool: "mean" of the tokens, or "attentive": a probe of `probe_depth` blocks for each pathway.
        spec: the InputSpec or its dict; `num_frames` overrides its clip length.
    """

    hooks_see_maps = False
    practice = TRANSFORMERS

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        pathways: Sequence[str] = MODALITIES,
        tasks: Mapping[str, Any],
        auxiliary: bool = False,
        heads: Mapping[str, Sequence[str]] | None = None,
        norms: str = SHARED,
        token_pool: str = "mean",
        probe_depth: int = PROBE_DEPTH,
        spec: InputSpec | Mapping[str, Any] | None = None,
        num_frames: int | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        check_known("norms", norms, ("split", SHARED))
        check_known("token_pool", token_pool, ("mean", "attentive"))
        super().__init__(
            pathways=pathways, spec=spec, num_frames=num_frames, in_chans=in_chans,
            arguments=dict(
                embed_dim=embed_dim, depth=depth, num_heads=num_heads, norms=norms, token_pool=token_pool,
                probe_depth=probe_depth, drop_path_rate=drop_path_rate,
            ),
        )  # fmt: skip
        if sides := [side for side in self.spec.crop if side % PATCH]:
            raise ValueError(f"needs inputs of a multiple of {PATCH} pixels, the spec crops to {sides[0]}")
        frames = {IMAGE: 1, VIDEO: TUBELET}
        self.tokeniser = PerPathway({p: Tokeniser(in_chans, embed_dim, frames=frames[p]) for p in self.pathways})
        block = partial(EvaBlock, embed_dim, num_heads, attn_type="rope", num_prefix_tokens=0)
        norm = partial(nn.LayerNorm, eps=EPS)
        self.blocks = nn.ModuleList(
            block(norm_layer=norm, drop_path=drop_path_rate * index / max(1, depth - 1)) for index in range(depth)
        )
        self.head_dim = embed_dim // num_heads
        shared = norms == SHARED and len(self.pathways) > 1
        self.norm = PerPathway({name: norm(embed_dim) for name in ((SHARED,) if shared else self.pathways)})
        self.probe = PerPathway()
        if token_pool == "attentive":
            self.probe.update({p: AttentiveProbe(embed_dim, num_heads, depth=probe_depth) for p in self.pathways})
        self.feature_info = [dict(num_chs=embed_dim, reduction=PATCH, module=f"blocks.{n}") for n in range(depth)]
        self.add_heads(
            num_features=embed_dim, tasks=tasks, auxiliary=auxiliary, heads=heads, drop_rate=drop_rate,
            global_pool=global_pool,
        )  # fmt: skip
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal of deviation 0.02, outputs of the residual branches smaller the deeper they are."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, EvaBlock)
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_((2 * number) ** 0.5)
            for probe in self.probe.values():
                assert isinstance(probe, AttentiveProbe)
                trunc_normal_(probe.query, std=INIT_STD)
            for heads in self.heads.values():
                for head in heads.children():
                    init_head(head)  # pyright: ignore[reportArgumentType]

    # ---- what TaskModel asks ----------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        tokeniser = self.tokeniser[self.pathways[0]]
        assert isinstance(tokeniser, Tokeniser)
        return tokeniser.proj.weight.dtype

    def _features(self, x: Tensor, pathway: str) -> Tensor:
        """The normalised tokens as maps: (B, D, H/16, W/16), or of a clip (B, D, T', H/16, W/16)."""
        return self._intermediates(x, pathway, take=(), last=len(self.blocks) - 1)[0]

    def _intermediates(self, x: Tensor, pathway: str, *, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The normalised maps behind the block number `last`, and those to take as they are.

        Frames on the image pathway are images.
        """
        self._check_sides(x)
        batch, as_clip = x.shape[0], x.ndim == 5
        if pathway == IMAGE:
            x = x.transpose(1, 2).flatten(0, 1).unsqueeze(2) if as_clip else x.unsqueeze(2)  # (B*T, C, 1, H, W)
        elif x.shape[2] < TUBELET:
            x = x.expand(-1, -1, TUBELET, -1, -1)
        maps = self.tokeniser[pathway](x)  # (B, D, T', H', W')
        grid = maps.shape[2:]
        rope = rotary_embedding(grid, self.head_dim, like=maps)
        x, taken = maps.flatten(2).transpose(1, 2), {}  # (B, N, D)
        for number, block in enumerate(self.blocks[: last + 1]):
            x = self.run_block(block, x, rope)
            if number in take:
                taken[number] = x
        x = self.norm[SHARED if SHARED in self.norm else pathway](x)
        outputs = [tokens.transpose(1, 2).unflatten(2, grid) for tokens in (x, *(taken[number] for number in take))]
        if pathway == IMAGE:
            outputs = [maps.squeeze(2) for maps in outputs]
            if as_clip:
                outputs = [maps.unflatten(0, (batch, -1)).transpose(1, 2) for maps in outputs]
        return outputs[0], outputs[1:]

    def _check_sides(self, x: Tensor) -> None:
        if not torch.jit.is_tracing() and any(side % PATCH for side in x.shape[-2:]):
            raise ValueError(f"needs height and width that are multiples of {PATCH}, got {tuple(x.shape)}")

    def _pool(self, features: Tensor, pathway: str) -> Tensor:
        if pathway not in self.probe:
            return features.mean(tuple(range(2, features.ndim)))
        if pathway == IMAGE and features.ndim == 5:  # every frame is an image
            frames = features.transpose(1, 2).flatten(0, 1)
            return self._pool(frames, pathway).unflatten(0, (features.shape[0], -1)).mean(1)
        return self.probe[pathway](features.flatten(2).transpose(1, 2))

    def trunk_modules(self) -> Iterator[nn.Module]:
        return (child for name, child in self.named_children() if name not in (*LEARNING, "probe"))

    def learnt_pooling(self, pathway: str) -> nn.Module | None:
        """The probe."""
        return dict(self.probe).get(pathway)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r"^tokeniser", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith((".modality", ".query"))}

    def explained_layers(self) -> tuple[list[str], list[str]]:
        names = [info["module"] for info in self.feature_info]
        return names, names

    def layer_maps(self, output: Tensor) -> Tensor:
        """A block's tokens (B, N, D) of inputs of the spec's size -> (B*T', D, H', W')."""
        height, width = (side // PATCH for side in self.spec.crop)
        return output.unflatten(1, (-1, height, width)).flatten(0, 1).permute(0, 3, 1, 2)

    def adopt(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A norm that pathways shared becomes each one's own where this network has such."""
        adopted = super().adopt(weights)
        if SHARED in self.norm:
            return adopted
        shared = {key: adopted.pop(key) for key in list(adopted) if key.startswith(_SHARED_NORM)}
        return {key.replace(SHARED, name): value for key, value in shared.items() for name in self.norm} | adopted

    def _prune(self, last: int) -> None:
        self.blocks = self.blocks[: last + 1]
        self._own_arguments["depth"] = last + 1

    def _drop_neck(self) -> None:
        self.probe = PerPathway()
        self._own_arguments["token_pool"] = "mean"


# ---- checkpoints of other code bases --------------------------------------------------------------------------------

_PREFIXES = ("module.", "backbone.", "encoder.", "classifier.", "pooler.")  # of the authors' training
_IN_PROBE = "pooler."
_PROBE_BLOCK = re.compile(r"pooler\.blocks\.(\d+)\.")
_NAMES = {  # the authors' -> ours, where they differ; {probe} and {head} depend on the pathway and the task
    "patch_embed.proj.": "tokeniser.video.proj.",
    "patch_embed_img.proj.": "tokeniser.image.proj.",
    "video_mod_embed": "tokeniser.video.modality",
    "img_mod_embed": "tokeniser.image.modality",
    "query_tokens": "{probe}.query",
    "cross_attention_block.xattn.": "{probe}.attn.",
    "cross_attention_block.": "{probe}.",
    "linear.": "{head}.",
}


def from_upstream(state_dict: Mapping[str, Tensor], *, pathway: str, task: str) -> dict[str, Tensor]:
    """The authors' encoder, their attentive classifier or both -> ours, the classifier as the probe and the head.

    Of the encoder's norms behind four of its blocks only the last one is used.
    """
    ours: dict[str, Tensor] = {}
    names = {"probe": f"probe.{pathway}", "head": f"{HEADS}{pathway}.{task}"}
    last_norm = max((key for key in state_dict if "norms_block." in key), default="").rpartition(".")[0]
    for key, value in state_dict.items():
        name, in_probe = key, _IN_PROBE in key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name.startswith("norms_block."):
            if key.rpartition(".")[0] == last_norm:
                ours[f"{_SHARED_NORM}{name.rpartition('.')[2]}"] = value
            continue
        theirs = next((theirs for theirs in _NAMES if name.startswith(theirs)), None)
        if theirs is not None:
            name = name.replace(theirs, _NAMES[theirs].format(**names), 1)
        elif in_probe:  # its transformer blocks are named as the encoder's
            name = f"{names['probe']}.{name}"
        ours[name] = value.flatten() if name.endswith(".modality") else value
    return ours


def implied_arguments(state_dict: Mapping[str, Tensor], arguments: Arguments) -> dict[str, Any]:
    """The probe of the authors' attentive classifier, if it is among the weights."""
    if not any(_IN_PROBE in key for key in state_dict):
        return {}
    depth = 1 + len({found[1] for key in state_dict if (found := _PROBE_BLOCK.search(key))})
    implied = {} if depth == arguments.get("probe_depth", PROBE_DEPTH) else {"probe_depth": depth}
    return {"token_pool": "attentive", **implied}


def checkpoint_filter_fn(
    state_dict: Mapping[str, Tensor], model: VJepa21, *, task: str | None = None, fresh_heads: bool = True
) -> dict[str, Tensor]:
    """Our own weights, or the authors': an encoder, with an attentive classifier for `task` perhaps.

    An encoder alone leaves heads and probes fresh; a pathway's own norm begins as the encoder's.
    """
    if any("norms_block." in key for key in state_dict):
        own = model.state_dict()
        task = task or "k400"
        pathway = next((pathway for pathway in model.pathways if task in model.heads[pathway]), model.pathways[-1])
        weights = from_upstream(state_dict, pathway=pathway, task=task)
        kept = model.adopt(weights)
        probes = {key: value for key, value in own.items() if key.startswith("probe.") and key not in kept}
        state_dict, fresh_heads = {**probes, **kept}, True
    elif model.state_dict().keys().isdisjoint(state_dict):
        read = "this package's own, facebookresearch/vjepa2's V-JEPA 2.1"
        raise CheckpointError(f"the weights are in no format that is read here: {read}")
    elif SHARED not in model.norm:
        state_dict = model.adopt(state_dict)
    adaptable = [f"tokeniser.{pathway}.proj.weight" for pathway in model.pathways]
    return fit_to_model(state_dict, model, adaptable=adaptable, fresh_heads=fresh_heads)


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=VJepa21,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    implied_arguments=implied_arguments,
    first_conv="tokeniser.image.proj",
    reduction=PATCH,
    about="[V-JEPA 2.1](https://github.com/facebookresearch/vjepa2), one transformer behind a tokeniser for each "
    "modality",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def vjepa2_1_vit_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """V-JEPA 2.1 ViT-B/16, 87 M parameters, distilled from ViT-G."""
    return build(FAMILY, "vjepa2_1_vit_base", pretrained, **kwargs)


@register_model
def vjepa2_1_vit_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """V-JEPA 2.1 ViT-L/16, 305 M parameters, distilled from ViT-G."""
    return build(FAMILY, "vjepa2_1_vit_large", pretrained, **kwargs)
