"""timm's RandAugment for images and clips."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image
from timm.data import rand_augment_transform
from torch import Tensor


class RandAugment:
    """Images (3, H, W) or clips (3, T, H, W), uint8: the same operations, equally strong, on all frames of a clip.

    `config` is timm's, such as "rand-m9-mstd0.5". All random numbers follow from one of torch's.
    """

    def __init__(self, config: str) -> None:
        self.config = config
        try:
            self._augment = rand_augment_transform(config, {})
        except (AssertionError, ValueError, KeyError) as error:
            raise ValueError(f"RandAugment needs a text such as 'rand-m9-mstd0.5', got {config!r}") from error

    def __call__(self, x: Tensor) -> Tensor:
        frames = x[None] if x.ndim == 3 else x.transpose(0, 1)  # (T, 3, H, W)
        seed = int(torch.randint(2**32, ()))
        states = random.getstate(), np.random.get_state()  # noqa: NPY002  (timm draws from the global generators)
        try:
            changed = torch.stack([self._frame(frame, seed) for frame in frames])
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
        return changed[0] if x.ndim == 3 else changed.transpose(0, 1)

    def _frame(self, frame: Tensor, seed: int) -> Tensor:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        picture = self._augment(Image.fromarray(frame.permute(1, 2, 0).numpy()))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
