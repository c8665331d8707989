"""The run directory: checkpoints that are whole or not there, and logs that go on."""

import errno
import json

import pytest
import torch
from safetensors import SafetensorError

from unidual_zoo.training import rundir
from unidual_zoo.training.rundir import BEST, LAST, RunDirectory, RunError, load_checkpoint, read_log, save_checkpoint

STATE = {
    "model": {"a.weight": torch.arange(6.0).view(2, 3).T, "count": torch.tensor(3)},
    "ema": None,
    "optimizer": {
        "state": {"0": {"momentum": torch.ones(2), "step": 5}},
        "groups": [{"lr": 0.1, "betas": [0.9, 0.99]}],
    },
    "progress": {"step": 7, "best": 12.5, "failed": {"x.png": "broken"}},
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(tmp_path / LAST, STATE)
    assert same(load_checkpoint(tmp_path / LAST), STATE)
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_part_of_a_file_is_no_checkpoint(tmp_path, kept):
    save_checkpoint(tmp_path / LAST, STATE)
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[:kept])
    with pytest.raises(RunError, match=r"last\.safetensors is not a checkpoint"):
        load_checkpoint(tmp_path / LAST)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no checkpoint .*absent"):
        load_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, error):
    def fail(tensors, path, metadata):
        path.write_bytes(b"part of a checkpoint")
        raise error

    save = rundir.save_file
    monkeypatch.setattr(rundir, "save_file", fail)
    with pytest.raises(RunError, match=r"No space left.*there is none from before"):
        save_checkpoint(tmp_path / LAST, STATE)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(rundir, "save_file", save)
    save_checkpoint(tmp_path / LAST, STATE)
    monkeypatch.setattr(rundir, "save_file", fail)
    with pytest.raises(RunError, match=r"cannot write .*last\.safetensors: .*No space left.*before it is kept"):
        save_checkpoint(tmp_path / LAST, {"progress": {"step": 8}})
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] == 7
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


def test_files_are_as_readable_as_any_new_one(tmp_path):
    save_checkpoint(tmp_path / LAST, STATE)
    (tmp_path / "plain").touch()
    assert (tmp_path / LAST).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_best_stays_when_last_goes_on(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin({}, resume=False)
    for step, best in ((1, True), (2, False)):
        run.save({"progress": {"step": step}}, best=best)
    run.close()
    assert load_checkpoint(tmp_path / BEST)["progress"]["step"] == 1
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] == 2


def begun(path, recipe, **kwargs):
    run = RunDirectory(path)
    state = run.begin(recipe, **kwargs)
    return run, state


def test_the_log_of_a_resumed_run_goes_on_from_its_checkpoint(tmp_path):
    run, state = begun(tmp_path, {"rate": 1}, resume=True)
    assert state is None
    for step in range(1, 6):
        run.log("train", step=step, curves={"loss/a": 1.0 / step}, epoch=0.1)
        if step == 3:
            run.save({"progress": {"step": step}}, best=False)
    run.close()
    with (tmp_path / rundir.LOG).open("a") as log:
        log.write('{"event": "train", "st')

    run, state = begun(tmp_path, {"rate": 1}, resume=True)
    assert state == {"progress": {"step": 3}}
    run.log("train", step=4, curves={"loss/a": 0.25}, epoch=0.1)
    run.close()
    assert [line["step"] for line in read_log(tmp_path / rundir.LOG)] == [1, 2, 3, 4]
    assert read_log(tmp_path / rundir.LOG)[3] == {"event": "train", "step": 4, "loss/a": 0.25, "epoch": 0.1}
    assert len(list((tmp_path / rundir.TENSORBOARD).iterdir())) == 2


def test_a_run_is_not_begun_twice(tmp_path):
    begun(tmp_path, {"rate": 1}, resume=False)[0].close()
    with pytest.raises(RunError, match="holds a run already"):
        begun(tmp_path, {"rate": 1}, resume=False)
    with pytest.raises(RunError, match=r"another recipe \(rate was 1 and is 2\)"):
        begun(tmp_path, {"rate": 2}, resume=True)
    begun(tmp_path, {"rate": 1, "workers": 3}, resume=True)[0].close()
    assert json.loads((tmp_path / rundir.RECIPE).read_text()) == {"rate": 1, "workers": 3}


def test_a_run_of_an_older_version_goes_on_if_a_new_field_has_its_default(tmp_path):
    begun(tmp_path, {"rate": 1}, resume=False)[0].close()
    with pytest.raises(RunError, match=r"\(ema was 0 and is 1\)"):
        begun(tmp_path, {"rate": 1, "ema": 1}, resume=True, defaults={"rate": 5, "ema": 0})
    begun(tmp_path, {"rate": 1, "ema": 0}, resume=True, defaults={"rate": 5, "ema": 0})[0].close()


def test_other_processes_write_nothing(tmp_path):
    run = RunDirectory(tmp_path / "run", writes=False)
    assert run.begin({}, resume=False) is None
    run.log("train", step=1)
    run.save(STATE, best=True)
    run.close()
    assert not (tmp_path / "run").exists()
