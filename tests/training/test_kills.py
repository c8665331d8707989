"""A run that is killed at random moments and resumed has the losses of one that never was.

The killed one reads shards, the other the files that were packed: that makes no difference, either. Twice by default;
UNIDUAL_KILLS=10 does it ten times.
"""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import tiny

from unidual_zoo.data.datasets import read_splits
from unidual_zoo.data.packing import Packing, pack
from unidual_zoo.training.rundir import LAST, LOG, load_checkpoint, read_log
from unidual_zoo.training.trainer import train

KILLS = int(os.environ.get("UNIDUAL_KILLS", "2"))
SETTINGS = [f"epochs={2 + KILLS // 2}", "epoch_size=12", "save_every=2", "ema=0.9", "mixup=0.2"]  # 6 steps an epoch


@pytest.fixture
def trained_and_killed(media):
    """A function that trains in a process of its own, killed on the way if asked."""
    script = [sys.executable, tiny.__file__, str(media)]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def ask(**request):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def steps(out):
    lines = [line for line in read_log(out / LOG) if line["event"] in ("train", "evaluate")]
    measured = ("examples/s", "waiting for data")
    return [{name: value for name, value in line.items() if name not in measured} for line in lines]


def test_kill_and_resume(media, tmp_path, trained_and_killed):
    train(tiny.tiny_recipe(media, *SETTINGS), out=tmp_path / "whole")
    whole = steps(tmp_path / "whole")
    out = tmp_path / "killed"
    shards = {name: tmp_path / name for name in ("pictures", "films")}
    for name, folder in shards.items():
        list(pack(read_splits(media / name), folder, Packing(per_shard=3)))
    settings = [*SETTINGS, "data=" + ",".join(f"{name}:{folder}" for name, folder in shards.items())]
    moments = random.Random(0)
    reached = 0
    for _ in range(KILLS):
        kill = [moments.randint(1, 5), moments.uniform(0, 0.3)]
        assert trained_and_killed(out=str(out), settings=settings, kill=kill) == signal.SIGKILL
        if (out / LAST).exists():
            step = load_checkpoint(out / LAST)["progress"]["step"]
            assert step >= reached
            reached = step
    assert reached > 0
    assert trained_and_killed(out=str(out), settings=settings, kill=None) == 0
    assert steps(out) == whole
