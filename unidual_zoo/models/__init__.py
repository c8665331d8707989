"""Model families; importing one registers its names with timm."""

# isort: off
from unidual_zoo.models import unidual  # first, as lists of models begin with it

# isort: on
from unidual_zoo.models import corrnet, csn, dual_trunk, nonlocal_net, timesformer, uniformerv2, vjepa2_1

__all__ = ["corrnet", "csn", "dual_trunk", "nonlocal_net", "timesformer", "unidual", "uniformerv2", "vjepa2_1"]
