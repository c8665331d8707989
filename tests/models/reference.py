"""Networks of other code bases with weights that any implementation can be given: ig65m-pytorch's (34) and VMZ's (152).

`fill` makes the weights, which depend on names and shapes alone; upstream's own code was given the same.
"""

from collections.abc import Mapping

import numpy as np
import torch
from conv3d import Conv3dNet
from torch import Tensor

SIZES = {
    "34": dict(block="basic", depths=(3, 4, 6, 3)),
    "152": dict(block="bottleneck", depths=(3, 8, 36, 3)),
}


def fill(shapes: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights and running statistics for a state dict's names and shapes; the same wherever names and shapes are."""
    rng, state = np.random.default_rng(seed), {}
    for key in sorted(shapes):
        shape = tuple(shapes[key].shape)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1)
            continue
        x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        if key.endswith("running_var"):
            x = 0.5 + x.abs()
        elif len(shape) == 1:
            x = 1 + 0.2 * x if key.endswith("weight") else 0.1 * x
        else:
            x *= (2 / np.prod(shape[1:])) ** 0.5
        state[key] = x
    return state


def filled(size: str, **kwargs) -> Conv3dNet:
    """The network of that size with those weights, in evaluation mode."""
    with torch.device("meta"):
        model = Conv3dNet(**{**SIZES[size], **kwargs})
    model.load_state_dict(fill(model.state_dict()), assign=True)
    return model.eval()


def seeded_clip(*shape: int) -> Tensor:
    """The clip that the golden logits were made of."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
