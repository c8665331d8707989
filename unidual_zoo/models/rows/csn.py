"""CSN (arXiv 1904.02811): the variants' constructor arguments and the checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
IG65M, SPORTS1M = {"ig65m": ("video", 359)}, {"sports1m": ("video", 487)}
VIDEO, BOTH = ("video",), ("image", "video")

_INPUT: dict[str, Any] = dict(
    resize=256, crop=(224, 224), clip=ClipSpec(length=32, stride=2),
    classes={"in1k": "imagenet1k", "k400": "kinetics400"},
)  # fmt: skip
SPEC = InputSpec(**_INPUT, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))  # ImageNet's statistics
SPEC_VMZ = InputSpec(**_INPUT)
SPEC_PTV = InputSpec(**_INPUT, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

SIZE_50: dict[str, Any] = dict(depths=(3, 4, 6, 3), spec=SPEC)
SIZE_101: dict[str, Any] = dict(depths=(3, 4, 23, 3), spec=SPEC)
SIZE_152: dict[str, Any] = dict(depths=(3, 8, 36, 3), spec=SPEC)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ircsn50": dict(**SIZE_50, block="ir", pathways=VIDEO, tasks=K400),
    "ircsn101": dict(**SIZE_101, block="ir", pathways=VIDEO, tasks=K400),
    "ircsn152": dict(**SIZE_152, block="ir", pathways=VIDEO, tasks=K400),
    "ipcsn50": dict(**SIZE_50, block="ip", pathways=VIDEO, tasks=K400),
    "ipcsn101": dict(**SIZE_101, block="ip", pathways=VIDEO, tasks=K400),
    "ipcsn152": dict(**SIZE_152, block="ip", pathways=VIDEO, tasks=K400),
    "ircsn50_dual": dict(**SIZE_50, block="ir", pathways=BOTH, tasks=IN1K | K400),
    "ircsn101_dual": dict(**SIZE_101, block="ir", pathways=BOTH, tasks=IN1K | K400),
    "ircsn152_dual": dict(**SIZE_152, block="ir", pathways=BOTH, tasks=IN1K | K400),
    "ipcsn50_dual": dict(**SIZE_50, block="ip", pathways=BOTH, tasks=IN1K | K400),
    "ipcsn101_dual": dict(**SIZE_101, block="ip", pathways=BOTH, tasks=IN1K | K400),
    "ipcsn152_dual": dict(**SIZE_152, block="ip", pathways=BOTH, tasks=IN1K | K400),
}

# ---- checkpoints ----------------------------------------------------------------------------------------------------

MMACTION = "https://github.com/open-mmlab/mmaction2"
MM_TABLE = f"{MMACTION}/blob/v1.2.0/configs/recognition/csn/README.md"
MM_OLD_TABLE = f"{MMACTION}/blob/v0.24.1/configs/recognition/csn/README.md"
MM_1 = "https://download.openmmlab.com/mmaction/v1.0/recognition/csn"
MM_0 = "https://download.openmmlab.com/mmaction/recognition/csn"
VMZ = "https://github.com/facebookresearch/VMZ"
MODEL_ZOO = f"{VMZ}/blob/main/c2/tutorials/model_zoo.md"
VMZ_FILES = "https://github.com/bjuncek/VMZ/releases/download/test_models"  # the numbers in the names are no hashes
GLUON = "https://github.com/dmlc/gluon-cv"
PTV = "https://github.com/facebookresearch/pytorchvideo"
IG65M_FT, SPORTS1M_FT, SCRATCH = "IG-65M, then Kinetics-400", "Sports-1M, then Kinetics-400", "Kinetics-400"
ENCODER = "without a classifier, whose heads are to be trained"


def reported(top1: float, top5: float | None = None, *, source: str) -> list[Metric]:
    """Percentages that authors report, of 10 clips × 3 crops of a video."""
    values = {"video@1": top1, "video@5": top5}
    return [
        Metric(task="k400", metric=metric, value=value, protocol="csn", source=source)
        for metric, value in values.items()
        if value is not None
    ]


VIDEO_CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first is the default
    "ircsn50.mm_ig65m_ft_k400": Checkpoint(
        url=f"{MM_1}/ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb/"
        "ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb_20220811-44395bae.pth",
        sha256="44395bae", spec=SPEC, license="apache-2.0", source=MMACTION, about=IG65M_FT,
        upstream=reported(79.44, 94.26, source=MM_TABLE),
    ),
    "ircsn50.mm_vmz_ig65m_ft_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ircsn_ig65m_pretrained_r50_32x2x1_58e_kinetics400_rgb_20210617-86d33018.pth",
        sha256="86d33018", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"{IG65M_FT} (VMZ's, converted)",
        upstream=reported(79.0, 94.2, source=MM_OLD_TABLE),
    ),
    "ircsn50.mm_k400": Checkpoint(
        url=f"{MM_0}/ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb/"
        "ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb_20210618-4e29e2e8.pth",
        sha256="4e29e2e8", spec=SPEC, license="apache-2.0", source=MMACTION, about=SCRATCH,
        upstream=reported(73.6, 91.3, source=MM_OLD_TABLE),
    ),
    "ircsn50.mm_ig65m": Checkpoint(
        url=f"{MM_0}/ircsn_from_scratch_r50_ig65m_20210617-ce545a37.pth",
        sha256="ce545a37", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"IG-65M, {ENCODER}",
    ),
    "ircsn101.ptv_k400": Checkpoint(
        url="https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/CSN_32x2_R101.pyth",
        spec=SPEC_PTV, arguments=dict(norm_eps=1e-5), license="apache-2.0", source=PTV, about=SCRATCH,
        upstream=reported(77.0, 92.9, source=f"{PTV}/blob/main/docs/source/model_zoo.md"),
    ),
    "ircsn152.mm_ig65m_ft_k400": Checkpoint(
        url=f"{MM_1}/ircsn_ig65m-pretrained-r152_8xb12-32x2x1-58e_kinetics400-rgb/"
        "ircsn_ig65m-pretrained-r152_8xb12-32x2x1-58e_kinetics400-rgb_20220811-c7a3cc5b.pth",
        sha256="c7a3cc5b", spec=SPEC, license="apache-2.0", source=MMACTION, about=IG65M_FT,
        upstream=reported(82.87, 95.90, source=MM_TABLE),
    ),
    "ircsn152.mm_ig65m_ft_k400_again": Checkpoint(  # the same recipe: frozen BatchNorms were inherited by the one above
        url=f"{MM_1}/ircsn_ig65m-pretrained-r152-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb/"
        "ircsn_ig65m-pretrained-r152-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb_20220811-7d1dacde.pth",
        sha256="7d1dacde", spec=SPEC, license="apache-2.0", source=MMACTION, about=IG65M_FT,
        upstream=reported(82.84, 95.92, source=MM_TABLE),
    ),
    "ircsn152.mm0_ig65m_ft_k400": Checkpoint(
        url=f"{MM_0}/ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb/"
        "ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb_20200812-9037a758.pth",
        sha256="9037a758", spec=SPEC, license="apache-2.0", source=MMACTION, about=IG65M_FT,
        upstream=reported(82.76, 95.68, source=MM_OLD_TABLE),
    ),
    "ircsn152.mm0_ig65m_ft_k400_unfrozen": Checkpoint(
        url=f"{MM_0}/ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb/"
        "ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20200803-fc66ce8d.pth",
        sha256="fc66ce8d", spec=SPEC, license="apache-2.0", source=MMACTION,
        about=f"{IG65M_FT}, BatchNorms trained, too", upstream=reported(80.14, 94.93, source=MM_OLD_TABLE),
    ),
    "ircsn152.mm_vmz_ig65m_ft_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ircsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-e63ee1bd.pth",
        sha256="e63ee1bd", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"{IG65M_FT} (VMZ's, converted)",
        upstream=reported(82.6, 95.3, source=MM_OLD_TABLE),
    ),
    "ircsn152.mm_vmz_sports1m_ft_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ircsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-b9b10241.pth",
        sha256="b9b10241", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION,
        about=f"{SPORTS1M_FT} (VMZ's, converted)", upstream=reported(78.57, 93.44, source=MM_TABLE),
    ),
    "ircsn152.mm_vmz_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ircsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-5c933ae1.pth",
        sha256="5c933ae1", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION, about=f"{SCRATCH} (VMZ's, converted)",
        upstream=reported(76.53, 92.28, source=MM_TABLE),
    ),
    "ircsn152.mm_ig65m": Checkpoint(
        url=f"{MM_0}/ircsn_from_scratch_r152_ig65m_20200807-771c4135.pth",
        sha256="771c4135", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"IG-65M, {ENCODER}",
    ),
    "ircsn152.mm_sports1m": Checkpoint(
        url=f"{MM_0}/ircsn_from_scratch_r152_sports1m_20210617-bcc9c0dd.pth",
        sha256="bcc9c0dd", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION, about=f"Sports-1M, {ENCODER}",
    ),
    "ircsn152.gluon_ig65m_ft_k400": Checkpoint(
        url="https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/torch/models/"
        "ircsn_v2_resnet152_f32s2_kinetics400-82855d2c.pth",  # the beginning of its SHA-1
        spec=SPEC, license="apache-2.0", source=GLUON, about=f"{IG65M_FT} (VMZ's, converted)",
        upstream=reported(
            83.18, source=f"{GLUON}/blob/master/docs/model_zoo/csv_tables/Action_Recognitions/Kinetics400_torch.csv"
        ),
    ),
    "ircsn152.vmz_ig65m_ft_k400": Checkpoint(
        url=f"{VMZ_FILES}/irCSN_152_ft_kinetics_from_ig65m_f126851907.pth",
        spec=SPEC_VMZ, license="apache-2.0", source=VMZ, about=IG65M_FT,
        upstream=reported(82.6, 95.3, source=MODEL_ZOO),
    ),
    "ircsn152.vmz_sports1m_ft_k400": Checkpoint(
        url=f"{VMZ_FILES}/irCSN_152_ft_kinetics_from_Sports1M_f101599884.pth",
        spec=SPEC_VMZ, license="apache-2.0", source=VMZ, about=SPORTS1M_FT,
        upstream=reported(78.2, 93.0, source=MODEL_ZOO),
    ),
    "ircsn152.vmz_ig65m": Checkpoint(
        url=f"{VMZ_FILES}/irCSN_152_ig65m_from_scratch_f125286141.pth",
        spec=SPEC_VMZ, arguments=dict(tasks=IG65M), license="apache-2.0", source=VMZ, about="IG-65M",
    ),
    "ircsn152.vmz_sports1m": Checkpoint(
        url=f"{VMZ_FILES}/irCSN_152_Sports1M_from_scratch_f99918785.pth",
        spec=SPEC_VMZ, arguments=dict(tasks=SPORTS1M), license="apache-2.0", source=VMZ, about="Sports-1M",
    ),
    # mmaction2's configuration says ImageNet's statistics, by inheritance; its other conversions of VMZ's say VMZ's.
    "ipcsn152.mm_vmz_ig65m_ft_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ipcsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-c3be9793.pth",
        sha256="c3be9793", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"{IG65M_FT} (VMZ's, converted)",
        upstream=reported(82.68, 95.69, source=MM_TABLE),
    ),
    "ipcsn152.mm_vmz_sports1m_ft_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ipcsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-3367437a.pth",
        sha256="3367437a", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION,
        about=f"{SPORTS1M_FT} (VMZ's, converted)", upstream=reported(79.07, 93.82, source=MM_TABLE),
    ),
    "ipcsn152.mm_vmz_k400": Checkpoint(
        url=f"{MM_0}/vmz/vmz_ipcsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-d565828d.pth",
        sha256="d565828d", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION, about=f"{SCRATCH} (VMZ's, converted)",
        upstream=reported(77.80, 93.10, source=MM_TABLE),
    ),
    "ipcsn152.mm_ig65m": Checkpoint(
        url=f"{MM_0}/ipcsn_from_scratch_r152_ig65m_20210617-c4b99d38.pth",
        sha256="c4b99d38", spec=SPEC, license="apache-2.0", source=MMACTION, about=f"IG-65M, {ENCODER}",
    ),
    "ipcsn152.mm_sports1m": Checkpoint(
        url=f"{MM_0}/ipcsn_from_scratch_r152_sports1m_20210617-7a7cc5b9.pth",
        sha256="7a7cc5b9", spec=SPEC_VMZ, license="apache-2.0", source=MMACTION, about=f"Sports-1M, {ENCODER}",
    ),
    "ipcsn152.vmz_ig65m_ft_k400": Checkpoint(
        url=f"{VMZ_FILES}/ipCSN_152_ft_kinetics_from_ig65m_f133090949.pth",
        spec=SPEC_VMZ, license="apache-2.0", source=VMZ, about=IG65M_FT,
        upstream=reported(82.5, 95.3, source=MODEL_ZOO),
    ),
    "ipcsn152.vmz_sports1m_ft_k400": Checkpoint(
        url=f"{VMZ_FILES}/ipCSN_152_ft_kinetics_from_Sports1M_f111279053.pth",
        spec=SPEC_VMZ, license="apache-2.0", source=VMZ, about=SPORTS1M_FT,
        upstream=reported(78.8, 93.5, source=MODEL_ZOO),
    ),
    "ipcsn152.vmz_ig65m": Checkpoint(
        url=f"{VMZ_FILES}/ipCSN_152_ig65m_from_scratch_f130601052.pth",
        spec=SPEC_VMZ, arguments=dict(tasks=IG65M), license="apache-2.0", source=VMZ, about="IG-65M",
    ),
    "ipcsn152.vmz_sports1m": Checkpoint(
        url=f"{VMZ_FILES}/ipCSN_152_Sports1M_from_scratch_f111018543.pth",
        spec=SPEC_VMZ, arguments=dict(tasks=SPORTS1M), license="apache-2.0", source=VMZ, about="Sports-1M",
    ),
}  # fmt: skip


def deflated(row: Checkpoint) -> Checkpoint:
    """A dual network's start from a video checkpoint: its image pathway is the video pathway's, summed over time."""
    tasks = row.arguments.get("tasks", K400)
    heads = {pathway: list(tasks) for pathway in BOTH}
    return dataclasses.replace(
        row,
        arguments={**row.arguments, "tasks": tasks, "heads": heads},
        about=f"{row.about}; images: the video pathway deflated, not trained",
    )


def _dual(name: str) -> str:
    """`ircsn50.mm_k400` -> `ircsn50_dual.mm_k400_deflated`"""
    architecture, tag = name.split(".")
    return f"{architecture}_dual.{tag}_deflated"


CHECKPOINTS: dict[str, Checkpoint] = VIDEO_CHECKPOINTS | {
    _dual(name): deflated(row) for name, row in VIDEO_CHECKPOINTS.items()
}
