"""Non-local networks, I3D and C2D (arXiv 1711.07971): the variants' constructor arguments and the checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}
VIDEO, BOTH = ("video",), ("image", "video")

HALF: dict[str, Any] = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))  # 114.75 and 57.375 of 255
IMAGENET: dict[str, Any] = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SPEC_8X8 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=8, stride=8), classes=NAMES, **HALF)
SPEC_32X2 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=32, stride=2), classes=NAMES, **HALF)
SPEC_32X4 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=32, stride=4), classes=NAMES, **HALF)
SPEC_128X1 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=128, stride=1), classes=NAMES, **HALF)
SPEC_MM = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=32, stride=2), classes=NAMES, **IMAGENET)
SPEC_IN1K = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=8, stride=8), classes=NAMES, **IMAGENET)

FIVE_50 = ((), (1, 3), (1, 3, 5), ())  # where non-local blocks stand; PySlowFast has no other for depth 101
R50: dict[str, Any] = dict(depths=(3, 4, 6, 3), spec=SPEC_8X8)
R101: dict[str, Any] = dict(depths=(3, 4, 23, 3), spec=SPEC_8X8)
I3D, C2D = dict(temporal="alternate"), dict(temporal="none", norms="shared")
NL = dict(nonlocal_blocks=FIVE_50)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "i3d50_dual": dict(**R50, **I3D, pathways=BOTH, tasks=IN1K | K400),
    "i3d50_nl_dual": dict(**R50, **I3D, **NL, pathways=BOTH, tasks=IN1K | K400),
    "c2d50": dict(**R50, **C2D, pathways=BOTH, tasks=IN1K | K400),
    "c2d50_nl": dict(**R50, **C2D, **NL, pathways=BOTH, tasks=IN1K | K400),
    "i3d50": dict(**R50, **I3D, pathways=VIDEO, tasks=K400),
    "i3d50_nl": dict(**R50, **I3D, **NL, pathways=VIDEO, tasks=K400),
    "i3d101": dict(**R101, **I3D, pathways=VIDEO, tasks=K400),
    "i3d101_nl": dict(**R101, **I3D, **NL, pathways=VIDEO, tasks=K400),
}

# ---- checkpoints ----------------------------------------------------------------------------------------------------

SLOWFAST = "https://github.com/facebookresearch/SlowFast"
SLOWFAST_ZOO = f"{SLOWFAST}/blob/main/MODEL_ZOO.md"
SLOWFAST_FILES = "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400"
PTV = "https://github.com/facebookresearch/pytorchvideo"
PTV_ZOO = f"{PTV}/blob/main/docs/source/model_zoo.md"
PTV_FILES = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
CAFFE2 = "https://github.com/facebookresearch/video-nonlocal-net"
CAFFE2_FILES = "https://dl.fbaipublicfiles.com/video-nonlocal"
MM = "https://github.com/open-mmlab/mmaction2"
MM_ZOO = f"{MM}/blob/main/configs/recognition/i3d/README.md"
MM_FILES = "https://download.openmmlab.com/mmaction/v1.0/recognition/i3d"
TV = "https://github.com/pytorch/vision"

ABOUT, ABOUT_CAFFE2 = "Kinetics-400", "ImageNet-1k, then Kinetics-400"
FIXED_NORMS = "the norms fixed in the end: fine-tune with them so"
DEFLATED = "images: the video pathway deflated, not trained"
K400_ON_BOTH = dict(tasks=K400, heads={"image": ["k400"], "video": ["k400"]})
IN1K_ON_BOTH = dict(tasks=IN1K, heads={"image": ["in1k"], "video": ["in1k"]})


def percentages(top1: float, top5: float, *, source: str) -> list[Metric]:
    """Upstream's figures on Kinetics-400, from ten clips of three crops of 256 pixels."""
    return [
        Metric(task="k400", metric=metric, value=value, protocol="nonlocal", source=source)
        for metric, value in (("video@1", top1), ("video@5", top5))
    ]


def slowfast(name: str, top1: float, top5: float, **arguments: Any) -> Checkpoint:
    """A file of PySlowFast's model zoo, 8 frames 8 apart."""
    return Checkpoint(
        url=f"{SLOWFAST_FILES}/{name}", spec=SPEC_8X8, arguments=arguments, license="apache-2.0", source=SLOWFAST,
        about=ABOUT, upstream=percentages(top1, top5, source=SLOWFAST_ZOO),
    )  # fmt: skip


def slowfast_without_file(model: str, **arguments: Any) -> Checkpoint:
    """A network of which PySlowFast has a configuration and no file; users' own files have its names."""
    return Checkpoint(spec=SPEC_8X8, arguments=arguments, recipe=f"paper-34 --set model={model} --set tasks=k400:video")


def pytorchvideo(name: str, top1: float, top5: float, **arguments: Any) -> Checkpoint:
    """A file of pytorchvideo's model zoo, 8 frames 8 apart."""
    return Checkpoint(
        url=f"{PTV_FILES}/{name}", spec=SPEC_8X8, arguments=arguments, license="apache-2.0", source=PTV, about=ABOUT,
        upstream=percentages(top1, top5, source=PTV_ZOO),
    )  # fmt: skip


def caffe2(name: str, top1: float, top5: float, *, spec: InputSpec = SPEC_32X2, **arguments: Any) -> Checkpoint:
    """A file of the authors, of which others may not make money."""
    form = "caffe2_8f" if spec == SPEC_8X8 else "caffe2_32f"
    return Checkpoint(
        url=f"{CAFFE2_FILES}/{name}", spec=spec, arguments=dict(form=form, **arguments), license="cc-by-nc-4.0",
        source=CAFFE2, about=ABOUT_CAFFE2, upstream=percentages(top1, top5, source=f"{CAFFE2}#main-results"),
    )  # fmt: skip


def caffe2_long(name: str, top1: float, top5: float, *, spec: InputSpec, groups: bool = False) -> Checkpoint:
    """A file of the authors for long clips, trained on from one for shorter ones, its norms affine maps."""
    form = ("caffe2_8f" if spec == SPEC_32X4 else "caffe2_32f") + ("_groups" if groups else "")
    row = caffe2(name, top1, top5, spec=spec)
    return dataclasses.replace(row, arguments=dict(form=form), about=f"{row.about}, {FIXED_NORMS}")


def mmaction2(name: str, sha256: str, top1: float, top5: float, **arguments: Any) -> Checkpoint:
    """A file of mmaction2's model zoo, 32 frames 2 apart; it has the beginning of its hash in its name."""
    name = f"i3d_imagenet-pretrained-{name}-100e_kinetics400-rgb"
    return Checkpoint(
        url=f"{MM_FILES}/{name}/{name}_20220812-{sha256}.pth", sha256=sha256, spec=SPEC_MM,
        arguments=dict(form="mmaction2") | arguments, license="apache-2.0", source=MM, about=ABOUT_CAFFE2,
        upstream=percentages(top1, top5, source=MM_ZOO),
    )  # fmt: skip


def on_both(row: Checkpoint) -> Checkpoint:
    """A video network's weights for both pathways, its classifier behind each."""
    return dataclasses.replace(row, arguments={**row.arguments, **K400_ON_BOTH}, about=f"{row.about}; {DEFLATED}")


def torchvision(name: str, sha256: str, **arguments: Any) -> Checkpoint:
    """A ResNet of torchvision's, to start from."""
    return Checkpoint(
        url=f"https://download.pytorch.org/models/{name}-{sha256}.pth", sha256=sha256, spec=SPEC_IN1K,
        arguments=arguments, license="bsd-3-clause", source=TV, about="ImageNet-1k; videos: inflated, not trained",
    )  # fmt: skip


EMBEDDED, DOT, GAUSSIAN = "mm_embedded_gaussian", "mm_dot_product", "mm_gaussian"
I3D_SF = slowfast("I3D_8x8_R50.pkl", 73.5, 90.8)
I3D_NL_SF = slowfast("I3D_NLN_8x8_R50.pkl", 74.0, 91.1)
I3D_PTV = pytorchvideo("I3D_8x8_R50.pyth", 73.27, 90.70)
I3D_8F = caffe2("i3d_baseline_8x8_IN_pretrain_400k.pkl", 73.4, 90.9, spec=SPEC_8X8)
I3D_32F = caffe2("i3d_baseline_32x2_IN_pretrain_400k.pkl", 73.6, 90.8)
I3D_NL_8F = caffe2("i3d_nonlocal_8x8_IN_pretrain_400k.pkl", 74.7, 91.6, spec=SPEC_8X8)
I3D_NL_32F = caffe2("i3d_nonlocal_32x2_IN_pretrain_400k.pkl", 74.9, 91.6)
I3D_32X4 = caffe2_long("i3d_baseline_32x4_I3D_pretrain_400k.pkl", 75.5, 92.0, spec=SPEC_32X4)
I3D_128F = caffe2_long("i3d_baseline_128x1_I3D_pretrain_400k.pkl", 75.2, 92.0, spec=SPEC_128X1)
I3D_NL_32X4 = caffe2_long("i3d_nonlocal_32x4_I3D_pretrain_400k.pkl", 76.5, 92.6, spec=SPEC_32X4, groups=True)
I3D_NL_128F = caffe2_long("i3d_nonlocal_128x1_I3D_pretrain_400k.pkl", 76.5, 92.7, spec=SPEC_128X1, groups=True)
I3D_MM = mmaction2("r50_8xb8-32x2x1", "e213c223", 73.47, 91.27)
I3D_MM_DENSE = mmaction2("r50_8xb8-dense-32x2x1", "9f46003f", 73.77, 91.35)
I3D_MM_HEAVY = mmaction2("r50-heavy_8xb8-32x2x1", "ed501b31", 76.21, 92.48, form="slowfast", temporal="all")
I3D_NL_MM = mmaction2("r50-nl-embedded-gaussian_8xb8-32x2x1", "afd8f562", 74.73, 91.80, affinity=EMBEDDED)
I3D_NL_MM_DOT = mmaction2("r50-nl-dot-product_8xb8-32x2x1", "8e1f2148", 74.80, 92.07, affinity=DOT)
I3D_NL_MM_GAUSSIAN = mmaction2("r50-nl-gaussian_8xb8-32x2x1", "0c5cbf5a", 73.97, 91.33, affinity=GAUSSIAN)
RESNET50 = ("resnet50", "0676ba61")  # the first weights, which timm calls tv_in1k

CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, that with * or the first with weights is the default
    "i3d50.sf_k400": I3D_SF,
    "i3d50.ptv_k400": I3D_PTV,
    "i3d50.mm_k400": I3D_MM,
    "i3d50.mm_dense_k400": I3D_MM_DENSE,
    "i3d50.mm_heavy_k400": I3D_MM_HEAVY,
    "i3d50.caffe2_8f_k400": I3D_8F,
    "i3d50.caffe2_32f_k400": I3D_32F,
    "i3d50.caffe2_32x4_k400": I3D_32X4,
    "i3d50.caffe2_128f_k400": I3D_128F,
    "i3d50_nl.sf_k400": I3D_NL_SF,
    "i3d50_nl.mm_k400": I3D_NL_MM,
    "i3d50_nl.mm_dot_product_k400": I3D_NL_MM_DOT,
    "i3d50_nl.mm_gaussian_k400": I3D_NL_MM_GAUSSIAN,
    "i3d50_nl.caffe2_8f_k400": I3D_NL_8F,
    "i3d50_nl.caffe2_32f_k400": I3D_NL_32F,
    "i3d50_nl.caffe2_32x4_k400": I3D_NL_32X4,
    "i3d50_nl.caffe2_128f_k400": I3D_NL_128F,
    "i3d101.sf_k400": slowfast_without_file("i3d101"),
    "i3d101_nl.sf_k400": slowfast_without_file("i3d101_nl"),
    "c2d50.ptv_k400": on_both(pytorchvideo("C2D_8x8_R50.pyth", 71.46, 89.68)),
    "c2d50.sf_k400": slowfast_without_file("c2d50", **K400_ON_BOTH),
    "c2d50.sf_nopool_k400": on_both(slowfast("C2D_NOPOOL_8x8_R50.pkl", 67.2, 87.8, form="slowfast_nopool")),
    "c2d50.caffe2_8f_k400": on_both(caffe2("c2d_baseline_8x8_IN_pretrain_400k.pkl", 71.9, 90.0, spec=SPEC_8X8)),
    "c2d50.tv_in1k": torchvision(*RESNET50, **IN1K_ON_BOTH),
    "c2d50_nl.sf_k400*": slowfast_without_file("c2d50_nl", **K400_ON_BOTH),
    "c2d50_nl.caffe2_8f_k400": on_both(caffe2("c2d_nonlocal_8x8_IN_pretrain_400k.pkl", 74.4, 91.4, spec=SPEC_8X8)),
    "c2d50_nl.caffe2_32f_k400": on_both(caffe2("c2d_nonlocal_32x2_IN_pretrain_400k.pkl", 73.9, 91.0)),
    "i3d50_dual.sf_k400_deflated": on_both(I3D_SF),
    "i3d50_dual.ptv_k400_deflated": on_both(I3D_PTV),
    "i3d50_dual.mm_k400_deflated": on_both(I3D_MM),
    "i3d50_dual.mm_dense_k400_deflated": on_both(I3D_MM_DENSE),
    "i3d50_dual.mm_heavy_k400_deflated": on_both(I3D_MM_HEAVY),
    "i3d50_dual.caffe2_8f_k400_deflated": on_both(I3D_8F),
    "i3d50_dual.caffe2_32f_k400_deflated": on_both(I3D_32F),
    "i3d50_dual.tv_in1k_inflated": torchvision(*RESNET50, **IN1K_ON_BOTH),
    "i3d50_nl_dual.sf_k400_deflated": on_both(I3D_NL_SF),
    "i3d50_nl_dual.mm_k400_deflated": on_both(I3D_NL_MM),
    "i3d50_nl_dual.mm_dot_product_k400_deflated": on_both(I3D_NL_MM_DOT),
    "i3d50_nl_dual.mm_gaussian_k400_deflated": on_both(I3D_NL_MM_GAUSSIAN),
    "i3d50_nl_dual.caffe2_8f_k400_deflated": on_both(I3D_NL_8F),
    "i3d50_nl_dual.caffe2_32f_k400_deflated": on_both(I3D_NL_32F),
    "i3d50_nl_dual.tv_in1k_inflated": torchvision(*RESNET50, **IN1K_ON_BOTH),
}
