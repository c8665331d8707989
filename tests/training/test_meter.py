"""What a run tells of its own speed."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from unidual_zoo.training import meter
from unidual_zoo.training.meter import Meter


@pytest.mark.parametrize(
    ("first", "total", "told"),
    [(0, 60, {6: "60 steps, 60 in an epoch, at 2 s each: about 2 min to go"}), (0, 6, {2: "about 8 s to go"}),
     (0, 3, {2: "about 2 s to go"}), (0, 2, {}),
     (50, 60, {53: "60 steps, 50 of them done before, 60 in an epoch, at 2 s each: about 14 s"})],
)  # fmt: skip
def test_the_time_to_go_is_told_while_there_is_some(first, total, told, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    accelerator = cast("Any", SimpleNamespace(is_main_process=True))
    running = Meter(
        accelerator, cast("Any", None), step=first, total=total, per_epoch=total, examples=1, every=1_000
    )  # fmt: skip
    found = {}
    for step in range(first + 1, total + 1):
        now[0] += 2
        running.add({}, lr=0.1)
        if line := capsys.readouterr().err.strip():
            found[step] = line
    assert found.keys() == told.keys()
    assert all(said in found[step] for step, said in told.items())
