"""Whole training runs of a few steps, each with an option or a mishap."""

import json
import os
import shutil

import pytest
import timm
import torch
from tiny import tiny_recipe

from unidual_zoo.training import trainer as trainer_module
from unidual_zoo.training.recipes import find_recipe
from unidual_zoo.training.rundir import LAST, LOG, RunError, load_checkpoint, read_log
from unidual_zoo.training.trainer import Trainer, train

FROZEN = ("freeze_norms=true", "flip=false")  # steps that do not depend on who else is in the batch


def losses(out):
    return [
        {name: value for name, value in line.items() if name.startswith("loss/")}
        for line in read_log(out / LOG)
        if line["event"] == "train"
    ]


def run(media, out, *settings, **kwargs):
    train(tiny_recipe(media, *settings), out=out, **kwargs)
    return losses(out)


def first_losses(media, out, *settings):
    """The losses of the first step alone."""
    trainer = Trainer(tiny_recipe(media, *settings), out=out)
    trainer.objective.train()
    step = trainer.training_step(next(iter(trainer.loader.batches(0, 1))))
    trainer.close()
    return {name: loss.item() for name, loss in step.items()}


def close(a, b, tolerance=1e-5):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one == pytest.approx(other, rel=tolerance)


def test_a_run_leaves_everything_in_its_directory(media, tmp_path, pictures):
    out = tmp_path / "run"
    reports = train(tiny_recipe(media), out=out)
    assert {file.name for file in out.iterdir()} == {
        "recipe.json", "log.jsonl", "curves.png", "tensorboard", "last.safetensors", "best.safetensors", "export",
        "confusion-pictures.png", "confusion-films.png", "predictions-pictures.csv", "predictions-films.csv",
        "report.html",
    }  # fmt: skip
    written = json.loads((out / "recipe.json").read_text())
    assert written.pop("files").keys() == {"pictures", "films"}
    assert written == {**tiny_recipe(media).to_dict(), "processes": 1}
    assert {task: (report.modality, len(report.results)) for task, report in reports.items()} == {
        "pictures": ("image", 4),
        "films": ("video", 4),
    }
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")

    log = read_log(out / LOG)
    assert [line["step"] for line in log if line["event"] == "train"] == list(range(1, 9))
    assert [(line["step"], line["epoch"]) for line in log if line["event"] == "evaluate"] == [(4, 1), (8, 2)]
    assert log[0].items() >= {"event": "begin", "step": 0, "processes": 1, "precision": "no", "accumulate": 1}.items()
    first = log[1]
    names = ("pictures.image", "films.video", "pictures.video", "films.image", "total")
    assert set(first) >= {*(f"loss/{name}" for name in names), "lr", "examples/s", "waiting for data"}
    assert 0 <= first["waiting for data"] <= 1
    assert log[-1]["event"] == "end"
    assert log[-1]["reports"]["films"]["video@1"] == reports["films"].metrics()["video@1"]
    assert log[-1]["reports"]["films"]["clips"] == 10  # the protocol's, for the final figure
    model = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True)
    assert model.pathway_tasks("video") == ("films",)


def test_it_learns(media, tmp_path):
    reports = train(
        tiny_recipe(media, "tasks=pictures:image", "model=r2d10", "epochs=8", "lr=0.1", "log_every=20"), out=tmp_path
    )
    assert reports["pictures"].metrics()["top-1"] == 100


def test_a_resumed_run_has_the_same_losses(media, tmp_path, monkeypatch, capsys):
    options = ("ema=0.5", "accumulate=2", "save_every=2", "mixup=0.2", 'model_args={"width":0.0625,"drop_rate":0.5}')
    whole = run(media, tmp_path / "whole", *options)
    step = Trainer.training_step

    def stop_at_seven(self, batch):
        if self.done == 7:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "training_step", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run(media, tmp_path / "part", *options)
    monkeypatch.setattr(Trainer, "training_step", step)
    assert load_checkpoint(tmp_path / "part" / LAST)["progress"]["step"] == 6
    assert "goes on" not in capsys.readouterr().err
    assert run(media, tmp_path / "part", *options, resume=True) == whole
    told = f"{tmp_path / 'part'} goes on after step 6 of 8, in epoch 2 of 2, with the files and settings"
    assert capsys.readouterr().err.startswith(told)
    a, b = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "part"))
    assert a["progress"] == b["progress"]
    for kind in ("model", "ema"):
        assert all(torch.equal(value, b[kind][key]) for key, value in a[kind].items())


def test_a_finished_run_can_be_resumed_and_another_recipe_cannot(media, tmp_path, capsys):
    whole = run(media, tmp_path, "epochs=1")
    assert run(media, tmp_path, "epochs=1", resume=True) == whole
    assert f"{tmp_path} has no steps left to make: what it learnt is" in capsys.readouterr().err
    with pytest.raises(RunError, match="another recipe"):
        run(media, tmp_path, "epochs=2", resume=True)
    with pytest.raises(RunError, match="--resume"):
        run(media, tmp_path, "epochs=1")


def test_a_run_that_an_older_version_began_goes_on(media, tmp_path):
    """Its recipe.json has other names and lacks some, its checkpoint has no recipe and its log another name."""
    settings = ("tasks=pictures:image", "model=r2d10")
    whole = run(media, tmp_path / "whole", *settings)
    out = tmp_path / "run"
    trainer = Trainer(tiny_recipe(media, *settings), out=out)
    trainer.fit()
    trainer.close()
    recipe = json.loads((out / "recipe.json").read_text())
    older = {"rate": recipe.pop("lr"), "warmup_rate": 0, **recipe}
    for name in ("warmup_lr", "auxiliary_frames", "eval_every"):
        del older[name]
    (out / "recipe.json").write_text(json.dumps(older))
    with pytest.raises(RunError, match=r"another recipe \(lr was 0\.02 and is 0\.03\)"):
        run(media, out, *settings, "lr=0.03", resume=True)
    assert run(media, out, *settings, resume=True) == whole
    assert json.loads((out / "recipe.json").read_text())["lr"] == 0.02


def test_a_run_is_not_resumed_with_other_files(media, tmp_path):
    copy = tmp_path / "media"
    shutil.copytree(media, copy)
    settings = ("epochs=1", "tasks=pictures:image")
    run(copy, tmp_path / "run", *settings)
    copy.rename(tmp_path / "moved")
    train(tiny_recipe(tmp_path / "moved", *settings), out=tmp_path / "run", resume=True)
    for split in ("train", "val"):
        folder = tmp_path / "moved/pictures" / split
        (folder / "circle").rename(folder / "triangle")
    with pytest.raises(
        RunError,
        match=r"another recipe \(files\[pictures\] are 10 files of 2 classes and 4 files of 2 classes, but others\);",
    ):
        train(tiny_recipe(tmp_path / "moved", *settings), out=tmp_path / "run", resume=True)


def test_two_stages(media, tmp_path):
    """The paper's fine-tuned systems: an R2D trained on images, inflated, trained on videos; and the way back."""
    run(media, tmp_path / "a", "epochs=1", "model=r2d10", "tasks=pictures:image")
    second = ("epochs=1", "model=r2plus1d10", "tasks=films:video", f"init={tmp_path / 'a'}")
    run(media, tmp_path / "b", *second)
    third = ("epochs=1", "model=r2d10", "tasks=pictures:image", f"init={tmp_path / 'b'}", "lr=0", "freeze_norms=true")
    run(media, tmp_path / "c", *third)
    video, deflated = (load_checkpoint(tmp_path / name / LAST)["model"] for name in ("b", "c"))
    temporal = video["stem.pointwise.video.weight"]
    torch.testing.assert_close(deflated["stem.pointwise.image.weight"], temporal.sum(2, keepdim=True))


def test_nothing_is_evaluated_twice(media, tmp_path, monkeypatch):
    seen = []
    measure = trainer_module.evaluate

    def note(model, files, **options):
        seen.append((len(files), options["protocol"].clips, options["protocol"].still, options["pathway"]))
        return measure(model, files, **options)

    monkeypatch.setattr(trainer_module, "evaluate", note)
    settings = ("tasks=films:video", "model=r2plus1d10", "epochs=2", "baselines=true")
    train(tiny_recipe(media, *settings), out=tmp_path / "a")
    # After the first epoch as `eval_clips` says, after the last as the protocol says; then frames alone.
    assert seen == [(4, 1, False, None), (4, 10, False, None), (4, 1, True, None)]
    seen.clear()
    reports = train(tiny_recipe(media, "tasks=films:video", "epochs=1", "baselines=true"), out=tmp_path / "b")
    assert seen == [(4, 10, False, None), (4, 1, False, "image")]  # which has learnt the films, too
    names = set(reports["films"].facts["baselines"])
    assert names == {"always 'circle'", "frames alone, by the image pathway"}
    seen.clear()
    train(tiny_recipe(media, *settings, "validation=0.25", "publish=best", "baselines=false"), out=tmp_path / "c")
    assert [count for count, *_ in seen] == [2, 2, 4]  # a part of the training files twice, the test files once


def test_training_ends_when_the_score_does_not_become_better(media, tmp_path, monkeypatch):
    scores = iter([50, 70, 60, 70, 100, 100])
    monkeypatch.setattr(trainer_module, "main_score", lambda report: next(scores))
    settings = ("tasks=pictures:image", "model=r2d10", "epochs=6", "patience=2", "publish=best")
    run(media, tmp_path, *settings)
    evaluated = [(line["epoch"], line["best"]) for line in read_log(tmp_path / LOG) if line["event"] == "evaluate"]
    assert evaluated == [(1, True), (2, True), (3, False), (4, False)]
    whole = losses(tmp_path)
    assert run(media, tmp_path, *settings, resume=True) == whole  # it has ended
    with pytest.raises(ValueError, match="patience=2 needs evaluations between epochs, eval_every is 0"):
        tiny_recipe(media, "patience=2", "eval_every=0")


# ---- options --------------------------------------------------------------------------------------------------------


def test_accumulated_batches_make_the_update_of_one_large_batch(media, tmp_path):
    run(media, tmp_path / "large", "batch_size=8", "lr=0.04", "tasks=films:video", "model=r2plus1d10", *FROZEN)
    run(media, tmp_path / "small", "batch_size=4", "accumulate=2", "tasks=films:video", "model=r2plus1d10", *FROZEN)
    a, b = (load_checkpoint(tmp_path / name / LAST)["model"] for name in ("large", "small"))
    for key, value in a.items():
        torch.testing.assert_close(b[key], value, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_nothing(media, tmp_path):
    plain = run(media, tmp_path / "a", "epochs=1", "tasks=films:video")
    close(run(media, tmp_path / "b", "epochs=1", "tasks=films:video", "grad_checkpointing=true"), plain)


def test_compiling_changes_nothing(media, tmp_path):
    settings = ("epochs=1", "epoch_size=2", "batch_size=2", "model=r2d10", "tasks=pictures:image")
    plain = run(media, tmp_path / "a", *settings)
    torch._dynamo.reset()
    close(run(media, tmp_path / "b", *settings, "compile=eager"), plain)


def test_bfloat16(media, tmp_path, monkeypatch):
    computed = set()
    forward = torch.nn.Conv2d.forward

    def spy(self, x):
        out = forward(self, x)
        computed.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spy)
    plain = first_losses(media, tmp_path / "a")
    assert computed == {torch.float32}
    assert first_losses(media, tmp_path / "b", "precision=bf16") == pytest.approx(plain, rel=0.05)
    assert torch.bfloat16 in computed


def test_gradients_are_clipped(media, tmp_path):
    recipe = ("epochs=1", "epoch_size=2", "optimizer=momentum", "momentum=0", "weight_decay=0", "schedule=constant")
    run(media, tmp_path / "start", *recipe, "lr=0")
    run(media, tmp_path / "run", *recipe, "lr=1", "clip_norm=0.125")
    before, after = (load_checkpoint(tmp_path / name / LAST)["model"] for name in ("start", "run"))
    moved = [value - before[key] for key, value in after.items() if key.endswith(("weight", "bias"))]
    assert torch.cat([part.flatten() for part in moved]).norm() == pytest.approx(0.125, rel=1e-4)


def test_the_averaged_weights_are_the_ones_published(media, tmp_path):
    run(media, tmp_path, "ema=0.9", "lr=0.1")
    state = load_checkpoint(tmp_path / LAST)
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
    assert torch.equal(model.stem.spatial.weight, state["ema"]["stem.spatial.weight"])
    assert not torch.equal(model.stem.spatial.weight, state["model"]["stem.spatial.weight"])


def test_frozen_layers_stay(media, tmp_path):
    run(media, tmp_path / "start", "epochs=1", "lr=0", "freeze_norms=true")
    run(media, tmp_path / "run", "epochs=1", "freeze=2")
    before, after = (load_checkpoint(tmp_path / name / LAST)["model"] for name in ("start", "run"))
    changed = {key.split(".conv")[0] for key in before if not torch.equal(before[key], after[key])}
    assert not any(key.startswith(("stem", "stages.0")) for key in changed)
    assert "stages.1.0" in changed


def test_recomputed_norms_are_published(media, tmp_path):
    run(media, tmp_path / "a", "epochs=1")
    run(media, tmp_path / "b", "epochs=1", "recompute_norms=2")
    a, b = (timm.create_model(f"local-dir:{tmp_path / name / 'export'}", pretrained=True) for name in ("a", "b"))
    assert torch.equal(a.stem.spatial.weight, b.stem.spatial.weight)
    assert not torch.equal(a.stem.norm["image"].running_mean, b.stem.norm["image"].running_mean)
    run(media, tmp_path / "b", "epochs=1", "recompute_norms=2", resume=True)  # publishes once more
    again = timm.create_model(f"local-dir:{tmp_path / 'b' / 'export'}", pretrained=True)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in b.state_dict().items())


def test_a_run_goes_on_without_the_one_that_it_started_from(media, tmp_path):
    run(media, tmp_path / "first", "epochs=1")
    init = f"init={tmp_path / 'first'}"
    expected = run(media, tmp_path / "second", init)
    shutil.rmtree(tmp_path / "first")
    assert run(media, tmp_path / "second", init, resume=True) == expected
    with pytest.raises(RunError, match="there is no checkpoint"):
        run(media, tmp_path / "third", init)


def test_options_that_change_the_losses(media, tmp_path):
    plain = first_losses(media, tmp_path / "plain")
    for number, option in enumerate(
        ["flip=false", "rand_augment=rand-m9", "mixup=0.5", "label_smoothing=0.2", "short_sides=[40,64]", "seed=1"]
        + ["freeze_norms=true", "loss_weights=films.image:0.5", "mix=pictures:3,films:1", "frame_stride=1"]
    ):
        assert first_losses(media, tmp_path / str(number), option)["total"] != plain["total"], option


def test_sync_norms_need_gpus(media, tmp_path):
    with pytest.raises(ValueError, match="sync_norms needs GPUs"):
        run(media, tmp_path, "sync_norms=true")


@pytest.mark.gpu
def test_sync_norms(media, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    close(run(media, tmp_path / "b", "sync_norms=true"), run(media, tmp_path / "a"), tolerance=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"), [("precision=fp8", "allowed: no, bf16"), ("protocol=mine", "allowed: unidual34")]
)
def test_unknown_choices(media, tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        run(media, tmp_path, setting, "epoch_size=2", "epochs=1")


# ---- mishaps --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(media, tmp_path):
    message = r"loss .*(nan|inf) in step \d, epoch 1, at lr 1e\+30; there is no checkpoint yet; a lower lr"
    with pytest.raises(RunError, match=message):
        run(media, tmp_path, "lr=1e30", "schedule=constant", "save_every=100", "log_every=3")
    assert not (tmp_path / LAST).exists()


@pytest.mark.parametrize("step", [5, 7])
def test_weights_that_are_not_finite_are_neither_kept_nor_evaluated(media, tmp_path, monkeypatch, step):
    """Of steps 1 to 8, checkpoints after 3, 4 and 6 and an evaluation after 4 and 8."""
    settings = ("log_every=10", "tasks=pictures:image", "model=r2d10", "epoch_size=16")
    whole = run(media, tmp_path / "whole", *settings)
    taught = Trainer.training_step

    def spoil(self, batch):
        losses = taught(self, batch)
        if self.done == step:
            self.model.stem.spatial.weight.data[0, 0] = float("inf")
        return losses

    monkeypatch.setattr(Trainer, "training_step", spoil)
    kept = {5: 4, 7: 6}[step]
    message = rf"model\.stem\.spatial\.weight is not finite after step {step + 1}; .*--resume goes on after step {kept}"
    with pytest.raises(RunError, match=message):
        run(media, tmp_path / "run", *settings)
    assert load_checkpoint(tmp_path / "run" / LAST)["progress"]["step"] == kept
    assert [line["step"] for line in read_log(tmp_path / "run" / LOG) if line["event"] == "evaluate"] == [4]
    monkeypatch.setattr(Trainer, "training_step", taught)
    assert run(media, tmp_path / "run", *settings, resume=True) == whole


def test_a_run_goes_on_though_its_log_and_its_recipe_are_damaged(media, tmp_path):
    settings = ("epochs=1", "tasks=pictures:image", "model=r2d10")
    whole = run(media, tmp_path, *settings)
    for name in ("recipe.json", LOG):
        text = (tmp_path / name).read_text()
        within_a_line = text.rindex("\n", 0, len(text) // 2) + 5
        (tmp_path / name).write_text(text[:within_a_line] + "\n")
    with pytest.warns(UserWarning, match=r"recipe\.json cannot be read"), pytest.warns(UserWarning, match="is damaged"):
        again = run(media, tmp_path, *settings, resume=True)
    assert again == whole[: len(again)]


def test_two_runs_in_one_directory(media, tmp_path):
    settings = ("epochs=1", "tasks=pictures:image", "model=r2d10")
    first = Trainer(tiny_recipe(media, *settings), out=tmp_path)
    with pytest.raises(RunError, match=f"is in use by process {os.getpid()} on"):
        train(tiny_recipe(media, *settings), out=tmp_path, resume=True)
    first.fit()
    first.publish()
    first.close()
    train(tiny_recipe(media, *settings), out=tmp_path, resume=True)


def test_files_that_cannot_be_read_are_logged_and_the_run_goes_on(media, tmp_path, capsys):
    listed = [f"{file},{file.parent.name}" for file in sorted((media / "pictures" / "train").rglob("*.png"))]
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "list.csv").write_text("\n".join([*listed[:3], *listed[5:8], "broken.png,circle"]))
    settings = (f"test_data=pictures:{media / 'pictures'}", "tasks=pictures:image", "model=r2d10")
    settings += (f"data=pictures:{tmp_path / 'list.csv'}",)
    run(media, tmp_path / "a", *settings)
    lines = [line for line in read_log(tmp_path / "a" / LOG) if line["event"] == "unreadable"]
    assert [line["file"] for line in lines] == [str(tmp_path / "broken.png")]
    assert f"unreadable training file: {tmp_path / 'broken.png'}: " in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "a" / LAST)["progress"]["failed"].keys() == {str(tmp_path / "broken.png")}
    with pytest.raises(RuntimeError, match="1 training file could not be read, 0 may"):
        run(media, tmp_path / "b", *settings, "max_failed=0")


def test_a_full_disk_ends_the_run_with_the_checkpoint_before(media, tmp_path, monkeypatch):
    write, counts = trainer_module.RunDirectory.save, []

    def fill_up(self, state, *, best):
        if counts:
            monkeypatch.setattr("unidual_zoo.training.rundir.os.replace", lambda *_: (_ for _ in ()).throw(full))
        counts.append(state["progress"]["step"])
        write(self, state, best=best)

    full = OSError(28, "No space left on device")
    monkeypatch.setattr(trainer_module.RunDirectory, "save", fill_up)
    with pytest.raises(RunError, match=r"cannot write .*last\.safetensors: No space left on device; .* is kept"):
        run(media, tmp_path)
    assert counts == [3, 4]
    assert load_checkpoint(tmp_path / LAST)["progress"]["step"] == 3


def test_a_recipe_needs_its_data():
    with pytest.raises(ValueError, match="no data for in1k, k400"):
        train(find_recipe("paper-34"), out="nowhere")
