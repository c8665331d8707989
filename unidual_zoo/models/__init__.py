"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import unidual

__all__ = ["unidual"]
