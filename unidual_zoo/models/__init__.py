"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import unidual, vjepa2_1

__all__ = ["unidual", "vjepa2_1"]
