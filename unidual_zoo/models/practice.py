"""How others fine-tune networks of a kind, where nothing was measured here."""

from __future__ import annotations

from typing import NamedTuple


class Practice(NamedTuple):
    """AdamW's rate for batches of a few files, and its factor from each layer to the one before, for such `networks`.

    `source` says whose practice it is near, in words that go before `networks`.
    """

    networks: str
    lr: float
    layer_decay: float
    source: str


# Authors' own batches are of 512 files and more: docs/finetuning.md has their rates, and what becomes of them at 16.
#   https://github.com/microsoft/unilm/blob/master/beit/get_started_for_image_classification.md
#   https://github.com/facebookresearch/mae/blob/main/FINETUNE.md
#   https://github.com/facebookresearch/ConvNeXt/blob/main/TRAINING.md
TRANSFORMERS = Practice("transformers", lr=5e-5, layer_decay=0.75, source="between the rates of BEiT and MAE for")
CONVNEXTS = Practice("ConvNeXts", lr=5e-5, layer_decay=0.8, source="near the rate of the authors of")
