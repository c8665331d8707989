"""Two processes on the loopback against one that sees their examples together."""

import subprocess
import sys

import pytest
import torch
import two_processes
from tiny import tiny_recipe
from two_processes import SYSTEMS, first_frame, train_steps

from unidual_zoo.training import objective
from unidual_zoo.training.rundir import LAST, LOG, load_checkpoint, read_log
from unidual_zoo.training.trainer import Trainer, train


@pytest.fixture(scope="module")
def out(media, tmp_path_factory):
    """What `two_processes.py` left."""
    folder = tmp_path_factory.mktemp("two")
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]  # it forks on purpose
    command = [sys.executable, *strict, two_processes.__file__, str(media), str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("number", range(len(SYSTEMS)), ids=[f"{name}-{len(tasks)}" for name, tasks in SYSTEMS])
def test_two_processes_with_n_examples_equal_one_with_2n(out, number, monkeypatch):
    monkeypatch.setitem(objective.FRAMES, "one", first_frame)
    losses, weights = train_steps(*SYSTEMS[number], ranks=range(2), world=2, wrap=lambda module: module)
    ranks = [torch.load(out / f"steps-{rank}.pt")[number] for rank in range(2)]
    assert losses == pytest.approx([(a + b) / 2 for a, b in zip(ranks[0][0], ranks[1][0], strict=True)], rel=1e-5)
    for key, value in weights.items():
        torch.testing.assert_close(
            ranks[0][1][key], value, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )
        assert torch.equal(ranks[0][1][key], ranks[1][1][key])


def test_each_process_keeps_its_statistics_between_checkpoints(out):
    """Where DistributedDataParallel broadcasts them, those of the other processes are lost in every step."""
    assert [torch.load(out / f"broadcast-{rank}.pt") for rank in range(2)] == [[False], [False]]


def test_heads_are_fitted_to_what_both_processes_saw(media, out, tmp_path):
    trainer = Trainer(tiny_recipe(media, "fit_heads=true"), out=tmp_path)
    trainer.fit_heads()
    trainer.close()
    first, second = (torch.load(out / f"heads-{rank}.pt") for rank in range(2))
    for key, weight in trainer.model.heads.state_dict().items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], weight, rtol=1e-3, atol=1e-4)


def test_processes_must_share_the_run_directory(out):
    for rank in range(2):
        message = (out / f"refused-{rank}.txt").read_text()
        assert message.startswith("the processes see different runs, at steps 0, 0: ")
        assert message.endswith("must be one directory that all machines share")


def test_a_run_of_two_processes(media, out, tmp_path, monkeypatch):
    """The same files, shares and rates as one process with twice the batch and rate; every test file counted once."""
    steps = [line for line in read_log(out / "run" / LOG) if line["event"] == "train"]
    end = read_log(out / "run" / LOG)[-1]
    assert len(steps) == 4
    assert {task: report["listed"] for task, report in end["reports"].items()} == {"pictures": 4, "films": 4}
    assert load_checkpoint(out / "run" / LAST)["progress"]["step"] == 4

    train(tiny_recipe(media, "freeze_norms=true", "ema=0.5", "batch_size=8", "lr=0.04"), out=tmp_path)
    alone = [line for line in read_log(tmp_path / LOG) if line["event"] == "train"]
    assert [line["lr"] for line in steps] == [line["lr"] for line in alone]
    names = ("loss/pictures.image", "loss/films.video", "loss/pictures.video")  # films.image is of random frames
    assert [steps[0][name] for name in names] == pytest.approx([alone[0][name] for name in names], rel=1e-5)
