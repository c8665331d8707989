"""How the death of a loader process shows, and what does not show one."""

import os
import time

import pytest

from unidual_zoo.data import loaders
from unidual_zoo.data.loaders import LoaderError, Reading

REPORT = f"DataLoader worker (pid {os.getpid()}) is killed by signal: Killed. "
NAMED = rf"^a data loader process died \(DataLoader worker \(pid {os.getpid()}\) .*\); it was reading b\.png$"


@pytest.fixture
def reading():
    reading = Reading(["a.png", "b.png"], 0)
    with reading.of(1):
        pass
    return reading


def test_where_a_process_is(reading):
    assert reading.by_process() == {os.getpid(): "b.png"}


def test_a_report_gets_the_file(reading):
    with pytest.raises(LoaderError, match=NAMED), reading.deaths_explained(), reading.deaths_explained():
        raise RuntimeError(REPORT)
    other = REPORT.replace(str(os.getpid()), "1")
    with (
        pytest.raises(LoaderError, match=r"died \(DataLoader worker \(pid 1\) .* Killed\)$"),
        reading.deaths_explained(),
    ):
        raise RuntimeError(other)


@pytest.mark.parametrize("error", loaders.BROKEN_PIPES)
def test_a_pipe_may_break_before_the_report_comes(reading, error, monkeypatch):
    def signalled(seconds):
        raise RuntimeError(REPORT)

    monkeypatch.setattr(time, "sleep", signalled)
    with pytest.raises(LoaderError, match=NAMED), reading.deaths_explained():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("else"), EOFError("else"), BrokenPipeError("else"), OSError("else")])
def test_other_errors_pass(reading, error, monkeypatch):
    monkeypatch.setattr(loaders, "REPORT_SECONDS", 0)
    with pytest.raises(type(error), match=r"^else$") as caught, reading.deaths_explained():
        raise error
    assert caught.value is error
    assert error.__cause__ is None
