"""UniDual on trunks of timm: the variants' constructor arguments and the checkpoints.

Those of images have the sizes, constants and licences of timm's own configurations. Those of videos are of authors who
built on a trunk that they left as it was, so that one set of weights serves images and videos.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from unidual_zoo.models.rows import uniformerv2
from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}
BOTH = ("image", "video")
CLIP = ClipSpec(length=8, sampling="segments")
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

SPEC_LITE0 = InputSpec(
    resize=256, crop=(224, 224), mean=HALF, std=HALF, interpolation="bicubic", clip=CLIP, classes=NAMES
)
SPEC_LITTLE = InputSpec(
    resize=269, crop=(256, 256), mean=HALF, std=HALF, interpolation="bicubic", clip=CLIP, classes=NAMES
)
SPEC_CLIP_224 = InputSpec(
    resize=235, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", clip=CLIP, classes=NAMES
)
SPEC_CLIP_336 = InputSpec(
    resize=(336, 336), crop=(336, 336), mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", clip=CLIP, classes=NAMES
)
SPEC_EVA02 = InputSpec(
    resize=(448, 448), crop=(448, 448), mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", clip=CLIP, classes=NAMES
)
SPEC_IMAGENET = InputSpec(
    resize=235, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic",
    clip=CLIP, classes=NAMES,
)  # fmt: skip
SPEC_ST_ADAPTER = InputSpec(
    resize=224, crop=(224, 224), mean=CLIP_MEAN, std=CLIP_STD, interpolation="bicubic", clip=ClipSpec(stride=16)
)

DUAL: dict[str, Any] = dict(pathways=BOTH, tasks=IN1K | K400)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "unidual_efficientnet_lite0": dict(trunk="tf_efficientnet_lite0", **DUAL, spec=SPEC_LITE0),
    "unidual_vit_little_patch16_reg1_gap_256": dict(trunk="vit_little_patch16_reg1_gap_256", **DUAL, spec=SPEC_LITTLE),
    "unidual_vit_base_patch16_clip_224": dict(trunk="vit_base_patch16_clip_224", **DUAL, spec=SPEC_CLIP_224),
    "unidual_vit_large_patch14_clip_336": dict(trunk="vit_large_patch14_clip_336", **DUAL, spec=SPEC_CLIP_336),
    "unidual_eva02_base_patch14_448": dict(trunk="eva02_base_patch14_448", **DUAL, spec=SPEC_EVA02),
    "unidual_convnext_tiny": dict(trunk="convnext_tiny", **DUAL, spec=SPEC_IMAGENET),
    "unidual_resnet50": dict(trunk="resnet50", **DUAL, spec=SPEC_IMAGENET),
    "unidual_trunk": dict(trunk="tf_efficientnet_lite0", **DUAL, spec=SPEC_LITE0),
}

# ---- checkpoints ----------------------------------------------------------------------------------------------------

IN1K_EVERYWHERE: dict[str, Any] = dict(tasks=IN1K, heads={"image": ["in1k"], "video": ["in1k"]})
FRAME_MEAN = "videos: the mean of their frames, not trained"
LITE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
HUB = "https://huggingface.co/timm"
RESULTS = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"


def top(first: float, fifth: float | None = None, *, side: int, source: str = RESULTS) -> list[Metric]:
    """Top-1 and top-5 on ImageNet-1k, as the source reports them for images of that side."""
    values = {"top-1": first} | ({} if fifth is None else {"top-5": fifth})
    return [Metric(task="in1k", metric=m, value=v, protocol=str(side), source=source) for m, v in values.items()]


ST_ADAPTER = "https://github.com/linziyi96/st-adapter"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
ON_CLIP: dict[str, Any] = dict(trunk="vit_base_patch16_clip_quickgelu_224", frame_mean="before_norm", norms="shared")
SSV2 = {"ssv2": ("video", 174)}
ABOUT_ST_ADAPTER = (
    "OpenAI's CLIP, untouched, with adapters for {}; the file holds the adapters and the head, the rest comes from "
    "timm's repository; its classes are in the order of the authors' list, which is not here; images have no head"
)


def frozen_uniformerv2(tag: str) -> Checkpoint:
    """A row of UniFormerV2's on a trunk that was frozen, with the image pathway that the trunk is."""
    row = uniformerv2.CHECKPOINTS[f"uniformerv2_large_patch14_336.{tag}"]
    arguments = dict(
        trunk="vit_large_patch14_clip_quickgelu_336", operator="none", global_blocks=4, frame_mean="before_norm"
    )
    images = "images are normalised as clips are, not as CLIP's, lack CLIP's last norm, and have no head"
    return dataclasses.replace(row, arguments={**row.arguments, **arguments}, about=f"{row.about}; {images}")


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first with weights is the default
    "unidual_efficientnet_lite0.in1k": Checkpoint(
        file="unidual_efficientnet_lite0.in1k.safetensors", spec=SPEC_LITE0, arguments=IN1K_EVERYWHERE,
        sha256="e0a9fe79850a6db1fe965df5b0c2ff77b855c6b2e17da40be2abe43ad1d6b337",
        license="apache-2.0", source=LITE, about=f"ImageNet-1k, by Google; {FRAME_MEAN}",
        upstream=top(75.1, side=224, source=LITE),
    ),
    "unidual_vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k": Checkpoint(
        hf_hub_id="timm/vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k", spec=SPEC_LITTLE, arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k",
        about=f"ImageNet-12k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(83.8, side=256),
    ),
    "unidual_vit_base_patch16_clip_224.laion2b_ft_in12k_in1k": Checkpoint(
        hf_hub_id="timm/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", spec=SPEC_CLIP_224,
        arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
        about=f"CLIP on LAION-2B, then ImageNet-12k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(86.174, 97.756, side=224),
    ),
    "unidual_vit_base_patch16_clip_224.openai_ft_in12k_in1k": Checkpoint(
        hf_hub_id="timm/vit_base_patch16_clip_224.openai_ft_in12k_in1k", spec=SPEC_CLIP_224,
        arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/vit_base_patch16_clip_224.openai_ft_in12k_in1k",
        about=f"OpenAI's CLIP, then ImageNet-12k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(85.940, 97.728, side=224),
    ),
    "unidual_vit_large_patch14_clip_336.openai_ft_in12k_in1k": Checkpoint(
        hf_hub_id="timm/vit_large_patch14_clip_336.openai_ft_in12k_in1k", spec=SPEC_CLIP_336,
        arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/vit_large_patch14_clip_336.openai_ft_in12k_in1k",
        about=f"OpenAI's CLIP, then ImageNet-12k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(88.268, 98.526, side=336),
    ),
    "unidual_eva02_base_patch14_448.mim_in22k_ft_in22k_in1k": Checkpoint(
        hf_hub_id="timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", spec=SPEC_EVA02, arguments=IN1K_EVERYWHERE,
        license="mit", source=f"{HUB}/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k",
        about=f"masked image modelling and then classes of ImageNet-22k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(88.692, 98.724, side=448),
    ),
    "unidual_convnext_tiny.in12k_ft_in1k": Checkpoint(
        hf_hub_id="timm/convnext_tiny.in12k_ft_in1k", spec=SPEC_IMAGENET, arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/convnext_tiny.in12k_ft_in1k",
        about=f"ImageNet-12k, then ImageNet-1k; {FRAME_MEAN}",
        upstream=top(84.450, 97.340, side=288),
    ),
    "unidual_resnet50.a1_in1k": Checkpoint(
        hf_hub_id="timm/resnet50.a1_in1k", spec=SPEC_IMAGENET, arguments=IN1K_EVERYWHERE,
        license="apache-2.0", source=f"{HUB}/resnet50.a1_in1k",
        about=f"ImageNet-1k; {FRAME_MEAN}",
        upstream=top(81.214, 95.102, side=288),
    ),
    "unidual_vit_base_patch16_clip_224.st_adapter_k400_8f": Checkpoint(
        url=f"{DRIVE}17p_cvZaLmgWt-snKbQOmAT-WwhFAvc3M", spec=SPEC_ST_ADAPTER,
        arguments=dict(place="mlp", tasks=K400, **ON_CLIP),
        license="mit", source=ST_ADAPTER, about=ABOUT_ST_ADAPTER.format("Kinetics-400"),
        upstream=[Metric(task="k400", metric="top-1", value=82.2, protocol="st_adapter_3x1", source=ST_ADAPTER)],
    ),
    "unidual_vit_base_patch16_clip_224.st_adapter_ssv2_8f": Checkpoint(
        url=f"{DRIVE}1SIpEutqUQ4tBsLD_Lzo7GUiQq0NpWDOu", spec=dataclasses.replace(SPEC_ST_ADAPTER, clip=CLIP),
        arguments=dict(per_block=2, tasks=SSV2, **ON_CLIP),
        license="mit", source=ST_ADAPTER, about=ABOUT_ST_ADAPTER.format("Something-Something V2"),
        upstream=[Metric(task="ssv2", metric="top-1", value=66.9, protocol="uniformerv2_1x3", source=ST_ADAPTER)],
    ),
    "unidual_vit_large_patch14_clip_336.uniformerv2_frozen_k400_8f": frozen_uniformerv2("frozen_k400_8f"),
    "unidual_vit_large_patch14_clip_336.uniformerv2_frozen_k710_k400_8f": frozen_uniformerv2("frozen_k710_k400_8f"),
    "unidual_vit_large_patch14_clip_336.uniformerv2_frozen_k710_k400_32f": frozen_uniformerv2("frozen_k710_k400_32f"),
}  # fmt: skip
