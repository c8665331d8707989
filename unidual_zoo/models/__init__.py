"""Model families; importing one registers its names with timm."""

from unidual_zoo.models import corrnet, csn, dual_trunk, nonlocal_net, timesformer, unidual, uniformerv2, vjepa2_1

__all__ = ["corrnet", "csn", "dual_trunk", "nonlocal_net", "timesformer", "unidual", "uniformerv2", "vjepa2_1"]
