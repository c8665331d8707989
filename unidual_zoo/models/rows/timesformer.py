"""TimeSformer and CoVeR: the variants' constructor arguments and the checkpoints.

Files of mmaction2's own training come first. Those of the authors, in their own format and in that of Hugging Face, are
for non-commercial use alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
K600, SSV2 = {"k600": ("video", 600)}, {"ssv2": ("video", 174)}
HOWTO100M = {"howto100m": ("video", 1059)}
COVER = K400 | {"mit": ("video", 339)} | SSV2 | IN1K  # the mix of all of CoVeR's tables
VIDEO, BOTH = ("video",), ("image", "video")
ONE_HEAD_EACH = {"image": ["k400"], "video": ["k400"]}
JOINT, SPACE = "joint_space_time", "space_only"
NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}


def _spec(side: int, clip: ClipSpec, *, mean: float, std: float) -> InputSpec:
    """One constant for all channels; the short side is what the evaluation sees, in three crops along the long one."""
    return InputSpec(resize=side, crop=(side, side), mean=3 * (mean,), std=3 * (std,), clip=clip, classes=NAMES)


SPEC_MM = _spec(224, ClipSpec(length=8, stride=32), mean=0.5, std=0.5)  # 127.5
SPEC = _spec(224, ClipSpec(length=8, stride=32), mean=0.45, std=0.225)
SPEC_HR = _spec(448, ClipSpec(length=16, stride=16), mean=0.45, std=0.225)
SPEC_LARGE = _spec(224, ClipSpec(length=96, stride=4), mean=0.45, std=0.225)
SPEC_SSV2 = _spec(224, ClipSpec(length=8, sampling="segments"), mean=0.45, std=0.225)
SPEC_HR_SSV2 = _spec(448, ClipSpec(length=16, sampling="segments"), mean=0.45, std=0.225)
SPEC_LARGE_SSV2 = _spec(224, ClipSpec(length=64, sampling="segments"), mean=0.45, std=0.225)
# Segments, since its videos last from three seconds to ten, and the constants are ours.
SPEC_COVER = dataclasses.replace(
    _spec(448, ClipSpec(length=16, sampling="segments"), mean=0.5, std=0.5), image_frames=1
)

BASE: dict[str, Any] = dict(embed_dim=768, depth=12, num_heads=12)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "timesformer_base": dict(**BASE, pathways=VIDEO, tasks=K400, spec=SPEC),
    "timesformer_hr": dict(**BASE, pathways=VIDEO, tasks=K400, spec=SPEC_HR),
    "timesformer_large": dict(**BASE, pathways=VIDEO, tasks=K400, spec=SPEC_LARGE),
    "timesformer_base_dual": dict(**BASE, pathways=BOTH, tasks=IN1K | K400, spec=SPEC),
    "cover_large": dict(embed_dim=1024, depth=24, num_heads=16, pathways=VIDEO, tasks=COVER, spec=SPEC_COVER),
}

# ---- checkpoints ----------------------------------------------------------------------------------------------------

MM = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/timesformer"
MM_FILES = "https://download.openmmlab.com/mmaction/v1.0/recognition/timesformer"
FB = "https://github.com/facebookresearch/TimeSformer"
HF = "https://huggingface.co/facebook"
NONCOMMERCIAL = "cc-by-nc-4.0"
ABOUT_MM, ABOUT_FB = "ImageNet-21k, then Kinetics-400, by OpenMMLab", "ImageNet-21k, then {}, by the authors"
ABOUT_K400, ABOUT_K600 = ABOUT_FB.format("Kinetics-400"), ABOUT_FB.format("Kinetics-600")
ABOUT_SSV2 = ABOUT_FB.format("Something-Something V2")
ABOUT_HOWTO = (
    "ImageNet-21k, Kinetics-400, then the 1,059 tasks of HowTo100M that have 100 videos (paper §4.6), by the authors, "
    "who report {}% top-1 from as many clips without overlap as cover a video, here no protocol; the order of the "
    "classes is that of their list, which is not here"
)
ON_ONE_TOKEN = "images: the temporal branch on one token, not trained"


def percentages(task: str, values: Mapping[str, float], *, source: str = FB) -> list[Metric]:
    """`{"video@1": 77.9}` as rows of one task; three crops of one clip."""
    return [Metric(task=task, metric=m, value=v, protocol="timesformer", source=source) for m, v in values.items()]


def howto100m(file: str, *, frames: int, top1: float, note: str = "") -> Checkpoint:
    """A file of the authors for videos of minutes, frames 32 apart."""
    return Checkpoint(
        url=f"https://www.dropbox.com/s/{file}?dl=1", arguments=dict(tasks=HOWTO100M), license=NONCOMMERCIAL, source=FB,
        spec=_spec(224, ClipSpec(length=frames, stride=32), mean=0.45, std=0.225),
        about=ABOUT_HOWTO.format(top1) + note,
    )  # fmt: skip


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first with weights is the default
    "timesformer_base.mm_k400": Checkpoint(
        url=f"{MM_FILES}/timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb/"
        "timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb_20220815-a4d0d01f.pth",
        sha256="a4d0d01f", spec=SPEC_MM, license="apache-2.0", source=MM, about=ABOUT_MM,
        upstream=percentages("k400", {"video@1": 77.69, "video@5": 93.45}, source=MM),
    ),
    "timesformer_base.mm_joint_k400": Checkpoint(
        url=f"{MM_FILES}/timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb/"
        "timesformer_jointST_8xb8-8x32x1-15e_kinetics400-rgb_20220815-8022d1c0.pth",
        sha256="8022d1c0", spec=SPEC_MM, arguments=dict(attention_type=JOINT), license="apache-2.0", source=MM,
        about=ABOUT_MM, upstream=percentages("k400", {"video@1": 76.95, "video@5": 93.28}, source=MM),
    ),
    "timesformer_base.mm_space_k400": Checkpoint(
        url=f"{MM_FILES}/timesformer_spaceOnly_8xb8-8x32x1-15e_kinetics400-rgb/"
        "timesformer_spaceOnly_8xb8-8x32x1-15e_kinetics400-rgb_20220815-78f05367.pth",
        sha256="78f05367", spec=SPEC_MM, arguments=dict(attention_type=SPACE), license="apache-2.0", source=MM,
        about=ABOUT_MM, upstream=percentages("k400", {"video@1": 76.93, "video@5": 92.88}, source=MM),
    ),
    "timesformer_base.fb_k400": Checkpoint(
        url="https://www.dropbox.com/s/g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth?dl=1",
        spec=SPEC, license=NONCOMMERCIAL, source=FB, about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 77.9, "video@5": 93.2}),
    ),
    "timesformer_base.fb_k600": Checkpoint(
        url="https://www.dropbox.com/s/4h2qt41m2z3aqrb/TimeSformer_divST_8x32_224_K600.pyth?dl=1",
        spec=SPEC, arguments=dict(tasks=K600), license=NONCOMMERCIAL, source=FB, about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 79.1, "video@5": 94.4}),
    ),
    "timesformer_base.fb_ssv2": Checkpoint(
        url="https://www.dropbox.com/s/tybhuml57y24wpm/TimeSformer_divST_8_224_SSv2.pyth?dl=1",
        spec=SPEC_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL, source=FB, about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 59.1, "video@5": 85.6}),
    ),
    "timesformer_base.fb_howto100m": howto100m(
        "9v8hcm88b9tc6ff/TimeSformer_divST_8x32_224_HowTo100M.pyth", frames=8, top1=56.8
    ),
    "timesformer_base.fb_howto100m_32f": howto100m(
        "4roflx4q1gscu85/TimeSformer_divST_32x32_224_HowTo100M.pyth", frames=32, top1=61.2
    ),
    "timesformer_base.fb_howto100m_64f": howto100m(
        "15bvqltl1j5vyp3/TimeSformer_divST_64x32_224_HowTo100M.pyth", frames=64, top1=62.2,
        note="; their table says 448 pixels, the file's name 224",
    ),
    "timesformer_base.hf_k400": Checkpoint(
        url=f"{HF}/timesformer-base-finetuned-k400/resolve/main/pytorch_model.bin",
        spec=SPEC, license=NONCOMMERCIAL, source=f"{HF}/timesformer-base-finetuned-k400", about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 77.9, "video@5": 93.2}),
    ),
    "timesformer_base.hf_k600": Checkpoint(
        url=f"{HF}/timesformer-base-finetuned-k600/resolve/main/pytorch_model.bin",
        spec=SPEC, arguments=dict(tasks=K600), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-base-finetuned-k600", about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 79.1, "video@5": 94.4}),
    ),
    "timesformer_base.hf_ssv2": Checkpoint(
        url=f"{HF}/timesformer-base-finetuned-ssv2/resolve/main/pytorch_model.bin",
        spec=SPEC_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-base-finetuned-ssv2", about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 59.1, "video@5": 85.6}),
    ),
    "timesformer_hr.fb_k400": Checkpoint(
        url="https://www.dropbox.com/s/6f0x172lpqy3oxt/TimeSformer_divST_16x16_448_K400.pyth?dl=1",
        spec=SPEC_HR, license=NONCOMMERCIAL, source=FB, about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 79.6, "video@5": 94.0}),
    ),
    "timesformer_hr.fb_k600": Checkpoint(
        url="https://www.dropbox.com/s/ft1e92g2vhvxecv/TimeSformer_divST_16x16_448_K600.pyth?dl=1",
        spec=SPEC_HR, arguments=dict(tasks=K600), license=NONCOMMERCIAL, source=FB, about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 81.8, "video@5": 95.8}),
    ),
    "timesformer_hr.fb_ssv2": Checkpoint(
        url="https://www.dropbox.com/s/9t68uzk8w2fpfnv/TimeSformer_divST_16_448_SSv2.pyth?dl=1",
        spec=SPEC_HR_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL, source=FB, about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 61.8, "video@5": 86.9}),
    ),
    "timesformer_hr.hf_k400": Checkpoint(
        url=f"{HF}/timesformer-hr-finetuned-k400/resolve/main/pytorch_model.bin",
        spec=SPEC_HR, license=NONCOMMERCIAL, source=f"{HF}/timesformer-hr-finetuned-k400", about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 79.6, "video@5": 94.0}),
    ),
    "timesformer_hr.hf_k600": Checkpoint(
        url=f"{HF}/timesformer-hr-finetuned-k600/resolve/main/pytorch_model.bin",
        spec=SPEC_HR, arguments=dict(tasks=K600), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-hr-finetuned-k600", about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 81.8, "video@5": 95.8}),
    ),
    "timesformer_hr.hf_ssv2": Checkpoint(
        url=f"{HF}/timesformer-hr-finetuned-ssv2/resolve/main/pytorch_model.bin",
        spec=SPEC_HR_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-hr-finetuned-ssv2", about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 61.8, "video@5": 86.9}),
    ),
    "timesformer_large.fb_k400": Checkpoint(
        url="https://www.dropbox.com/s/r1iuxahif3sgimo/TimeSformer_divST_96x4_224_K400.pyth?dl=1",
        spec=SPEC_LARGE, license=NONCOMMERCIAL, source=FB, about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 80.6, "video@5": 94.7}),
    ),
    "timesformer_large.fb_k600": Checkpoint(
        url="https://www.dropbox.com/s/857rx6xeclxfhdg/TimeSformer_divST_96x4_224_K600.pyth?dl=1",
        spec=SPEC_LARGE, arguments=dict(tasks=K600), license=NONCOMMERCIAL, source=FB, about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 82.2, "video@5": 95.6}),
    ),
    "timesformer_large.fb_ssv2": Checkpoint(
        url="https://www.dropbox.com/s/3f1rm2al8mhprwa/TimeSformer_divST_64_224_SSv2.pyth?dl=1",
        spec=SPEC_LARGE_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL, source=FB, about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 62.0, "video@5": 87.5}),
    ),
    "timesformer_large.fb_howto100m": howto100m(
        "t2mzgahnfhgakma/TimeSformer_divST_96x32_224_HowTo100M.pyth", frames=96, top1=62.6
    ),
    "timesformer_large.hf_k400": Checkpoint(
        url=f"{HF}/timesformer-large-finetuned-k400/resolve/main/pytorch_model.bin",
        spec=SPEC_LARGE, license=NONCOMMERCIAL, source=f"{HF}/timesformer-large-finetuned-k400", about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 80.6, "video@5": 94.7}),
    ),
    "timesformer_large.hf_k600": Checkpoint(
        url=f"{HF}/timesformer-large-finetuned-k600/resolve/main/pytorch_model.bin",
        spec=SPEC_LARGE, arguments=dict(tasks=K600), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-large-finetuned-k600", about=ABOUT_K600,
        upstream=percentages("k600", {"video@1": 82.2, "video@5": 95.6}),
    ),
    "timesformer_large.hf_ssv2": Checkpoint(
        url=f"{HF}/timesformer-large-finetuned-ssv2/resolve/main/pytorch_model.bin",
        spec=SPEC_LARGE_SSV2, arguments=dict(tasks=SSV2), license=NONCOMMERCIAL,
        source=f"{HF}/timesformer-large-finetuned-ssv2", about=ABOUT_SSV2,
        upstream=percentages("ssv2", {"video@1": 62.0, "video@5": 87.5}),
    ),
    "timesformer_base_dual.mm_k400": Checkpoint(
        url=f"{MM_FILES}/timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb/"
        "timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb_20220815-a4d0d01f.pth",
        sha256="a4d0d01f", spec=SPEC_MM, arguments=dict(tasks=K400, heads=ONE_HEAD_EACH), license="apache-2.0",
        source=MM, about=f"{ABOUT_MM}; {ON_ONE_TOKEN}",
        upstream=percentages("k400", {"video@1": 77.69, "video@5": 93.45}, source=MM),
    ),
}  # fmt: skip
