"""Limits come from the environment, or are the usual ones."""

import pytest

from unidual_zoo.data.limits import limit, seconds_from_environment


def test_a_limit_is_the_variable_or_the_default(monkeypatch):
    assert limit("MAX_X", 7) == 7
    monkeypatch.setenv("UNIDUAL_MAX_X", "900")
    assert limit("MAX_X", 7) == 900
    for wrong in ("0", "-1", "1e9", "many"):
        monkeypatch.setenv("UNIDUAL_MAX_X", wrong)
        with pytest.raises(ValueError, match="UNIDUAL_MAX_X must be a whole number above 0"):
            limit("MAX_X", 7)


def test_seconds(monkeypatch):
    monkeypatch.delenv("UNIDUAL_FILE_SECONDS", raising=False)
    assert seconds_from_environment() == 0
    monkeypatch.setenv("UNIDUAL_FILE_SECONDS", "2.5")
    assert seconds_from_environment() == 2.5
    for wrong in ("-1", "nan", "soon"):
        monkeypatch.setenv("UNIDUAL_FILE_SECONDS", wrong)
        with pytest.raises(ValueError, match="must be a number of seconds"):
            seconds_from_environment()
