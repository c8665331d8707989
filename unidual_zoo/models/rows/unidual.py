"""UniDual and its baselines (arXiv 1906.03857, Table 1): the variants' constructor arguments and the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint, Metric

IN1K, K400 = {"in1k": ("image", 1000)}, {"k400": ("video", 400)}
NAMES = {"in1k": "imagenet1k", "k400": "kinetics400"}
IMAGE, VIDEO, BOTH = ("image",), ("video",), ("image", "video")

SPEC_34 = InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=8), classes=NAMES)
SPEC_34_CLIP32 = InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=32), classes=NAMES)
SPEC_18 = InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=16, rate=15), classes=NAMES)
SPEC_152 = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=16, stride=4), classes=NAMES)

SIZE_10: dict[str, Any] = dict(depths=(1, 1, 1, 1), width=0.25, spec=SPEC_34)
SIZE_34: dict[str, Any] = dict(depths=(3, 4, 6, 3), spec=SPEC_34)
SIZE_152: dict[str, Any] = dict(depths=(3, 8, 36, 3), block="bottleneck", pool=True, spec=SPEC_152)

ARCHITECTURES: dict[str, dict[str, Any]] = {  # a fine-tuned system of the paper is its network, trained in two stages
    "r2d10": dict(**SIZE_10, pathways=IMAGE, tasks=IN1K),
    "r2plus1d10": dict(**SIZE_10, pathways=VIDEO, tasks=K400),
    "r2d10_multitask": dict(**SIZE_10, pathways=IMAGE, tasks=IN1K | K400),
    "r2d10_lstm_multitask": dict(**SIZE_10, pathways=IMAGE, tasks=IN1K | K400, frame_pool="lstm"),
    "r2plus1d10_multitask": dict(**SIZE_10, pathways=VIDEO, tasks=IN1K | K400),
    "unidual10": dict(**SIZE_10, pathways=BOTH, tasks=IN1K | K400),
    "unidual10_aux": dict(**SIZE_10, pathways=BOTH, tasks=IN1K | K400, auxiliary=True),
    "r2d34": dict(**SIZE_34, pathways=IMAGE, tasks=IN1K),
    "r2plus1d34": dict(**SIZE_34, pathways=VIDEO, tasks=K400),
    "r2d34_multitask": dict(**SIZE_34, pathways=IMAGE, tasks=IN1K | K400),
    "r2d34_lstm_multitask": dict(**SIZE_34, pathways=IMAGE, tasks=IN1K | K400, frame_pool="lstm"),
    "r2plus1d34_multitask": dict(**SIZE_34, pathways=VIDEO, tasks=IN1K | K400),
    "unidual34": dict(**SIZE_34, pathways=BOTH, tasks=IN1K | K400),
    "unidual34_aux": dict(**SIZE_34, pathways=BOTH, tasks=IN1K | K400, auxiliary=True),
    "r2d152": dict(**SIZE_152, pathways=IMAGE, tasks=IN1K),
    "r2plus1d152": dict(**SIZE_152, pathways=VIDEO, tasks=K400),
    "unidual152": dict(**SIZE_152, pathways=BOTH, tasks=IN1K | K400),
    "unidual152_aux": dict(**SIZE_152, pathways=BOTH, tasks=IN1K | K400, auxiliary=True),
    "r2plus1d18": dict(  # torchvision's network
        depths=(2, 2, 2, 2), mid_planes="block", norm_eps=1e-5, pathways=VIDEO, tasks=K400, spec=SPEC_18
    ),
}  # fmt: skip

# ---- checkpoints ----------------------------------------------------------------------------------------------------

CIFAR, TOY = (
    {"cifar10": ("image", 10), "cifar_motion": ("video", 12)},
    {"toy_objects": ("image", 10), "toy_actions": ("video", 12)},
)
SPEC_TOY = InputSpec(
    resize=(72, 96), crop=(64, 64), clip=ClipSpec(length=8, stride=4), classes={task: task for task in TOY}
)
SPEC_CIFAR = InputSpec(resize=32, crop=(28, 28), clip=ClipSpec(length=8), classes={task: task for task in CIFAR})
SPEC_CIFAR10 = InputSpec(resize=32, crop=(28, 28), clip=ClipSpec(length=8), classes={"cifar10": "cifar10"})
SPEC_CIFAR_MOTION = InputSpec(
    resize=32, crop=(28, 28), clip=ClipSpec(length=8), classes={"cifar_motion": "cifar_motion"}
)

ZOO_34 = "https://github.com/moabitcoin/ig65m-pytorch"  # MIT, converted from VMZ
FILES_34 = f"{ZOO_34}/releases/download/v1.0.0"
VMZ = "https://github.com/facebookresearch/VMZ"
MODEL_ZOO = f"{VMZ}/blob/main/c2/tutorials/model_zoo.md"
FILES_152 = "https://github.com/bjuncek/VMZ/releases/download/test_models"  # the numbers in the names are no hashes
ABOUT_K400, ABOUT_DEFLATED = "IG-65M, then Kinetics-400", "images: the video pathway deflated, not trained"
ONE_HEAD_EACH = {"image": ["k400"], "video": ["k400"]}


def percentages(task: str, values: Mapping[str, float], *, source: str, protocol: str = "unidual34") -> list[Metric]:
    """`{"video@1": 74.9}` as rows of one task."""
    return [Metric(task=task, metric=m, value=v, protocol=protocol, source=source) for m, v in values.items()]


CHECKPOINTS: dict[str, Checkpoint] = {  # of an architecture, the first with weights is the default
    "unidual10_aux.cifar10_motion": Checkpoint(
        file="unidual10_aux.cifar10_motion.safetensors", spec=SPEC_CIFAR,
        arguments=dict(tasks=CIFAR, auxiliary=False),
        sha256="41fa3780e4fdd57f71283850e8e9366d39bab175ba005c931c5a54f131ed640e",
        license="apache-2.0", about="CIFAR-10 and CIFAR-Motion", recipe="cifar",
        metrics=[
            *percentages("cifar10", {"top-1": 74.2, "top-5": 98.2}, source="benchmarks/table2.py"),
            *percentages(
                "cifar_motion", {"clip@1": 68.2, "video@1": 72.5, "video@5": 98.0}, source="benchmarks/table2.py"
            ),
        ],
    ),
    "unidual10_aux.toy": Checkpoint(
        file="unidual10_aux.toy.safetensors", spec=SPEC_TOY, arguments=dict(tasks=TOY, auxiliary=False),
        sha256="7914e8bc3efd9c389842b825dca895e34e76c08b24f7dc1320e1ae32f80a202c",
        license="apache-2.0", about="the embedded data", recipe="toy",
        metrics=[
            *percentages("toy_objects", {"top-1": 83.3, "top-5": 97.6}, source="benchmarks/imagenet.py"),
            *percentages(
                "toy_actions", {"clip@1": 93.6, "video@1": 95.6, "video@5": 99.6}, source="benchmarks/kinetics.py"
            ),
        ],
    ),
    "r2d10.cifar10": Checkpoint(
        file="r2d10.cifar10.safetensors", spec=SPEC_CIFAR10, arguments=dict(tasks={"cifar10": ("image", 10)}),
        sha256="5221ccf61a0c289d6cbd3b01e60e560f4e221d8bb51d8a6f14f1073ee8582791",
        license="apache-2.0", about="CIFAR-10", recipe="cifar",
        metrics=percentages("cifar10", {"top-1": 70.2, "top-5": 97.7}, source="benchmarks/table2.py"),
    ),
    "r2plus1d10.cifar_motion": Checkpoint(
        file="r2plus1d10.cifar_motion.safetensors", spec=SPEC_CIFAR_MOTION,
        arguments=dict(tasks={"cifar_motion": ("video", 12)}),
        sha256="6e33119dfdcb2b287d054fd5d57fe34990fcfb788ae17b22492ff661128bbb5f",
        license="apache-2.0", about="CIFAR-Motion", recipe="cifar",
        metrics=percentages(
            "cifar_motion", {"clip@1": 67.3, "video@1": 69.8, "video@5": 97.7}, source="benchmarks/table2.py"
        ),
    ),
    "r2plus1d18.tv_k400": Checkpoint(
        url="https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth", sha256="91a641e6", spec=SPEC_18,
        license="bsd-3-clause", source="https://github.com/pytorch/vision", about="Kinetics-400",
        upstream=percentages(
            "k400", {"video@1": 67.463, "video@5": 86.175},
            source="torchvision R2Plus1D_18_Weights", protocol="torchvision",
        ),
    ),
    "r2plus1d34.ig65m_ft_k400_clip8": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth", sha256="0aa0550b",
        spec=SPEC_34, license="mit", source=ZOO_34, about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 74.9, "video@5": 91.8}, source=MODEL_ZOO),
    ),
    "r2plus1d34.ig65m_ft_k400_clip32": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1.pth", sha256="ade133f1",
        spec=SPEC_34_CLIP32, license="mit", source=ZOO_34, about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 80.0, "video@5": 94.2}, source=MODEL_ZOO),
    ),
    "r2plus1d34.ig65m_clip8": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth", sha256="9bae36ae",
        spec=SPEC_34, arguments=dict(tasks={"ig65m": ("video", 487)}), license="mit", source=ZOO_34,
        about="IG-65M",
    ),
    "r2plus1d34.ig65m_clip32": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth", sha256="449a7af9",
        spec=SPEC_34_CLIP32, arguments=dict(tasks={"ig65m": ("video", 359)}), license="mit", source=ZOO_34,
        about="IG-65M",
    ),
    "r2plus1d152.ig65m_ft_k400": Checkpoint(  # trained at 112×112 without the pool
        url=f"{FILES_152}/r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pth",
        spec=SPEC_34_CLIP32, arguments=dict(pool=False), license="apache-2.0", source=VMZ,
        about=ABOUT_K400,
        upstream=percentages("k400", {"video@1": 81.6, "video@5": 95.3}, source=MODEL_ZOO),
    ),
    "r2plus1d152.sports1m_ft_k400": Checkpoint(  # trained at 112×112 without the pool
        url=f"{FILES_152}/r2plus1d_152_ft_kinetics_from_sports1m_f128957437.pth",
        spec=SPEC_34_CLIP32, arguments=dict(pool=False), license="apache-2.0", source=VMZ,
        about="Sports-1M, then Kinetics-400",
        upstream=percentages("k400", {"video@1": 79.5, "video@5": 94.0}, source=MODEL_ZOO),
    ),
    "r2plus1d152.ig65m": Checkpoint(  # trained at 112×112 without the pool
        url=f"{FILES_152}/r2plus1d_152_ig65m_from_scratch_f106380637.pth",
        spec=SPEC_34_CLIP32, arguments=dict(pool=False, tasks={"ig65m": ("video", 359)}),
        license="apache-2.0", source=VMZ,
        about="IG-65M",
    ),
    "unidual34.ig65m_ft_k400_deflated": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth", sha256="0aa0550b",
        spec=SPEC_34, arguments=dict(tasks=K400, heads=ONE_HEAD_EACH), license="mit", source=ZOO_34,
        about=f"{ABOUT_K400}; {ABOUT_DEFLATED}",
        upstream=percentages("k400", {"video@1": 74.9, "video@5": 91.8}, source=MODEL_ZOO),
    ),
    "unidual34_aux.ig65m_ft_k400_deflated": Checkpoint(
        url=f"{FILES_34}/r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b.pth", sha256="0aa0550b",
        spec=SPEC_34, arguments=dict(tasks=K400, heads=ONE_HEAD_EACH), license="mit", source=ZOO_34,
        about=f"{ABOUT_K400}; {ABOUT_DEFLATED}",
        upstream=percentages("k400", {"video@1": 74.9, "video@5": 91.8}, source=MODEL_ZOO),
    ),
    "unidual152.ig65m_ft_k400_deflated": Checkpoint(
        url=f"{FILES_152}/r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pth",
        spec=SPEC_34_CLIP32, arguments=dict(pool=False, tasks=K400, heads=ONE_HEAD_EACH), license="apache-2.0",
        source=VMZ, about=f"{ABOUT_K400}; {ABOUT_DEFLATED}",
        upstream=percentages("k400", {"video@1": 81.6, "video@5": 95.3}, source=MODEL_ZOO),
    ),
    "unidual152_aux.ig65m_ft_k400_deflated": Checkpoint(
        url=f"{FILES_152}/r2plus1d_152_ft_kinetics_from_ig65m_f107107466.pth",
        spec=SPEC_34_CLIP32, arguments=dict(pool=False, tasks=K400, heads=ONE_HEAD_EACH), license="apache-2.0",
        source=VMZ, about=f"{ABOUT_K400}; {ABOUT_DEFLATED}",
        upstream=percentages("k400", {"video@1": 81.6, "video@5": 95.3}, source=MODEL_ZOO),
    ),
    # The paper's own systems, whose weights nobody published: a recipe makes them. They come without auxiliary heads.
    "r2d34.in1k": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=r2d34 --set tasks=in1k:image",
    ),
    "r2plus1d34.k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=r2plus1d34 --set tasks=k400:video",
    ),
    "r2d34_multitask.in1k_k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=r2d34_multitask --set tasks=in1k:image,k400:video",
    ),
    "r2d34_lstm_multitask.in1k_k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=r2d34_lstm_multitask --set tasks=in1k:image,k400:video",
    ),
    "r2plus1d34_multitask.in1k_k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=r2plus1d34_multitask --set tasks=in1k:image,k400:video",
    ),
    "unidual34.in1k_k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=unidual34 --set tasks=in1k:image,k400:video",
    ),
    "unidual34_aux.in1k_k400": Checkpoint(
        spec=SPEC_34, arguments=dict(auxiliary=False),
        recipe="paper-34 --set model=unidual34_aux --set tasks=in1k:image,k400:video",
    ),
    "r2d152.in1k": Checkpoint(
        spec=SPEC_152, arguments=dict(auxiliary=False),
        recipe="paper-152 --set model=r2d152 --set tasks=in1k:image",
    ),
    "r2plus1d152.k400": Checkpoint(
        spec=SPEC_152, arguments=dict(auxiliary=False),
        recipe="paper-152 --set model=r2plus1d152 --set tasks=k400:video",
    ),
    "unidual152.in1k_k400": Checkpoint(
        spec=SPEC_152, arguments=dict(auxiliary=False),
        recipe="paper-152 --set model=unidual152 --set tasks=in1k:image,k400:video",
    ),
    "unidual152_aux.in1k_k400": Checkpoint(
        spec=SPEC_152, arguments=dict(auxiliary=False),
        recipe="paper-152 --set model=unidual152_aux --set tasks=in1k:image,k400:video",
    ),
}  # fmt: skip
