"""UniDual on trunks of timm: the variants' constructor arguments and the checkpoints, all of them of images.

Sizes, constants and licences are those of timm's own configurations.
"""

from __future__ import annotations

from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}
BOTH = ("image", "video")
CLIP = ClipSpec(length=8, sampling="segments")
HALF = (0.5, 0.5, 0.5)

SPEC_LITE0 = InputSpec(
    resize=256, crop=(224, 224), mean=HALF, std=HALF, interpolation="bicubic", clip=CLIP, classes=NAMES
)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "unidual_efficientnet_lite0": dict(
        trunk="tf_efficientnet_lite0", pathways=BOTH, tasks=IN1K | K400, spec=SPEC_LITE0
    ),
    "unidual_trunk": dict(trunk="tf_efficientnet_lite0", pathways=BOTH, tasks=IN1K | K400, spec=SPEC_LITE0),
}  # fmt: skip

# ---- checkpoints ----------------------------------------------------------------------------------------------------

IN1K_EVERYWHERE: dict[str, Any] = dict(tasks=IN1K, heads={"image": ["in1k"], "video": ["in1k"]})
FRAME_MEAN = "videos: the mean of their frames, not trained"
LITE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first with weights is the default
    "unidual_efficientnet_lite0.in1k": Checkpoint(
        file="unidual_efficientnet_lite0.in1k.safetensors", spec=SPEC_LITE0, arguments=IN1K_EVERYWHERE,
        sha256="e0a9fe79850a6db1fe965df5b0c2ff77b855c6b2e17da40be2abe43ad1d6b337",
        license="apache-2.0", source=LITE, about=f"ImageNet-1k, by Google; {FRAME_MEAN}",
        upstream=[Metric(task="in1k", metric="top-1", value=75.1, protocol="224", source=LITE)],
    ),
}  # fmt: skip
