"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import dual_trunk, unidual

__all__ = ["dual_trunk", "unidual"]
