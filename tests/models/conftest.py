"""Small models and inputs for the model tests."""

import pytest
import torch

pytest.register_assert_rewrite("models.base")  # what a family must pass shows its values, too


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
