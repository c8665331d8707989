"""CSN: what every family must pass, and what is its own."""

from models.base import FamilyTests

from unidual_zoo.models import csn

SMALL = dict(width=1 / 16, depths=(2, 1, 1, 1), num_frames=4)


class TestCSN(FamilyTests):
    family, small, shallow = csn.FAMILY, SMALL, dict(depths=(1, 1))
    names = ("ircsn50", "ipcsn50_dual")
