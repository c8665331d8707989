"""How the weights of convolutional networks start, in one place for all families.

Convolutions are filled with He's normal filler (arXiv 1502.01852, equation 10): deviation sqrt(2 / fan-in), where the
fan-in is what one output sums over, so that activations keep their size through ReLUs whatever the kernel, the width
and the groups. VMZ asks Caffe2 for "MSRAFill", which is neither: in 2017 it was uniform within ±sqrt(2 / fan-in), a
third of that variance, and later normal with the fan-out, which for a depthwise filter counts all channels: at 512
channels its deviation is 0.012, and the eps of the BatchNorm behind it would no longer be small.
"""

from __future__ import annotations

from torch import nn

from unidual_zoo.models.heads import init_head


def fill_convolutional(model: nn.Module) -> None:
    """Fills convolutions with He's normal filler, and linear heads with small normal weights, in place.

    A network on "meta" is left as it is: there is nothing to fill, and torch takes long over it.
    """
    if next(model.parameters()).is_meta:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init_head(module)
