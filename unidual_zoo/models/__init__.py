"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import dual_trunk, unidual, uniformerv2, vjepa2_1

__all__ = ["dual_trunk", "unidual", "uniformerv2", "vjepa2_1"]
