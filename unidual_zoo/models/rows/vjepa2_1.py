"""V-JEPA 2.1 (facebookresearch/vjepa2): the variants' constructor arguments and the checkpoints."""

from __future__ import annotations

from typing import Any

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.weights import Checkpoint

TASKS = {"in1k": ("image", 1000), "k400": ("video", 400)}
BOTH = ("image", "video")
SPEC_384 = InputSpec(  # the files' resolution; ImageNet's statistics
    resize=438, crop=(384, 384), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    clip=ClipSpec(length=16, stride=4), classes={"in1k": "imagenet1k", "k400": "kinetics400"},
)  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vjepa2_1_vit_base": dict(embed_dim=768, depth=12, num_heads=12, pathways=BOTH, tasks=TASKS, spec=SPEC_384),
    "vjepa2_1_vit_large": dict(embed_dim=1024, depth=24, num_heads=16, pathways=BOTH, tasks=TASKS, spec=SPEC_384),
}

UPSTREAM = "https://github.com/facebookresearch/vjepa2"
FILES = "https://dl.fbaipublicfiles.com/vjepa2"
ABOUT = "VisionMix163M without labels: an encoder, its heads are to be trained"

CHECKPOINTS: dict[str, Checkpoint] = {
    "vjepa2_1_vit_base.dist_vitg_384": Checkpoint(
        url=f"{FILES}/vjepa2_1_vitb_dist_vitG_384.pt", spec=SPEC_384, license="mit", source=UPSTREAM, about=ABOUT
    ),
    "vjepa2_1_vit_large.dist_vitg_384": Checkpoint(
        url=f"{FILES}/vjepa2_1_vitl_dist_vitG_384.pt", spec=SPEC_384, license="mit", source=UPSTREAM, about=ABOUT
    ),
}
