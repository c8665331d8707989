"""CorrNet and its trunk (arXiv 1906.03349): the variants' constructor arguments and the checkpoints."""

from __future__ import annotations

from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

K400, VIDEO = {"k400": ("video", 400)}, ("video",)
INPUT: dict[str, Any] = dict(
    resize=256, crop=(224, 224), mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225), classes={"k400": "kinetics400"}
)
SPEC_32X2 = InputSpec(clip=ClipSpec(length=32, stride=2), **INPUT)  # the longer of the paper's two clips
SPEC_16X4 = InputSpec(clip=ClipSpec(length=16, stride=4), **INPUT)
CORRNET: dict[str, Any] = dict(pathways=VIDEO, tasks=K400, spec=SPEC_32X2)

ARCHITECTURES: dict[str, dict[str, Any]] = {  # correlation blocks stand behind these blocks of each stage
    "corrnet26": dict(**CORRNET, depths=(2, 2, 2, 2), correlations=((1,), (1,), (1,))),
    "corrnet50": dict(**CORRNET, depths=(3, 4, 6, 3), correlations=((2,), (3,), (5,))),
    "corrnet101": dict(**CORRNET, depths=(3, 4, 23, 3), correlations=((2,), (3,), (11, 22))),
    "r2plus1d50": dict(depths=(3, 4, 6, 3), pathways=VIDEO, tasks=K400, spec=SPEC_16X4),
}

PTV = "https://github.com/facebookresearch/pytorchvideo"
CHECKPOINTS: dict[str, Checkpoint] = {
    "r2plus1d50.ptv_k400": Checkpoint(
        url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/R2PLUS1D_16x4_R50.pyth",
        spec=SPEC_16X4, license="apache-2.0", source=PTV, about="Kinetics-400",
        upstream=[
            Metric(
                task="k400", metric=metric, value=value, protocol="nonlocal",
                source=f"{PTV}/blob/main/docs/source/model_zoo.md",
            )
            for metric, value in (("video@1", 76.01), ("video@5", 92.23))
        ],
    ),
}  # fmt: skip
