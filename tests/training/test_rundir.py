"""The run directory: checkpoints that are whole or not there, and logs that go on."""

import contextlib
import errno
import json
import os
import threading

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
OF_A_RUN = {"files": {}, "processes": 1}  # of the recipes of true runs


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def begun(path, recipe, **kwargs):
    run = RunDirectory(path)
    state = run.begin(recipe, **kwargs)
    return run, state


def begun_and_saved(path, recipe):
    run, _ = begun(path, recipe, resume=False)
    run.save({"progress": {"step": 1}}, best=False)
    run.close()


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


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    save_checkpoint(tmp_path / LAST, STATE)
    whole = (tmp_path / LAST).read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        (tmp_path / LAST).write_bytes(damaged)
        with contextlib.suppress(RunError):
            assert same(load_checkpoint(tmp_path / LAST), STATE), position  # as where a space ends the header
    (tmp_path / LAST).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunError, match=r"last\.safetensors is damaged: its contents are not those of the hash"):
        load_checkpoint(tmp_path / LAST)


def test_a_checkpoint_of_an_older_version_has_no_hash(tmp_path, monkeypatch):
    def save_plain(tensors, path, metadata):
        save_file(tensors, path, {"state": metadata["state"]})

    save_file = rundir.save_file
    monkeypatch.setattr(rundir, "save_file", save_plain)
    save_checkpoint(tmp_path / LAST, STATE)
    assert same(load_checkpoint(tmp_path / LAST), STATE)


def test_the_hash_is_of_every_kind_of_tensor(tmp_path):
    kinds = {
        "none": torch.zeros(0, 3), "half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor([True, False]),
        "one": torch.tensor(2.0), "last": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last),
    }  # fmt: skip
    save_checkpoint(tmp_path / LAST, {"model": kinds})
    assert same(load_checkpoint(tmp_path / LAST), {"model": kinds})


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """safetensors opens it twice."""
    open_file, opened = rundir.safe_open, []

    def late(path, **kwargs):
        handle = open_file(path, **kwargs)
        if not opened:
            save_checkpoint(tmp_path / LAST, {"w": torch.full((9,), 2.0)})
        opened.append(path)
        return handle

    save_checkpoint(tmp_path / LAST, {"w": torch.full((9,), 1.0)})
    monkeypatch.setattr(rundir, "safe_open", late)
    assert load_checkpoint(tmp_path / LAST)["w"].tolist() in ([1.0] * 9, [2.0] * 9)

    def always(path, **kwargs):
        save_checkpoint(tmp_path / LAST, {"w": torch.full((9,), float("nan"))})
        return open_file(path, **kwargs)

    monkeypatch.setattr(rundir, "safe_open", always)
    with pytest.raises(RunError, match=r"last\.safetensors cannot be read: it is replaced again and again"):
        load_checkpoint(tmp_path / LAST)


def test_readers_never_see_half_of_a_file_that_several_write(tmp_path):
    """Each writes its own number into every tensor; whoever reads finds one number."""
    done = threading.Event()
    failures = []

    def write(number):
        while not done.is_set():
            try:
                save_checkpoint(tmp_path / LAST, {"w": {str(i): torch.full((100,), number) for i in range(20)}})
            except RunError as error:
                failures.append(error)

    save_checkpoint(tmp_path / LAST, {"w": {"0": torch.zeros(100)}})
    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    seen = {tuple({int(value[0]) for value in load_checkpoint(tmp_path / LAST)["w"].values()}) for _ in range(200)}
    done.set()
    for writer in writers:
        writer.join()
    assert not failures
    assert seen <= {(0,), (1,), (2,)}
    assert [file.name for file in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_numbers_that_are_not_finite_is_refused(tmp_path, value):
    state = {"model": {"a": torch.ones(2), "b": torch.tensor([1.0, value])}, "list": [torch.tensor(value)]}
    assert rundir.not_finite(state) == "model.b"
    assert rundir.not_finite({"list": state["list"]}) == "list.0"
    assert rundir.not_finite(STATE) is None
    save_checkpoint(tmp_path / LAST, state)
    with pytest.raises(RunError, match=r"last\.safetensors cannot be used: model\.b is not finite"):
        load_checkpoint(tmp_path / LAST)


def test_a_checkpoint_is_written_only_of_finite_weights(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin({}, resume=False)
    bad = {"model": {"a": torch.tensor(float("nan"))}, "progress": {"step": 1}}
    with pytest.raises(RunError, match=r"model\.a is not finite after step 1; there is no checkpoint yet"):
        run.save(bad, best=False)
    assert not run.has_checkpoint()
    run.save(STATE, best=False)
    with pytest.raises(RunError, match=r"after step 8; .*last\.safetensors is kept, .* --resume goes on after step 7"):
        run.save({**bad, "progress": {"step": 8}}, best=True)
    run.close()
    assert not (tmp_path / BEST).exists()
    again, state = begun(tmp_path, {}, resume=True)
    again.close()
    assert state is not None
    assert state["progress"]["step"] == again.kept == 7


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


def test_a_file_system_that_refuses_permissions_and_the_sync_of_folders_will_do(tmp_path, monkeypatch):
    """As mounts of S3 and GCS, and CIFS."""

    def refuse(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def sync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "link", refuse)
    run, _ = begun(tmp_path, {}, resume=False)
    run.save(STATE, best=True)
    run.close()
    assert same(load_checkpoint(tmp_path / BEST), {**STATE, "recipe": {}})


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


def test_the_log_of_a_resumed_run_goes_on_from_its_checkpoint(tmp_path):
    run, state = begun(tmp_path, {"lr": 1}, resume=True)
    assert state is None
    for step in range(1, 6):
        run.log("train", step=step, curves={"loss/a": 1.0 / step}, epoch=0.1)
        if step == 3:
            run.save({"progress": {"step": step}}, best=False)
    run.close()
    with (tmp_path / rundir.LOG).open("a") as log:
        log.write('{"event": "train", "st')

    run, state = begun(tmp_path, {"lr": 1}, resume=True)
    assert state == {"progress": {"step": 3}}
    run.log("train", step=4, curves={"loss/a": 0.25}, epoch=0.1)
    run.close()
    assert [line["step"] for line in read_log(tmp_path / rundir.LOG)] == [1, 2, 3, 4]
    assert read_log(tmp_path / rundir.LOG)[3] == {"event": "train", "step": 4, "loss/a": 0.25, "epoch": 0.1}
    assert len(list((tmp_path / rundir.TENSORBOARD).iterdir())) == 2


def test_a_file_is_no_directory_for_a_run(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(RunError, match="mine is a file: choose another name"):
        rundir.check_unused(tmp_path / "mine")


def test_a_run_is_not_begun_twice(tmp_path):
    begun_and_saved(tmp_path, {"lr": 1})
    with pytest.raises(RunError, match="holds a run already"):
        begun(tmp_path, {"lr": 1}, resume=False)
    with pytest.raises(RunError, match=r"another recipe \(lr was 1 and is 2\)"):
        begun(tmp_path, {"lr": 2}, resume=True)
    begun(tmp_path, {"lr": 1, "workers": 3}, resume=True)[0].close()
    assert json.loads((tmp_path / rundir.RECIPE).read_text()) == {"lr": 1, "workers": 3}


@pytest.mark.parametrize("resume", [False, True])
def test_where_no_checkpoint_was_written_another_run_may_begin(tmp_path, resume):
    run, _ = begun(tmp_path, {**OF_A_RUN, "lr": 1}, resume=False)
    run.log("heads", step=0)
    run.close()
    (tmp_path / ".last.safetensors.0123.partial").touch()
    rundir.check_unused(tmp_path)
    run, state = begun(tmp_path, {**OF_A_RUN, "lr": 2}, resume=resume)
    run.log("begin", step=0)
    run.close()
    assert state is None
    assert json.loads((tmp_path / rundir.RECIPE).read_text()) == {**OF_A_RUN, "lr": 2}
    assert [line["event"] for line in read_log(tmp_path / rundir.LOG)] == ["begin"]


def test_features_are_kept_for_their_recipe_and_others_files_beside_them_always(tmp_path):
    begun(tmp_path, {**OF_A_RUN, "lr": 1}, resume=False)[0].close()
    folder = tmp_path / rundir.FEATURES
    folder.mkdir()
    logs, mine = [folder / f"{name}{rundir.ROWS}" for name in ("0", "tests-0")], folder / f".mine.npz{rundir.ROWS}"
    for file in (*logs, mine):
        file.write_text("rows")
    for resume in (False, True):  # the same run computes none twice
        begun(tmp_path, {**OF_A_RUN, "lr": 1, "workers": 3}, resume=resume)[0].close()
    with pytest.raises(RunError, match=r"\(lr was 1 and is 2\); resume it with the same one, or begin anew without"):
        begun(tmp_path, {**OF_A_RUN, "lr": 2}, resume=True)
    assert set(folder.iterdir()) == {*logs, mine}
    begun(tmp_path, {**OF_A_RUN, "lr": 2}, resume=False)[0].close()
    assert list(folder.iterdir()) == [mine]
    mine.unlink()
    begun(tmp_path, {**OF_A_RUN, "lr": 3}, resume=False)[0].close()
    assert not folder.exists()


@pytest.mark.parametrize("name", [LAST, BEST, "export", "notes.txt"])
def test_where_something_would_be_lost_none_begins(tmp_path, name):
    begun(tmp_path, {**OF_A_RUN, "lr": 1}, resume=False)[0].close()
    (tmp_path / name).touch()
    with pytest.raises(RunError, match="holds a run already"):
        rundir.check_unused(tmp_path)
    if name != LAST:
        with pytest.raises(RunError, match=r"another recipe .*with the same one$"):
            begun(tmp_path, {**OF_A_RUN, "lr": 2}, resume=True)
    if name in (BEST, "export"):
        with pytest.raises(RunError, match=f"holds {name}, but no last.safetensors to go on from"):
            begun(tmp_path, {**OF_A_RUN, "lr": 1}, resume=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [(rundir.RECIPE, '{"flour": 500}'), (rundir.RECIPE, "[]"), (rundir.RECIPE, ""), (rundir.LOG, '{"loss": 1}\n')],
)
def test_somebody_elses_file_of_the_same_name_is_not_written_over(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match="holds a run already"):
        begun(tmp_path, OF_A_RUN, resume=False)
    assert (tmp_path / name).read_text() == text


def test_a_run_that_has_just_begun_is_left_alone_where_nothing_can_be_locked(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("unidual_zoo.lock._lock", refuse)
    with pytest.warns(UserWarning, match="without locks"):
        run, _ = begun(tmp_path, {**OF_A_RUN, "lr": 1}, resume=False)
    run.log("begin", step=0)
    for resume, told in ((False, "holds a run already"), (True, "another recipe")):
        with pytest.warns(UserWarning, match="without locks"), pytest.raises(RunError, match=told):
            begun(tmp_path, {**OF_A_RUN, "lr": 2}, resume=resume)
    run.close()
    assert [line["event"] for line in read_log(tmp_path / rundir.LOG)] == ["begin"]


def test_a_run_of_an_older_version_goes_on_if_a_new_field_has_its_default(tmp_path):
    begun_and_saved(tmp_path, {"lr": 1})
    with pytest.raises(RunError, match=r"\(ema was 0 and is 1\)"):
        begun(tmp_path, {"lr": 1, "ema": 1}, resume=True, update=lambda saved: {"lr": 5, "ema": 0, **saved})
    begun(tmp_path, {"lr": 1, "ema": 0}, resume=True, update=lambda saved: {"lr": 5, "ema": 0, **saved})[0].close()


def test_a_run_at_work_keeps_others_out(tmp_path):
    run, _ = begun(tmp_path, {}, resume=False)
    for resume in (False, True):
        with pytest.raises(RunError, match=rf"{tmp_path} is in use by process {os.getpid()} on .* since"):
            begun(tmp_path, {}, resume=resume)
    run.log("train", step=1)
    run.close()
    assert [line["step"] for line in read_log(tmp_path / rundir.LOG)] == [1]
    assert not (tmp_path / rundir.LOCK).exists()
    begun(tmp_path, {}, resume=True)[0].close()


def test_a_run_that_is_refused_keeps_no_one_out(tmp_path):
    begun_and_saved(tmp_path, {"lr": 1})
    for _ in range(2):
        with pytest.raises(RunError, match="another recipe"):
            begun(tmp_path, {"lr": 2}, resume=True)


def test_what_killed_runs_left_half_written_is_removed(tmp_path):
    begun(tmp_path, {}, resume=False)[0].close()
    (tmp_path / ".last.safetensors.0123.partial").touch()
    (tmp_path / ".last.safetensors.partial").touch()
    (tmp_path / "export" / ".saving-x.partial").mkdir(parents=True)
    begun(tmp_path, {}, resume=True)[0].close()
    assert not list(tmp_path.rglob(".*"))


def test_a_checkpoint_without_its_recipe_is_not_overwritten(tmp_path):
    save_checkpoint(tmp_path / LAST, STATE)
    with pytest.raises(RunError, match="holds a run already"):
        begun(tmp_path, {}, resume=False)


@pytest.mark.parametrize("damage", [b"", b"\0" * 20, b'{"lr": ', b"[]", b"\xff\xfe", None])
def test_a_damaged_recipe_does_not_block_a_checkpoint(tmp_path, damage):
    run, _ = begun(tmp_path, {"lr": 1}, resume=False)
    run.save(STATE, best=False)
    run.close()
    file = tmp_path / rundir.RECIPE
    file.unlink() if damage is None else file.write_bytes(damage)
    told = r"recipe\.json cannot be read \(.+\): that of the checkpoint is compared"
    with pytest.warns(UserWarning, match=told), pytest.raises(RunError, match=r"\(lr was 1 and is 2\)"):
        begun(tmp_path, {"lr": 2}, resume=True)
    with pytest.warns(UserWarning, match=told):
        run, state = begun(tmp_path, {"lr": 1}, resume=True)
    run.close()
    assert same(state, STATE)
    assert json.loads(file.read_text()) == {"lr": 1}


def test_a_damaged_recipe_of_an_older_run(tmp_path):
    save_checkpoint(tmp_path / LAST, STATE)
    (tmp_path / rundir.RECIPE).write_text("{")
    with pytest.warns(UserWarning, match=r"recipe\.json .*it is not known whether the run had this one"):
        run, state = begun(tmp_path, {"lr": 1}, resume=True)
    run.close()
    assert same(state, STATE)
    (tmp_path / LAST).unlink()
    (tmp_path / rundir.RECIPE).write_text("{")
    with pytest.warns(UserWarning, match=r"recipe\.json cannot be read .*: the run starts from scratch"):
        run, state = begun(tmp_path, {"lr": 1}, resume=True)
    run.close()
    assert state is None


@pytest.mark.parametrize(
    "damage", [b"\0" * 50, b'{"event": "tr', b"null", b'{"step": 2}', b'{"event": "train"}', b"\xff", b"[" * 100_000]
)
def test_a_damaged_log_does_not_block_a_checkpoint(tmp_path, damage):
    run, _ = begun(tmp_path, {}, resume=False)
    for step in (1, 2, 3):
        run.log("train", step=step)
    run.save({"progress": {"step": 3}}, best=False)
    run.close()
    log = tmp_path / rundir.LOG
    lines = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    with pytest.warns(UserWarning, match=r"log\.jsonl is damaged: 1 of 3 lines are left out, the first is line 2"):
        run, state = begun(tmp_path, {}, resume=True)
    run.close()
    assert state == {"progress": {"step": 3}}
    assert [line["step"] for line in read_log(log)] == [1, 3]


def test_other_processes_write_nothing(tmp_path):
    run = RunDirectory(tmp_path / "run", writes=False)
    assert run.begin({}, resume=False) is None
    run.log("train", step=1)
    run.save(STATE, best=True)
    run.close()
    assert not (tmp_path / "run").exists()
