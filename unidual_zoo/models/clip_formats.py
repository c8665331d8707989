"""Video networks that others built on CLIP's vision transformer: their names of weights, and the same by ours.

UniFormerV2 (OpenGVLab/UniFormerV2; mmaction2, which has its own head and order of classes) and ST-Adapter
(linziyi96/st-adapter) keep CLIP's names and add theirs. What comes out is a `DualTrunk` of the video pathway alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unidual_zoo.models.rows.kinetics import K400, K710, K710_CLASSES, UNIFORMER_ORDER
from unidual_zoo.models.temporal import QUERY_ALONE
from unidual_zoo.spec import VIDEO
from unidual_zoo.weights import HEADS, KeyMap

_BLOCKS = "transformer.resblocks."
_PREFIX = "backbone."
_BLOCK = "transformer.resblocks.{i}"
_UNIT = f"units.blocks.{{i}}.{VIDEO}"
_GLOBAL = f"global_blocks.{VIDEO}"

_CLIP = [
    ("conv1", "trunk.patch_embed.proj"),
    ("class_embedding", "trunk.cls_token"),
    ("positional_embedding", "trunk.pos_embed"),
    ("ln_pre", "trunk.norm_pre"),
    (f"{_BLOCK}.ln_1", "trunk.blocks.{i}.norm1"),
    (f"{_BLOCK}.attn.in_proj_weight", "trunk.blocks.{i}.attn.qkv.weight"),
    (f"{_BLOCK}.attn.in_proj_bias", "trunk.blocks.{i}.attn.qkv.bias"),
    (f"{_BLOCK}.attn.out_proj", "trunk.blocks.{i}.attn.proj"),
    (f"{_BLOCK}.ln_2", "trunk.blocks.{i}.norm2"),
    (f"{_BLOCK}.mlp.c_fc", "trunk.blocks.{i}.mlp.fc1"),
    (f"{_BLOCK}.mlp.c_proj", "trunk.blocks.{i}.mlp.fc2"),
]
_ST_ADAPTER = [
    *_CLIP,
    ("ln_post", "trunk.norm"),
    ("fc", f"{HEADS}{VIDEO}.{{task}}"),
    *[
        (f"{_BLOCK}.{theirs}.{layer}", f"{_UNIT}.{place}.{ours}")
        for theirs, place in (("adapter_pre_attn", "attention"), ("adapter_pre_mlp", "mlp"))
        for layer, ours in (("fc1", "down"), ("conv", "conv"), ("fc2", "up"))
    ],
]
_UNIFORMERV2 = [
    *_CLIP,
    *[
        (f"{_BLOCK}.{theirs}.pos_embed.{layer}", f"{_UNIT}.{place}.{ours}")
        for theirs, place in (("lmhra1", "attention"), ("lmhra2", "mlp"))
        for layer, ours in enumerate(("norm", "down", "conv", "up"))
    ],
    ("transformer.temporal_cls_token", f"{_GLOBAL}.query"),
    ("transformer.balance", f"{_GLOBAL}.balance"),
    *[
        (f"transformer.{theirs}", f"{_GLOBAL}.blocks.{{j+first}}.{ours}")
        for theirs, ours in (
            ("dpe.{j}", "dpe"),
            ("dec.{j}.attn", "attn"),
            ("dec.{j}.attn.out_proj", "attn.out_proj"),
            ("dec.{j}.ln_1", "norm1"),
            ("dec.{j}.ln_2", "norm2"),
            ("dec.{j}.ln_3", "norm_tokens"),
            ("dec.{j}.mlp.c_fc", "mlp.fc1"),
            ("dec.{j}.mlp.c_proj", "mlp.fc2"),
        )
    ],
]
_ORIGINAL = [("transformer.proj.0", "trunk.norm"), ("transformer.proj.2", f"{HEADS}{VIDEO}.{{task}}")]
_MMACTION = [("transformer.norm", "trunk.norm"), ("cls_head.fc_cls", f"{HEADS}{VIDEO}.{{task}}")]


def has_clip_names(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are named as CLIP's vision transformer."""
    return any(key.removeprefix(_PREFIX).startswith(_BLOCKS) for key in weights)


def from_clip_names(weights: Mapping[str, Tensor], *, first_global: int, task: str) -> dict[str, Tensor]:
    """The weights by our names, the classifier as the video pathway's head of `task`.

    `first_global` is the number of the block at which global blocks begin. A head of Kinetics-400 has its classes in
    the order of `classes/kinetics400.txt`, and one of Kinetics-710 also gives a head of Kinetics-400, its first rows.
    A UniFormerV2 that was trained frozen has no gate: the query passes alone.
    """
    theirs = {key.removeprefix(_PREFIX): value for key, value in weights.items()}
    uniformer, original = "transformer.temporal_cls_token" in theirs, "transformer.proj.0.weight" in theirs
    table = _UNIFORMERV2 + (_ORIGINAL if original else _MMACTION) if uniformer else _ST_ADAPTER
    table = [(name, ours.replace("+first", f"+{first_global}")) for name, ours in table]
    ours = {key: _shaped(key, value) for key, value in KeyMap(table, task=task).forward(theirs).items()}
    conv = ours.get("trunk.patch_embed.proj.weight")
    if conv is not None and conv.ndim == 5:  # it spans several frames: temporal downsampling
        ours[f"embeddings.{VIDEO}.weight"] = ours.pop("trunk.patch_embed.proj.weight")
    if uniformer and f"{_GLOBAL}.balance" not in ours:
        ours[f"{_GLOBAL}.balance"] = torch.full_like(ours[f"{_GLOBAL}.query"].flatten(), QUERY_ALONE)
    return ours | _kinetics_heads(ours, task, reordered=original)


def is_frozen(weights: Mapping[str, Tensor]) -> bool:
    """Whether they are of a UniFormerV2 whose trunk was not trained, by the gate that it lacks."""
    names = {key.removeprefix(_PREFIX) for key in weights}
    return "transformer.temporal_cls_token" in names and "transformer.balance" not in names


def _shaped(key: str, value: Tensor) -> Tensor:
    """A weight in the shape of ours: an embedding (C,) or (N, C), filters of convolutions over (T, H, W)."""
    if key == "trunk.cls_token":
        return value[None, None]
    if key == "trunk.pos_embed":
        return value[None]
    if key == "trunk.patch_embed.proj.weight":
        return value.squeeze(2) if value.ndim == 5 else value
    if key.startswith("units.") and value.ndim == 5:
        return value.flatten(3) if ".conv." in key else value.flatten(1)
    return value


def _kinetics_heads(weights: Mapping[str, Tensor], task: str, *, reordered: bool) -> dict[str, Tensor]:
    """The head of Kinetics-400 in our order, from a head that has or begins with its classes."""
    heads = {}
    for part in ("weight", "bias"):
        rows = weights.get(f"{HEADS}{VIDEO}.{task}.{part}")
        if task not in (K400, K710) or rows is None or rows.ndim == 0 or len(rows) < len(UNIFORMER_ORDER):
            continue
        rows = rows[: len(UNIFORMER_ORDER)] if len(rows) == K710_CLASSES else rows
        if len(rows) == len(UNIFORMER_ORDER):
            heads[f"{HEADS}{VIDEO}.{K400}.{part}"] = rows[list(UNIFORMER_ORDER)] if reordered else rows
    return heads
