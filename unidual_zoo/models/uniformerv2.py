"""UniFormerV2 (Li et al. 2022, arXiv 2211.09552): CLIP's vision transformer, armed with local and global UniBlocks.

It is a `DualTrunk` with other constructor arguments. Local blocks, for data sets of motion, mix neighbouring frames
within the trunk's blocks; global ones, beside its last blocks, let a query gather from all frames, one behind the
other; a gate mixes the query with the mean of the frames' class tokens.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from torch import nn

from unidual_zoo.models.create import build
from unidual_zoo.models.dual_trunk import DualTrunk, checkpoint_filter_fn, first_conv, reduction
from unidual_zoo.models.family import Family
from unidual_zoo.models.rows.uniformerv2 import ARCHITECTURES, CHECKPOINTS


class UniFormerV2(DualTrunk):
    """Clips (B, C, T, H, W) and images (B, C, H, W), which are clips of one frame, -> logits (B, classes) of a task.

    With `pathways=("image", "video")` images go through CLIP's transformer alone: the trunk of a file that was trained
    frozen serves both. The arguments are those of `DualTrunk`: the size is the trunk's.
    """

    @property
    def image_frames(self) -> int:
        """One: nothing here asks for more, and with temporal downsampling a single frame counts twice."""
        return 1


# ---- registered names -----------------------------------------------------------------------------------------------

FAMILY = Family(
    model_class=UniFormerV2,
    architectures=ARCHITECTURES,
    checkpoints=CHECKPOINTS,
    filter_fn=checkpoint_filter_fn,
    first_conv=first_conv,
    reduction=reduction,
    about="[UniFormerV2](https://arxiv.org/abs/2211.09552), CLIP's vision transformer with local and global blocks "
    "over the frames of a clip",
)
default_cfgs = FAMILY.default_cfgs()


@register_model
def uniformerv2_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniFormerV2-B/16, 224 pixels, 115 M parameters; with local blocks 163 M."""
    return build(FAMILY, "uniformerv2_base_patch16_224", pretrained, **kwargs)


@register_model
def uniformerv2_large_patch14_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniFormerV2-L/14, 224 pixels, 354 M parameters; with local blocks 574 M."""
    return build(FAMILY, "uniformerv2_large_patch14_224", pretrained, **kwargs)


@register_model
def uniformerv2_large_patch14_336(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """UniFormerV2-L/14, 336 pixels, 354 M parameters."""
    return build(FAMILY, "uniformerv2_large_patch14_336", pretrained, **kwargs)
