"""What several tests of data begin with."""

import pytest
from grey_source import write_source

from unidual_zoo.data import Video


@pytest.fixture
def source(tmp_path):
    """Seven training images of three greys, and a test image."""
    return write_source(tmp_path / "source")


@pytest.fixture
def from_start(monkeypatch):
    """Counts the reads that decoded from the first packet."""
    calls = []
    plain = Video._read_from_start
    monkeypatch.setattr(Video, "_read_from_start", lambda self, *args: calls.append(1) or plain(self, *args))
    return calls
