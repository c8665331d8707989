"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import csn, dual_trunk, nonlocal_net, timesformer, unidual, uniformerv2, vjepa2_1

__all__ = ["csn", "dual_trunk", "nonlocal_net", "timesformer", "unidual", "uniformerv2", "vjepa2_1"]
