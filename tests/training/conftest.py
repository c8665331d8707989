"""Media files for the tests of training, and a fresh engine for each."""

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from tiny import write_media


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """The folder of the tiny media files."""
    return write_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def pictures():
    """Ask for it to have pictures drawn, which takes longer than the training of a tiny network."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    if "pictures" not in request.fixturenames:
        for name in ("plot_curves", "plot_confusion", "write_page"):
            monkeypatch.setattr(f"unidual_zoo.training.trainer.{name}", lambda *args, **kwargs: args[-1].touch())
        monkeypatch.setattr("unidual_zoo.training.page.curve_pictures", lambda log: {})
