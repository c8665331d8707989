"""The rates of networks that do not learn well by those of the recipe `finetune`, measured or as others have them."""

from __future__ import annotations

from typing import NamedTuple


class Practice(NamedTuple):
    """AdamW's rate for batches of a few files, its factor from each layer to the one before, whose or why, in words."""

    lr: float
    layer_decay: float
    why: str


# Authors' own batches are of 512 files and more: docs/finetuning.md has their rates, and what becomes of them at 16.
#   https://github.com/microsoft/unilm/blob/master/beit/get_started_for_image_classification.md
#   https://github.com/facebookresearch/mae/blob/main/FINETUNE.md
#   https://github.com/facebookresearch/ConvNeXt/blob/main/TRAINING.md
TRANSFORMERS = Practice(5e-5, 0.75, "between the rates of BEiT and MAE for transformers, not measured here")
CONVNEXTS = Practice(5e-5, 0.8, "near the rate of the authors of ConvNeXts, not measured here")
# docs/results/transfer.md, "Point-wise units"
POINTWISE_UNITS = Practice(1e-4, 0.8, "at 0.001 point-wise units lose what they start with")
