"""How fresh convolutions are filled, in one place for all convolutional families.

VMZ and the original Non-local code ask Caffe2 for an "MSRAFill", which has meant two things: in 2017 uniform weights
within ±sqrt(2 / fan-in), later normal ones of deviation sqrt(2 / fan-out), which PySlowFast's `c2_msra_fill` copies.
Neither is He et al.'s normal fan-in. `fan` says which of the two fans is meant.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


def fill_msra(weight: Tensor, *, fan: Literal["fan_in", "fan_out"]) -> None:
    """Normal weights of deviation sqrt(2 / fan) (He et al. 2015), in place."""
    nn.init.kaiming_normal_(weight, mode=fan, nonlinearity="relu")
