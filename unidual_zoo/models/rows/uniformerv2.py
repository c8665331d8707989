"""UniFormerV2 (OpenGVLab/UniFormerV2, mmaction2): the variants' constructor arguments and the checkpoints.

The tags that begin with `mm_` are mmaction2's files: its own training (the base networks) and what it ported, with the
classes of Kinetics in alphabetical order. The others are the authors', whose Kinetics-400 heads are reordered on
loading. No Kinetics, Moments in Time, ActivityNet or HACS network has local blocks or temporal downsampling.
"""

from __future__ import annotations

from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

TASKS = {  # video tasks and their classes
    "k400": 400, "k600": 600, "k700": 700, "k710": 710, "mit": 339, "ssv1": 174, "ssv2": 174, "anet": 200, "hacs": 200,
}  # fmt: skip
DATA = {
    "k400": "Kinetics-400", "k600": "Kinetics-600", "k700": "Kinetics-700", "k710": "the 710 classes of all Kinetics",
    "mit": "Moments in Time V1", "ssv1": "Something-Something V1", "ssv2": "Something-Something V2",
    "anet": "ActivityNet", "hacs": "HACS",
}  # fmt: skip
ORDER_UNKNOWN = ("k600", "k700", "k710")  # of the authors' heads: their lists of classes are not public as text


def spec(*, side: int, frames: int) -> InputSpec:
    """Squares of that side, and as many frames, each of one of as many parts of the whole video."""
    return InputSpec(
        resize=side, crop=(side, side), mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225),
        clip=ClipSpec(length=frames, sampling="segments"), classes={"k400": "kinetics400"},
    )  # fmt: skip


# The trunks are OpenAI's CLIP, whose GELU is the quick one. The authors train with drop_rate=0.5 and, on Something-
# Something, ActivityNet and HACS, drop_path_rate=0.2.
GLOBAL: dict[str, Any] = dict(operator="none", global_blocks=4, frame_mean="before_norm")
VIDEO: dict[str, Any] = dict(pathways=("video",), tasks={"k400": ("video", 400)}, **GLOBAL)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "uniformerv2_base_patch16_224": dict(
        trunk="vit_base_patch16_clip_quickgelu_224", **VIDEO, spec=spec(side=224, frames=8)
    ),
    "uniformerv2_large_patch14_224": dict(
        trunk="vit_large_patch14_clip_quickgelu_224", **VIDEO, spec=spec(side=224, frames=8)
    ),
    "uniformerv2_large_patch14_336": dict(
        trunk="vit_large_patch14_clip_quickgelu_336", **VIDEO, spec=spec(side=336, frames=8)
    ),
}

# ---- checkpoints ----------------------------------------------------------------------------------------------------

LOCAL: dict[str, Any] = dict(operator="local_mhra", per_block=2, temporal_downsample=True)
BASE_LOCAL, LARGE_LOCAL = LOCAL | dict(global_blocks=8), LOCAL | dict(global_blocks=16)
CLIP, CLIP_K710 = "OpenAI's CLIP", "OpenAI's CLIP, then the 710 classes of all Kinetics"
CLIP_K710_K400 = f"{CLIP_K710}, then Kinetics-400"
LEAK = (
    "; the training videos of Kinetics-600 and -700 hold many of some people's own Kinetics-400 validation sets, on "
    "which such networks have about 90% before they are fine-tuned: measure on the official one"
)
FROZEN = (
    "; the trunk is said to be CLIP's, which is not proven here: it is compared on loading if CLIP's file is in the "
    "Hub's cache"
)
ORDER = "; its classes are in the order of the authors' list, which is not here"

MMACTION = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/uniformerv2"
MMACTION_FILES = "https://download.openmmlab.com/mmaction/v1.0/recognition/uniformerv2"
ORIGINAL = "https://github.com/OpenGVLab/UniFormerV2/blob/main/MODEL_ZOO.md"
ORIGINAL_FILES = "https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/uniformerv2"


def about(task: str, pretraining: str) -> str:
    """What weights were trained on."""
    return f"{pretraining}, then {DATA[task]}" + (LEAK if task == "k710" or "710" in pretraining else "")


def figures(task: str, top: tuple[float, ...], views: str, source: str) -> list[Metric]:
    """Top-1 and top-5, as the source reports them for clips × crops."""
    named = zip(("top-1", "top-5"), top, strict=False)
    protocol = f"uniformerv2_{views}"
    return [Metric(task=task, metric=name, value=value, protocol=protocol, source=source) for name, value in named]


def mmaction(
    file: str,
    *,
    side: int,
    frames: int,
    task: str,
    pretraining: str,
    top: tuple[float, ...] = (),
    views: str = "4x3",
) -> Checkpoint:
    """A row of mmaction2's; the figures are those on its own copy of the data."""
    return Checkpoint(
        url=f"{MMACTION_FILES}/{file}", spec=spec(side=side, frames=frames),
        arguments=dict(tasks={task: ("video", TASKS[task])}), license="apache-2.0", source=MMACTION,
        about=about(task, pretraining),
        upstream=figures(task, top, views, MMACTION),
    )  # fmt: skip


def original(
    file: str,
    *,
    side: int,
    frames: int,
    task: str,
    pretraining: str,
    top: tuple[float, ...] = (),
    views: str = "4x3",
    local: dict[str, Any] | None = None,
    frozen: bool = False,
) -> Checkpoint:
    """A row of the authors'; their repository's LICENSE is Apache-2.0, where its README says MIT."""
    notes = (ORDER if task in ORDER_UNKNOWN else "") + (FROZEN if frozen else "")
    return Checkpoint(
        url=f"{ORIGINAL_FILES}/{file}", spec=spec(side=side, frames=frames),
        arguments=dict(tasks={task: ("video", TASKS[task])}, **(local or {})), license="apache-2.0", source=ORIGINAL,
        about=about(task, pretraining) + notes, upstream=figures(task, top, views, ORIGINAL),
    )  # fmt: skip


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first is the default
    "uniformerv2_base_patch16_224.mm_clip_k400_8f": mmaction(
        "uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics400-rgb/uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics400-rgb_20230313-e29fc968.pth",
        side=224, frames=8, task="k400", pretraining=CLIP, top=(84.4, 96.3),
    ),
    "uniformerv2_base_patch16_224.mm_k710_k400_8f": mmaction(
        "uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics400-rgb/uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics400-rgb_20230313-75be0806.pth",
        side=224, frames=8, task="k400", pretraining=CLIP_K710, top=(85.8, 97.1),
    ),
    "uniformerv2_base_patch16_224.mm_k710_k600_8f": mmaction(
        "uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics600-rgb/uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics600-rgb_20230313-544f06f0.pth",
        side=224, frames=8, task="k600", pretraining=CLIP_K710, top=(86.4, 97.3),
    ),
    "uniformerv2_base_patch16_224.mm_clip_k700_8f": mmaction(
        "uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics700-rgb/uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics700-rgb_20230313-f02e48ad.pth",
        side=224, frames=8, task="k700", pretraining=CLIP, top=(75.9, 92.9),
    ),
    "uniformerv2_base_patch16_224.mm_k710_k700_8f": mmaction(
        "uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics700-rgb/uniformerv2-base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics700-rgb_20230313-69070837.pth",
        side=224, frames=8, task="k700", pretraining=CLIP_K710, top=(76.3, 92.9),
    ),
    "uniformerv2_base_patch16_224.mm_mit_8f": mmaction(
        "uniformerv2-base-p16-res224_clip-kinetics710-kinetics-k400-pre_16xb32-u8_mitv1-rgb/uniformerv2-base-p16-res224_clip-kinetics710-kinetics-k400-pre_16xb32-u8_mitv1-rgb_20230313-a6f4a567.pth",
        side=224, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(42.3, 71.5),
    ),
    "uniformerv2_base_patch16_224.mm_k710_8f": mmaction(
        "uniformerv2-base-p16-res224_clip-pre_u8_kinetics710-rgb_20230612-63cdbad9.pth",
        side=224, frames=8, task="k710", pretraining=CLIP, top=(78.9, 94.2),
    ),
    "uniformerv2_base_patch16_224.k710_8f": original(
        "k710/k710_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k710", pretraining=CLIP,
    ),
    "uniformerv2_base_patch16_224.k400_8f": original(
        "k400/k400_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k400", pretraining=CLIP, top=(84.4,),
    ),
    "uniformerv2_base_patch16_224.k710_k400_8f": original(
        "k400/k400_k710_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k400", pretraining=CLIP_K710, top=(85.6,),
    ),
    "uniformerv2_base_patch16_224.k600_8f": original(
        "k600/k600_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k600", pretraining=CLIP, top=(85.0,),
    ),
    "uniformerv2_base_patch16_224.k710_k600_8f": original(
        "k600/k600_k710_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k600", pretraining=CLIP_K710, top=(86.1,),
    ),
    "uniformerv2_base_patch16_224.k700_8f": original(
        "k700/k700_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k700", pretraining=CLIP, top=(75.8,),
    ),
    "uniformerv2_base_patch16_224.k710_k700_8f": original(
        "k700/k700_k710_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="k700", pretraining=CLIP_K710, top=(76.3,),
    ),
    "uniformerv2_base_patch16_224.mit_8f": original(
        "mitv1/mit_uniformerv2_b16_8x224.pyth",
        side=224, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(42.6,),
    ),
    "uniformerv2_base_patch16_224.ssv1_16f": original(
        "sthv1/sthv1_uniformerv2_b16_16x224.pyth",
        side=224, frames=16, task="ssv1", pretraining=CLIP, top=(56.8,), views="1x3",
        local=BASE_LOCAL,
    ),
    "uniformerv2_base_patch16_224.ssv1_32f": original(
        "sthv1/sthv1_uniformerv2_b16_32x224.pyth",
        side=224, frames=32, task="ssv1", pretraining=CLIP, top=(59.4,), views="1x3",
        local=BASE_LOCAL,
    ),
    "uniformerv2_base_patch16_224.ssv2_16f": original(
        "sthv2/sthv2_uniformerv2_b16_16x224.pyth",
        side=224, frames=16, task="ssv2", pretraining=CLIP, top=(69.5,), views="1x3",
        local=BASE_LOCAL,
    ),
    "uniformerv2_base_patch16_224.ssv2_32f": original(
        "sthv2/sthv2_uniformerv2_b16_32x224.pyth",
        side=224, frames=32, task="ssv2", pretraining=CLIP, top=(70.7,), views="1x3",
        local=BASE_LOCAL,
    ),
    "uniformerv2_large_patch14_224.mm_k710_k400_8f": mmaction(
        "kinetics400/uniformerv2-large-p14-res224_clip-kinetics710-pre_u8_kinetics400-rgb_20221219-972ea063.pth",
        side=224, frames=8, task="k400", pretraining=CLIP_K710, top=(88.7, 98.1),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k400_16f": mmaction(
        "kinetics400/uniformerv2-large-p14-res224_clip-kinetics710-pre_u16_kinetics400-rgb_20221219-6dc86d05.pth",
        side=224, frames=16, task="k400", pretraining=CLIP_K710, top=(89.0, 98.2),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k400_32f": mmaction(
        "kinetics400/uniformerv2-large-p14-res224_clip-kinetics710-pre_u32_kinetics400-rgb_20221219-56a46f64.pth",
        side=224, frames=32, task="k400", pretraining=CLIP_K710, top=(89.3, 98.2),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k600_8f": mmaction(
        "kinetics600/uniformerv2-large-p14-res224_clip-kinetics710-pre_u8_kinetics600-rgb_20221219-cf88e4c2.pth",
        side=224, frames=8, task="k600", pretraining=CLIP_K710, top=(89.0, 98.3),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k600_16f": mmaction(
        "kinetics600/uniformerv2-large-p14-res224_clip-kinetics710-pre_u16_kinetics600-rgb_20221219-38ff0e3e.pth",
        side=224, frames=16, task="k600", pretraining=CLIP_K710, top=(89.4, 98.3),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k600_32f": mmaction(
        "kinetics600/uniformerv2-large-p14-res224_clip-kinetics710-pre_u32_kinetics600-rgb_20221219-d450d071.pth",
        side=224, frames=32, task="k600", pretraining=CLIP_K710, top=(89.2, 98.3),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k700_8f": mmaction(
        "kinetics700/uniformerv2-large-p14-res224_clip-kinetics710-pre_u8_kinetics700-rgb_20221219-bfb9f401.pth",
        side=224, frames=8, task="k700", pretraining=CLIP_K710, top=(80.8, 95.2),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k700_16f": mmaction(
        "kinetics700/uniformerv2-large-p14-res224_clip-kinetics710-pre_u16_kinetics700-rgb_20221219-745209d2.pth",
        side=224, frames=16, task="k700", pretraining=CLIP_K710, top=(81.2, 95.6),
    ),
    "uniformerv2_large_patch14_224.mm_k710_k700_32f": mmaction(
        "kinetics700/uniformerv2-large-p14-res224_clip-kinetics710-pre_u32_kinetics700-rgb_20221219-eebe7056.pth",
        side=224, frames=32, task="k700", pretraining=CLIP_K710, top=(81.4, 95.7),
    ),
    "uniformerv2_large_patch14_224.mm_mit_8f": mmaction(
        "mitv1/uniformerv2-large-p16-res224_clip-kinetics710-kinetics-k400-pre_u8_mitv1-rgb_20221219-882c0598.pth",
        side=224, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(47.0, 76.1),
    ),
    "uniformerv2_large_patch14_224.mm_k710_8f": mmaction(
        "kinetics710/uniformerv2-large-p14-res224_clip-pre_u8_kinetics710-rgb_20230612-d002a407.pth",
        side=224, frames=8, task="k710", pretraining=CLIP,
    ),
    "uniformerv2_large_patch14_224.k710_8f": original(
        "k710/k710_uniformerv2_l14_8x224.pyth",
        side=224, frames=8, task="k710", pretraining=CLIP,
    ),
    "uniformerv2_large_patch14_224.k710_k400_8f": original(
        "k400/k400_k710_uniformerv2_l14_8x224.pyth",
        side=224, frames=8, task="k400", pretraining=CLIP_K710, top=(88.8,),
    ),
    "uniformerv2_large_patch14_224.k710_k400_16f": original(
        "k400/k400_k710_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="k400", pretraining=CLIP_K710, top=(89.1,),
    ),
    "uniformerv2_large_patch14_224.k710_k400_32f": original(
        "k400/k400_k710_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="k400", pretraining=CLIP_K710, top=(89.3,), views="2x3",
    ),
    "uniformerv2_large_patch14_224.k710_k600_8f": original(
        "k600/k600_k710_uniformerv2_l14_8x224.pyth",
        side=224, frames=8, task="k600", pretraining=CLIP_K710, top=(89.0,),
    ),
    "uniformerv2_large_patch14_224.k710_k600_16f": original(
        "k600/k600_k710_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="k600", pretraining=CLIP_K710, top=(89.4,),
    ),
    "uniformerv2_large_patch14_224.k710_k600_32f": original(
        "k600/k600_k710_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="k600", pretraining=CLIP_K710, top=(89.5,), views="2x3",
    ),
    "uniformerv2_large_patch14_224.k710_k700_8f": original(
        "k700/k700_k710_uniformerv2_l14_8x224.pyth",
        side=224, frames=8, task="k700", pretraining=CLIP_K710, top=(80.8,),
    ),
    "uniformerv2_large_patch14_224.k710_k700_16f": original(
        "k700/k700_k710_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="k700", pretraining=CLIP_K710, top=(81.2,),
    ),
    "uniformerv2_large_patch14_224.k710_k700_32f": original(
        "k700/k700_k710_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="k700", pretraining=CLIP_K710, top=(81.5,), views="2x3",
    ),
    "uniformerv2_large_patch14_224.mit_8f": original(
        "mitv1/mit_uniformerv2_l14_8x224.pyth",
        side=224, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(47.0,),
    ),
    "uniformerv2_large_patch14_224.ssv1_16f": original(
        "sthv1/sthv1_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="ssv1", pretraining=CLIP, top=(60.5,), views="1x3",
        local=LARGE_LOCAL,
    ),
    "uniformerv2_large_patch14_224.ssv1_32f": original(
        "sthv1/sthv1_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="ssv1", pretraining=CLIP, top=(62.7,), views="1x3",
        local=LARGE_LOCAL,
    ),
    "uniformerv2_large_patch14_224.ssv2_16f": original(
        "sthv2/sthv2_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="ssv2", pretraining=CLIP, top=(72.1,), views="1x3",
        local=LARGE_LOCAL,
    ),
    "uniformerv2_large_patch14_224.ssv2_32f": original(
        "sthv2/sthv2_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="ssv2", pretraining=CLIP, top=(73.0,), views="1x3",
        local=LARGE_LOCAL,
    ),
    "uniformerv2_large_patch14_224.anet_16f": original(
        "anet/anet_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="anet", pretraining=CLIP_K710_K400, top=(94.3,), views="10x3",
    ),
    "uniformerv2_large_patch14_224.anet_32f": original(
        "anet/anet_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="anet", pretraining=CLIP_K710_K400, top=(94.7,), views="10x3",
    ),
    "uniformerv2_large_patch14_224.hacs_16f": original(
        "hacs/hacs_uniformerv2_l14_16x224.pyth",
        side=224, frames=16, task="hacs", pretraining=CLIP_K710_K400, top=(95.5,), views="10x3",
    ),
    "uniformerv2_large_patch14_224.hacs_32f": original(
        "hacs/hacs_uniformerv2_l14_32x224.pyth",
        side=224, frames=32, task="hacs", pretraining=CLIP_K710_K400, top=(95.4,), views="10x3",
    ),
    "uniformerv2_large_patch14_336.mm_k710_k400_32f": mmaction(
        "kinetics400/uniformerv2-large-p14-res336_clip-kinetics710-pre_u32_kinetics400-rgb_20221219-1dd7650f.pth",
        side=336, frames=32, task="k400", pretraining=CLIP_K710, top=(89.5, 98.4), views="2x3",
    ),
    "uniformerv2_large_patch14_336.mm_k710_k600_32f": mmaction(
        "kinetics600/uniformerv2-large-p14-res336_clip-kinetics710-pre_u32_kinetics600-rgb_20221219-f984f5d2.pth",
        side=336, frames=32, task="k600", pretraining=CLIP_K710, top=(89.8, 98.5), views="2x3",
    ),
    "uniformerv2_large_patch14_336.mm_k710_k700_32f": mmaction(
        "kinetics700/uniformerv2-large-p14-res336_clip-kinetics710-pre_u32_kinetics700-rgb_20221219-95cf9046.pth",
        side=336, frames=32, task="k700", pretraining=CLIP_K710, top=(82.1, 96.0), views="2x3",
    ),
    "uniformerv2_large_patch14_336.mm_mit_8f": mmaction(
        "mitv1/uniformerv2-large-p16-res336_clip-kinetics710-kinetics-k400-pre_u8_mitv1-rgb_20221219-9020986e.pth",
        side=336, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(47.7, 76.8),
    ),
    "uniformerv2_large_patch14_336.mm_k710_8f": mmaction(
        "kinetics710/uniformerv2-large-p14-res336_clip-pre_u8_kinetics710-rgb_20230612-d723ddc1.pth",
        side=336, frames=8, task="k710", pretraining=CLIP,
    ),
    "uniformerv2_large_patch14_336.k710_8f": original(
        "k710/k710_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k710", pretraining=CLIP,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_8f": original(
        "k710/frozen_k710_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k710", pretraining=CLIP,
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.k710_k400_32f": original(
        "k400/k400_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k400", pretraining=CLIP_K710, top=(89.7,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.k710_k400_64f": original(
        "k400/k400_k710_uniformerv2_l14_64x336.pyth",
        side=336, frames=64, task="k400", pretraining=CLIP_K710, top=(90.0,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.frozen_k400_8f": original(
        "k400/frozen_k400_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k400", pretraining=CLIP, top=(86.7,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k400_8f": original(
        "k400/frozen_k400_k710_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k400", pretraining=CLIP_K710, top=(87.8,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k400_32f": original(
        "k400/frozen_k400_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k400", pretraining=CLIP_K710, top=(88.9,),
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.k710_k600_32f": original(
        "k600/k600_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k600", pretraining=CLIP_K710, top=(89.9,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.k710_k600_64f": original(
        "k600/k600_k710_uniformerv2_l14_64x336.pyth",
        side=336, frames=64, task="k600", pretraining=CLIP_K710, top=(90.1,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.frozen_k600_8f": original(
        "k600/frozen_k600_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k600", pretraining=CLIP, top=(87.4,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k600_8f": original(
        "k600/frozen_k600_k710_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k600", pretraining=CLIP_K710, top=(88.2,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k600_32f": original(
        "k600/frozen_k600_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k600", pretraining=CLIP_K710, top=(89.2,),
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.k710_k700_32f": original(
        "k700/k700_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k700", pretraining=CLIP_K710, top=(82.1,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.k710_k700_64f": original(
        "k700/k700_k710_uniformerv2_l14_64x336.pyth",
        side=336, frames=64, task="k700", pretraining=CLIP_K710, top=(82.7,), views="2x3",
    ),
    "uniformerv2_large_patch14_336.frozen_k700_8f": original(
        "k700/frozen_k700_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k700", pretraining=CLIP, top=(79.6,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k700_8f": original(
        "k700/frozen_k700_k710_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="k700", pretraining=CLIP_K710, top=(79.7,), views="3x1",
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.frozen_k710_k700_32f": original(
        "k700/frozen_k700_k710_uniformerv2_l14_32x336.pyth",
        side=336, frames=32, task="k700", pretraining=CLIP_K710, top=(80.8,),
        frozen=True,
    ),
    "uniformerv2_large_patch14_336.mit_8f": original(
        "mitv1/mit_uniformerv2_l14_8x336.pyth",
        side=336, frames=8, task="mit", pretraining=CLIP_K710_K400, top=(47.8,),
    ),
}  # fmt: skip
