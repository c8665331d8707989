"""Non-local networks, I3D and C2D against the outputs of other code bases on seeded weights under their own names."""

import pytest
import timm
import torch
from models.base import FamilyTests
from models.small import close, make

from unidual_zoo.models import nonlocal_net
from unidual_zoo.spec import InputSpec

SPEC = InputSpec(resize=36, crop=(32, 32))
SMALL = dict(width=1 / 16, depths=(2, 2, 1, 1), nonlocal_blocks=((), (1,)), num_frames=4, spec=SPEC)


class TestNonLocalNet(FamilyTests):
    family, small, options = nonlocal_net.FAMILY, SMALL, dict(norms="shared", form="slowfast_nopool")
    names = ("i3d50_nl_dual", "c2d50_nl", "i3d50_nl")
