"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import corrnet, dual_trunk, nonlocal_net, unidual, vjepa2_1

__all__ = ["corrnet", "dual_trunk", "nonlocal_net", "unidual", "vjepa2_1"]
