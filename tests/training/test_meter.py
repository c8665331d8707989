"""What a run tells of its own speed."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from unidual_zoo import progress
from unidual_zoo.training import meter
from unidual_zoo.training.meter import Meter

LOSSES = {"a": torch.tensor(1.0)}
ALONE = cast("Any", SimpleNamespace(is_main_process=True, reduce=lambda values, reduction: values))
UNLOGGED = cast("Any", SimpleNamespace(log=lambda *_, **__: None))


@pytest.mark.parametrize(
    ("first", "total", "told"),
    [(0, 60, {6: "60 steps, 60 in an epoch, at 2 s each: about 2 min to go"}), (0, 6, {2: "about 8 s to go"}),
     (0, 3, {2: "about 2 s to go"}), (0, 2, {}),
     (50, 60, {53: "60 steps, 50 of them done before, 60 in an epoch, at 2 s each: about 14 s"})],
)  # fmt: skip
def test_the_time_to_go_is_told_while_there_is_some(first, total, told, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    running = Meter(ALONE, UNLOGGED, step=first, total=total, per_epoch=total, examples=1, every=1_000)
    found = {}
    for step in range(first + 1, total + 1):
        now[0] += 2
        running.add(LOSSES, lr=0.1)
        if line := capsys.readouterr().err.strip():
            found[step] = line
    assert found.keys() == told.keys()
    assert all(said in found[step] for step, said in told.items())


def test_a_line_names_the_epoch_and_the_losses_of_its_own_step(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    running = Meter(ALONE, UNLOGGED, step=0, total=4, per_epoch=2, examples=1, every=1_000)
    for step in range(1, 5):
        now[0] += 31
        running.add({"a": torch.tensor(float(step))}, lr=0.1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "%" in line]
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 1", "epoch 2", "epoch 2"]
    assert "a=" not in lines[0]  # nothing is averaged yet
    assert "a=1.500" in lines[1]
    assert "a=3.500" in lines[3]
