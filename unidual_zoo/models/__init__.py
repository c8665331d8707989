"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import dual_trunk, nonlocal_net, timesformer, unidual, vjepa2_1

__all__ = ["dual_trunk", "nonlocal_net", "timesformer", "unidual", "vjepa2_1"]
