"""Progress where nobody sees a bar: plain lines, as often as somebody may read them."""

import io
import os
import sys
import time

import pytest

from unidual_zoo import progress
from unidual_zoo.engines.quantizing import _Samples
from unidual_zoo.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    bar = Progress(total=8, initial=2, unit="step", desc="training")
    for _ in range(4):
        clock[0] += 20
        bar.set_description("epoch 2", refresh=False)
        bar.set_postfix({"loss": "0.5"})
        bar.update()
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "epoch 2:  50% 4/8 [00:40<01:20, 20.00s/step, loss=0.5]",
        "epoch 2:  75% 6/8 [01:20<00:40, 20.00s/step, loss=0.5]",
    ]


def test_a_log_that_has_lines_has_one_of_the_end(clock, capsys):
    for seconds in (20, 4):  # the second work is too short for any
        for _ in Progress(range(4), unit="file"):
            clock[0] += seconds
    assert capsys.readouterr().err.splitlines() == [
        "50% 2/4 [00:40<00:40, 20.00s/file]", "100% 4/4 [01:20<00:00, 20.00s/file]",
    ]  # fmt: skip
    for number in Progress(range(3), unit="file"):
        clock[0] += 50
        if number == 1:
            break
    assert capsys.readouterr().err == "33% 1/3 [00:50<01:40, 50.00s/file]\n"  # what did not come to its end


def test_what_is_not_counted_to_an_end_and_what_is_not_shown(clock, capsys):
    for shown in (True, False):
        for _ in Progress(iter(range(3)), unit="B", unit_scale=True, shown=shown):
            clock[0] += 31
    assert capsys.readouterr().err.splitlines() == [
        "1.00B [00:31, 31.0s/B]", "2.00B [01:02, 31.0s/B]", "3.00B [01:33, 31.0s/B]",
    ]  # fmt: skip


def test_work_in_several_passes_is_told_of_by_one_clock(clock, capsys):
    samples = _Samples(range(2))
    with samples.progress:
        for _ in range(3):
            for _ in samples:
                clock[0] += 11
    assert capsys.readouterr().err.splitlines() == [
        "calibrating int8, pass 2:  50% 1/2 [00:11<00:11, 11.00s/view]",
        "calibrating int8, pass 3: 100% 2/2 [00:22<00:00, 11.00s/view]",
    ]


def test_time_that_was_not_the_works_slows_no_step(clock, capsys):
    bar = Progress(total=4, unit="step")
    clock[0] += 600
    bar.leave_out(600)
    clock[0] += 40
    bar.update()
    bar.close()
    assert capsys.readouterr().err == "25% 1/4 [00:40<02:00, 40.00s/step]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_a_terminal_that_does_not_know_its_size_has_a_bar(monkeypatch):
    outer, inner = os.openpty()  # of 0 columns
    with os.fdopen(inner, "w") as stderr, os.fdopen(outer, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", stderr)
        for _ in Progress(range(3), unit="file"):
            pass
        stderr.flush()
        assert b"3/3" in screen.read(4096)


def test_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in Progress(range(3), unit="file"):
        pass
    assert "\r" in sys.stderr.getvalue()
    assert "3/3" in sys.stderr.getvalue()
    with Progress(total=30, mininterval=0) as bar:
        for _ in range(5):
            time.sleep(0.01)
            bar.update()
        time.sleep(0.5)
        bar.leave_out(0.5)
        time.sleep(0.01)
        bar.update()
        assert bar.format_dict["rate"] > 20  # in the half second nothing was to be done
