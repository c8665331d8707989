"""Gradient Blending: courses and weights by hand, and runs in which losses are measured and weighed."""

import math

import pytest
import torch
from tiny import tiny_recipe

from unidual_zoo.training.blending import FLOOR, Course, Level, blend
from unidual_zoo.training.rundir import LAST, LOG, load_checkpoint, read_log
from unidual_zoo.training.trainer import Trainer, train

KEPT = ("monitor=0.4", "epochs=2", "freeze_norms=true")


def events(out, event):
    return [line for line in read_log(out / LOG) if line["event"] == event]


def test_a_course_by_hand():
    course = Course.between(Level(training=2.0, held_out=2.1), Level(training=1.0, held_out=1.6))
    assert (course.overfitting, course.generalisation) == pytest.approx((0.5, 0.5))
    assert Course(0.5, 0.25).ratio == 2
    assert Course(-0.5, 0.25).ratio == 2
    assert Course(0.1, 0.0).ratio == math.inf


def test_weights_by_hand():
    """ΔG/ΔO²: 0.4/0.04 = 10 and 0.1/0.01 = 10 and 0.8/0.16 = 5, that is 2/5, 2/5, 1/5 of three."""
    courses = {"a": Course(0.2, 0.4), "b": Course(0.1, 0.1), "c": Course(0.4, 0.8)}
    assert blend(courses) == pytest.approx({"a": 1.2, "b": 1.2, "c": 0.6})


def test_a_loss_that_does_not_overfit_is_not_given_everything():
    weights = blend({"a": Course(-0.3, 0.1), "b": Course(2 * FLOOR, 0.4)})
    assert weights == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_loss_that_does_not_generalise_keeps_a_little_and_one_that_diverges_nothing():
    """ΔG/ΔO² is 0 and 20, on average 10, of which the first keeps a tenth: 1/21 and 20/21 of two."""
    assert blend({"a": Course(0.1, -0.2), "b": Course(0.1, 0.2)}) == pytest.approx({"a": 2 / 21, "b": 40 / 21})
    assert blend({"a": Course(math.nan, math.nan), "b": Course(0.1, 0.2), "c": Course(0.1, math.inf)}) == {
        "a": 0, "b": 3, "c": 0,
    }  # fmt: skip
    with pytest.warns(UserWarning, match="all weigh the same"):
        assert blend({"a": Course(0.1, -0.2), "b": Course(0.1, 0)}) == {"a": 1, "b": 1}


def test_losses_are_measured_on_training_and_held_out_files(media, tmp_path):
    train(tiny_recipe(media, *KEPT), out=tmp_path)
    seen = events(tmp_path, "overfitting")
    assert [line["step"] for line in seen] == [0, 4, 8]
    first, last = seen[0], seen[-1]
    gap = [line["held_out/films.video"] - line["training/films.video"] for line in (first, last)]
    fallen = first["held_out/films.video"] - last["held_out/films.video"]
    assert last["ratio/films.video"] == pytest.approx(abs((gap[1] - gap[0]) / fallen))
    assert not events(tmp_path, "blend")


def test_files_that_measure_are_not_trained_on(media, tmp_path):
    trainer = Trainer(tiny_recipe(media, *KEPT), out=tmp_path)
    kept = trainer.blender.held_out.dataset.media
    for task, data in trainer.media.items():
        assert not set(data.files) & set(kept[task].files)
        assert (len(data), len(kept[task])) == (6, 4)
        assert not set(trainer.test_media[task].files) & set(kept[task].files)
    trainer.close()


FEW_FILES = pytest.mark.filterwarnings("ignore:monitor=0.4 keeps 4 of pictures, 4 of films. with fewer than 100")


@FEW_FILES
@pytest.mark.parametrize(("kind", "steps"), [("offline", [0]), ("online", [0, 4])])
def test_losses_get_weights(media, tmp_path, capsys, kind, steps):
    train(tiny_recipe(media, *KEPT, f"blend={kind}"), out=tmp_path / "run")
    blended = events(tmp_path / "run", "blend")
    assert [line["step"] for line in blended] == steps
    courses = {name: Course(one["overfitting"], one["generalisation"]) for name, one in blended[-1]["losses"].items()}
    weights = {name: one["weight"] for name, one in blended[-1]["losses"].items()}
    assert weights == pytest.approx(blend(courses))
    assert sum(weights.values()) == pytest.approx(len(weights))
    told = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    assert f"losses weigh from step {steps[-1]}: {told}" in capsys.readouterr().err
    for line in (line for line in events(tmp_path / "run", "train") if line["step"] > steps[-1]):
        total = sum(weights[name] * line[f"loss/{name}"] for name in weights)
        assert line["loss/total"] == pytest.approx(total, rel=1e-5)


def test_of_few_files_weights_follow_noise(media, tmp_path):
    with pytest.warns(UserWarning, match=r"monitor=0.4 keeps 4 of pictures, 4 of films: with fewer than 100 files"):
        trainer = Trainer(tiny_recipe(media, "monitor=0.4", "blend=offline"), out=tmp_path)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    trainer.blend()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.close()


def test_a_loss_alone_is_trained_as_all_are(media, tmp_path):
    """By the recipe's schedule, which ends near 0, and its bound on gradients, by the same teachers."""
    plain = ("optimizer=momentum", "momentum=0", "weight_decay=0", "freeze_norms=true")
    trainer = Trainer(tiny_recipe(media, *KEPT, *plain, "lr=1", "clip_norm=0.001", "accumulate=2"), out=tmp_path)
    blender, objective = trainer.blender, trainer.plain_objective
    objective.teachers["none"] = torch.nn.Linear(1, 1)
    moved = []
    for start, stop in ((0, 2), (6, 8)):
        alone = blender._alone(objective, "films.video", start, stop)
        assert alone.teachers is objective.teachers
        pairs = zip(alone.model.parameters(), objective.model.parameters(), strict=True)
        moved.append(sum((a - b).square().sum() for a, b in pairs).sqrt().item())
    rates = [blender.optimizer(trainer.model)]
    assert moved[0] == pytest.approx(0.001 * rates[0][0].param_groups[0]["lr"], rel=1e-3)
    rates[0][1].step_update(3)  # the fourth update of four
    assert moved[1] == pytest.approx(0.001 * rates[0][0].param_groups[0]["lr"], rel=1e-2)
    assert moved[1] < 0.2 * moved[0]
    trainer.close()


@FEW_FILES
def test_a_resumed_run_has_the_same_weights(media, tmp_path):
    """Stopped after the first epoch's checkpoint, before new weights are found."""
    settings = (*KEPT, "blend=online", "eval_every=0")
    train(tiny_recipe(media, *settings), out=tmp_path / "whole")
    trainer = Trainer(tiny_recipe(media, *settings), out=tmp_path / "parted")
    trainer.end_epoch, end = lambda: (end(), trainer.close(), pytest.fail("stopped")), trainer.end_epoch
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        trainer.fit()
    train(tiny_recipe(media, *settings), out=tmp_path / "parted", resume=True)
    for event in ("overfitting", "blend", "train"):
        whole, parted = (events(tmp_path / name, event) for name in ("whole", "parted"))
        timed = {"examples/s", "waiting for data"}
        assert [{k: v for k, v in line.items() if k not in timed} for line in whole] == [
            {k: v for k, v in line.items() if k not in timed} for line in parted
        ]
    ends = [load_checkpoint(tmp_path / name / LAST)["model"] for name in ("whole", "parted")]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("blend=offline",), "blend=offline needs files to measure losses on: set monitor, such as 0.1"),
        (("blend=online", "monitor=0.1", "loss_weights=films.video:2"), "finds the weights of losses"),
    ],
)
def test_contradictions(media, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(media, *settings)
