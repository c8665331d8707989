"""Features that are computed once where all before the heads is frozen, and the runs that learn from them."""

import json
import shutil

import pytest
import torch
from test_trainer import close, losses
from tiny import tiny_recipe

from unidual_zoo.data.joint import Draw, JointSampler
from unidual_zoo.models.dual_trunk import DualTrunk
from unidual_zoo.rowlog import Row, RowLog, RowTable
from unidual_zoo.training import kept
from unidual_zoo.training import trainer as trainer_module
from unidual_zoo.training.kept import KeptViews, draws_to_keep, views_to_keep
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.optimizers import freeze
from unidual_zoo.training.rundir import FEATURES, LOG, ROWS, RunError, read_log
from unidual_zoo.training.trainer import Trainer, train

TINY = {"embed_dim": 32, "depth": 1, "num_heads": 2, "probe_depth": 1}
UNIDUAL = ("model=unidual10_aux", "auxiliary_frames=all", "freeze=trunk", "eval_every=0")
VJEPA = (
    "model=vjepa2_1_vit_base", f"model_args={json.dumps({**TINY, 'token_pool': 'attentive'})}", "freeze=trunk",
    "eval_every=0", "optimizer=adamw", "lr=0.01",
)  # fmt: skip


def fit(media, out, *settings, resume=False):
    """The losses of a run that is not evaluated."""
    trainer = Trainer(tiny_recipe(media, *settings), out=out, resume=resume)
    try:
        trainer.fit()
    finally:
        trainer.close()
    return losses(out)


def kept_views(out):
    return [line["views"] for line in read_log(out / LOG) if line["event"] == "features"]


@pytest.mark.parametrize(("settings", "tolerance"), [(UNIDUAL, 1e-4), (VJEPA, 1e-3)])
def test_kept_features_give_the_losses_of_the_first_looks(media, tmp_path, settings, tolerance):
    """With as many views as a file is looked at, mirrored and cropped at random as they are; of films all frames, which
    an auxiliary loss else draws."""
    plain = fit(media, tmp_path / "plain", *settings)
    close(fit(media, tmp_path / "kept", *settings, "feature_views=4"), plain, tolerance)
    assert kept_views(tmp_path / "kept") == [{"films": 2, "pictures": 2}]  # 16 looks at ten files


def test_later_looks_repeat_the_kept_ones_by_turns():
    sampler = JointSampler({"a": 3, "b": 5}, batch_size=4, epoch_size=8, seed=7)
    drawn = sampler.drawn(9)
    assert drawn == {"a": 18, "b": 18}
    views = KeptViews(RowTable([]), sampler, "a", views=2)
    draws = [draw for step in range(9) for draw in sampler.batch(step) if draw.task == "a"]
    firsts = {draw.position: draw.index for draw in draws[:6]}
    for draw in draws:
        place = views.place(draw)
        assert firsts[place] == draw.index
        assert place // 3 == draw.position // 3 % 2
        assert place == draw.position or draw.position >= 6
    assert list(draws_to_keep(sampler, {"a": 2}, drawn)) == [
        Draw("a", firsts[position], position) for position in range(6)
    ]
    assert [draw.position for draw in draws_to_keep(sampler, {"b": 4}, {"b": 18})] == list(range(18))


def test_how_many_views_there_is_room_for():
    two = dict(sizes={"a": 10, "b": 4}, drawn={"a": 25, "b": 40}, bytes_per_view={"a": 2, "b": 100})
    most = {"a": 8, "b": 8}
    assert views_to_keep(**two, most=most, room=1e9) == {"a": 3, "b": 8}  # a is looked at two and a half times
    assert views_to_keep(**two, most=most, room=2 * 25 + 100 * 4 * 3) == {"a": 3, "b": 3}
    assert views_to_keep(**two, most=most, room=2 * 25 + 100 * 4 * 3 - 1) == {"a": 2, "b": 2}
    assert views_to_keep(**two, most={"a": 1, "b": 8}, room=2 * 10 + 100 * 4 * 3) == {"a": 1, "b": 3}
    assert views_to_keep(**two, most=most, room=419) == {}
    assert views_to_keep({}, {}, {}, most={}, room=1) == {}


def test_a_run_killed_while_it_computes_features_computes_none_twice(media, tmp_path, monkeypatch):
    settings = ("model=r2d10", "freeze=trunk", "eval_every=0", "feature_views=2", "epochs=3", "tasks=pictures:image")
    computed = []
    settle = JointObjective.settle

    def count(self, task, x, seeds):
        computed.append(len(x))
        if len(computed) == 4:  # the first is of an example that tells the size
            raise KeyboardInterrupt
        return settle(self, task, x, seeds)

    monkeypatch.setattr(JointObjective, "settle", count)
    with pytest.raises(KeyboardInterrupt):
        fit(media, tmp_path / "killed", *settings)
    log = tmp_path / "killed" / FEATURES / f"0{ROWS}"
    with log.open("ab") as file:
        file.write(b'{"key": "pictures/8", "bytes": 64}\n and half of what it')
    resumed = fit(media, tmp_path / "killed", *settings, resume=True)
    assert computed == [1, 4, 4, 4, 1, 4, 4, 4]  # 24 looks: two turns of ten files are kept
    monkeypatch.setattr(JointObjective, "settle", settle)
    close(fit(media, tmp_path / "whole", *settings), resumed)
    assert kept_views(tmp_path / "whole") == [{"pictures": 2}]


def test_the_network_learns_from_them_and_they_are_gone_when_it_is_published(media, tmp_path):
    settings = ("model=r2d10", "tasks=pictures:image", "freeze=trunk", "epochs=8", "lr=1", "feature_views=2")
    reports = train(tiny_recipe(media, *settings, "eval_every=0", "freeze_norms=true"), out=tmp_path)
    assert reports["pictures"].metrics()["top-1"] == 100
    assert not (tmp_path / FEATURES).exists()
    assert (tmp_path / "export").exists()


def test_epochs_are_compared_by_what_is_kept_of_the_files(media, tmp_path, monkeypatch):
    """Scores are those of a run that keeps nothing, a damaged file counts as wrong, no view is computed twice."""
    copy = tmp_path / "media"
    shutil.copytree(media, copy)
    (copy / "pictures/val/circle/1.png").write_bytes(b"no picture")
    settings = ("model=unidual10", "freeze=trunk", "eval_clips=2", "publish=best", "lr=0.5", "ema=0.5")
    computed = []
    settle = kept._SettledRoute._respond

    def count(self, x):
        computed.append(len(x))
        return settle(self, x)

    monkeypatch.setattr(kept._SettledRoute, "_respond", count)
    scores = []
    for number, views in enumerate((0, 4)):
        fit(copy, tmp_path / str(number), *settings, f"feature_views={views}")
        lines = read_log(tmp_path / str(number) / LOG)
        scores.append([line for line in lines if line["event"] == "evaluate"])
    assert scores[0] == scores[1]
    assert [line["pictures/top-1"] <= 75 for line in scores[1]] == [True] * 2
    assert sum(computed) == 3 + 2 * 4  # of three pictures, and of two clips of four films


def test_where_there_is_no_room_nothing_is_kept(media, tmp_path, capsys):
    settings = ("model=r2d10", "tasks=pictures:image", "freeze=trunk", "feature_views=2", "feature_gigabytes=1e-7")
    trainer = Trainer(tiny_recipe(media, *settings), out=tmp_path)
    trainer.keep_features()
    trainer.close()
    assert not trainer.loader.dataset.kept
    assert not (tmp_path / FEATURES).exists()
    assert "feature_gigabytes allows 1e-07: none are kept" in capsys.readouterr().err


def test_a_full_disk_names_the_limit(media, tmp_path, monkeypatch):
    def full(self, row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer_module.RowLog, "append", full)
    with pytest.raises(RunError, match=r"cannot write to .*features: No space left on device; feature_gig"):
        fit(media, tmp_path, "model=r2d10", "tasks=pictures:image", "freeze=trunk", "feature_views=1")


def test_what_a_dual_trunk_keeps_depends_on_what_learns_in_its_pathways():
    def settled(part="trunk", mixup=0.0, **arguments):
        model = DualTrunk(
            trunk="test_efficientnet", tasks={"photos": ("image", 2), "clips": ("video", 3)}, num_frames=2, **arguments
        )
        freeze(model, part)
        return JointObjective(model, mixup=mixup).settled_tasks()

    assert settled() == ["photos"]
    assert settled(mixup=0.2) == []
    assert settled(part=1) == []
    assert settled(auxiliary=True) == []
    assert settled(pixelwise=True) == []
    assert settled(operator="none") == ["photos"]  # the video pathway's norms learn
    assert settled(operator="none", norms="shared") == ["clips", "photos"]


def test_rows_that_are_not_what_was_written_are_not_used(tmp_path):
    path = tmp_path / "log"
    with RowLog(path, {}) as log:
        log.append(Row("a", "nowhere", {}, {"x": torch.arange(3).numpy()}))
    assert RowTable([path]).row("a").arrays["x"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match="log is damaged: remove it"):
        RowTable([path]).row("a")
