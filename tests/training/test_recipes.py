"""Recipes and their settings as text."""

import dataclasses
import json

import pytest
import timm
import torch
from torch import nn

from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.training.finetune import finetune_recipe
from unidual_zoo.training.optimizers import make_schedule
from unidual_zoo.training.recipes import RECIPES, Recipe, find_recipe


def test_settings_of_every_kind():
    recipe = find_recipe(
        "mini",
        [
            "rate=1",
            "model=r2d34",
            "tasks=a:image,b:video",
            "mix=a:0.5,b:2",
            "crop=[32, 40]",
            "flip=false",
            "epoch_size=null",
        ]
        + ['model_args={"norms": "shared"}', "data=a:/some/folder,b:list.csv", "schedule=cosine", "layer_decay=0.5"],
    )
    assert recipe.rate == 1
    assert recipe.model == "r2d34"
    assert recipe.tasks == {"a": "image", "b": "video"}
    assert recipe.mix == {"a": 0.5, "b": 2}
    assert recipe.crop == [32, 40]
    assert recipe.flip is False
    assert recipe.epoch_size is None
    assert recipe.model_args == {"norms": "shared"}
    assert recipe.data == {"a": "/some/folder", "b": "list.csv"}
    assert find_recipe("mini", ["mix=proportional"]).mix == "proportional"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rat=1", "no setting 'rat', allowed: .*did you mean 'rate'"),
        ("rate", "a setting is name=value, got 'rate'"),
        ("rate=fast", "rate must be float, got 'fast'"),
        ("epochs=1.5", "epochs must be int"),
        ("batch_size=true", "batch_size must be int, got True"),
        ("crop=3", "crop must be Sequence"),
        ("mix=a:much", "mix must be str | Mapping"),
        ("batch_size=0", "batch_size must be 1 or more, got 0"),
        ("save_every=0", "save_every must be 1 or more, got 0"),
        ("eval_every=-1", "eval_every must be 0 or more, got -1"),
        ("epoch_size=0", "epoch_size must be 1 or more, got 0"),
        ("crop=[64]", r"crop must be \[height, width\], got \[64\]"),
        ("publish=bst", "no publish 'bst', allowed: last, best"),
        ("tasks=a:audio", "no modality of a 'audio', allowed: image, video"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        find_recipe("toy", [setting])


def test_the_best_checkpoint_needs_evaluations():
    for every in (0, 9):
        with pytest.raises(ValueError, match=f"eval_every is {every}"):
            find_recipe("toy", ["publish=best", f"eval_every={every}"])
    assert find_recipe("toy", ["publish=best"]).publish == "best"


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"no recipe 'paper34', allowed: paper-34, paper-34-three.*did you mean 'paper-34'"
    ):
        find_recipe("paper34")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_data(name):
    plain = RECIPES[name].to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert Recipe(**plain).to_dict() == plain


def test_the_papers_numbers():
    small, three, large = (RECIPES[name] for name in ("paper-34", "paper-34-three", "paper-152"))
    assert (small.epoch_size or 0) * len(small.tasks) == 2_000_000
    assert (three.epoch_size or 0) * len(three.tasks) == 3_000_000
    assert (small.batch_size, small.rate, small.epochs) == (16, 0.01, 45)
    assert (large.batch_size, large.rate, large.epochs) == (8, 0.005, 45)
    spec = InputSpec()
    assert small.spec(spec) == InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=8, stride=1))
    assert large.spec(spec) == InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=16, stride=4))
    assert large.short_sides == (256, 320)
    assert not any((small.flip, small.rand_augment, small.mixup, small.label_smoothing))


def rates(recipe, epochs, updates_per_epoch=1000):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make_schedule(optimizer, recipe, updates_per_epoch=updates_per_epoch)
    seen = []
    for epoch in epochs:
        schedule.step_update(round(epoch * updates_per_epoch))
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_the_papers_schedules():
    steps = rates(RECIPES["paper-34"], [0, 5, 10, 19.5, 20.5, 29.5, 30.5, 39.5, 40.5, 44.999])
    assert steps == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    cosine = rates(RECIPES["paper-152"], [0, 5, 10, 10 + 35 / 2, 45])
    assert cosine == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-6)


def test_a_single_update_is_not_spent_on_warming_up():
    short = dataclasses.replace(RECIPES["finetune"], epochs=1, warmup_epochs=0.5)
    assert rates(short, [0], updates_per_epoch=1) == [1]
    assert rates(short, [0, 0.5], updates_per_epoch=4) == pytest.approx([0, 1])


def test_impossible_schedules():
    for changes, message in (
        ({"schedule": "plateau"}, "no schedule 'plateau', allowed: constant"),
        ({"warmup_epochs": 45}, "warmup_epochs 45 must be less than epochs 45"),
    ):
        with pytest.raises(ValueError, match=message):
            rates(dataclasses.replace(RECIPES["paper-34"], **changes), [0])
    assert rates(dataclasses.replace(RECIPES["paper-34"], warmup_rate=0.2), [0, 5]) == pytest.approx([0.2, 0.6])


def test_the_recipe_of_a_fine_tuning(monkeypatch):
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: name == "r2plus1d18")
    both = finetune_recipe("unidual34", images="a", videos="b", test_videos="c", settings=["rate=1"])
    assert both.model == "unidual34"
    assert not both.pretrained
    assert both.tasks == {"images": "image", "videos": "video"}
    assert both.data == {"images": "a", "videos": "b"}
    assert both.test_data == {"videos": "c"}
    assert both.rate == 1
    assert finetune_recipe("r2plus1d18", videos="b").tasks == {"videos": "video"}
    assert finetune_recipe("r2plus1d18", videos="b").pretrained
    with pytest.raises(ValueError, match="no model 'unidual43'"):
        finetune_recipe("unidual43", videos="b")
    assert finetune_recipe("local-dir:x", videos="b").pretrained
    assert not finetune_recipe("r2plus1d18", videos="b", settings=["pretrained=false"]).pretrained
    with pytest.raises(ValueError, match="test images and none to learn from: give --images"):
        finetune_recipe("unidual34", videos="b", test_images="c")
    with pytest.raises(ValueError, match="--images, --videos or both"):
        finetune_recipe("unidual34")
