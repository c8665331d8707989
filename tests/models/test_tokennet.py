"""A family from outside the package passes what those in it pass, and goes every way that a network goes."""

from models import tokennet
from models.base import FamilyTests

from unidual_zoo.spec import InputSpec

SMALL = dict(width=16, depth=3, patch=8, num_frames=4, spec=InputSpec(resize=36, crop=(32, 32)))


class TestTokenNet(FamilyTests):
    family, small = tokennet.FAMILY, SMALL
