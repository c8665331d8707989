"""Recipes and their settings as text."""

import dataclasses
import json
import shlex
from dataclasses import fields

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from unidual.options import DEFAULT_MODEL
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.data.joint import step_shares
from unidual_zoo.spec import ClipSpec, InputSpec
from unidual_zoo.training.network import build_model
from unidual_zoo.training.optimizers import make_schedule
from unidual_zoo.training.recipes import (
    RECIPES,
    DataSettings,
    ModelSettings,
    OptimSettings,
    Recipe,
    RunSettings,
    current_names,
    explained_settings,
    find_recipe,
)


def test_settings_of_every_kind():
    recipe = find_recipe(
        "mini",
        ["lr=1", "model=r2d34", "tasks=a:image,b:video", "mix=a:0.5,b:2", "crop=[32, 40]", "flip=false"]
        + ["epoch_size=null", 'model_args={"norms": "shared"}', "data=a:/some/folder,b:list.csv", "schedule=cosine"]
        + ["layer_decay=0.5", "milestones=[1, 2.5]"],
    )
    assert recipe.optim.lr == 1
    assert recipe.model.model == "r2d34"
    assert recipe.data.tasks == {"a": "image", "b": "video"}
    assert recipe.data.mix == {"a": 0.5, "b": 2}
    assert recipe.model.crop == (32, 40)
    assert recipe.data.flip is False
    assert recipe.data.epoch_size is None
    assert recipe.model.model_args == {"norms": "shared"}
    assert recipe.data.data == {"a": "/some/folder", "b": "list.csv"}
    assert recipe.optim.milestones == (1, 2.5)
    assert find_recipe("mini", ["mix=proportional"]).data.mix == "proportional"
    assert find_recipe("mini", ["resize=64"]).model.resize == 64
    assert find_recipe("mini", ["lr=0.5", "lr=0.25"]).optim.lr == 0.25


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", r"no setting 'lrr', the nearest of \d+: lr, .*; --settings explains all"),
        ("optim=1", r"no setting 'optim', the nearest of \d+: optimizer, "),
        ("lr", "a setting is name=value, got 'lr'"),
        ("lr=fast", "lr must be a number from 0, got 'fast'"),
        ("rate=fast", "lr must be a number from 0, got 'fast'"),
        ("lr=-1", "lr must be a number from 0, got -1"),
        ("lr=NaN", "lr must be a number from 0, got nan"),
        ("lr=Infinity", "lr must be a number from 0, got inf"),
        ("ema=1", "ema must be a number from 0 below 1, got 1"),
        ("clip_norm=0", "clip_norm must be a number above 0 or null, got 0"),
        ("epochs=1.5", "epochs must be a whole number from 0, got 1.5"),
        ("batch_size=true", "batch_size must be a whole number from 1, got True"),
        ('workers="2"', "workers must be a whole number from 0, got '2'"),
        ("flip=1", "flip must be true or false, got 1"),
        ("model=34", "model must be a text, got 34"),
        ("crop=3", r"crop must be \[height, width\] or null, got 3"),
        ("crop=[64]", r"crop must be \[height, width\] or null, got \[64\]"),
        ("crop=[0,64]", r"crop must be \[height, width\] or null, got \[0, 64\]"),
        ("resize=[1,2,3]", r"resize must be a short side from 1 or \[height, width\] or null, got \[1, 2, 3\]"),
        ("short_sides=[]", r"short_sides must be a list of sides such as \[256,320\] or null, got \[\]"),
        ("mix=a:much", "mix must be equal or proportional or pairs such as a:1,b:2, got {'a': 'much'}"),
        ("mix=even", "mix must be equal or proportional or pairs such as a:1,b:2, got 'even'"),
        ("batch_size=0", "batch_size must be a whole number from 1, got 0"),
        ("eval_every=-1", "eval_every must be a whole number from 0, got -1"),
        ("epoch_size=0", "epoch_size must be a whole number from 1 or null, got 0"),
        ("publish=bst", "no publish 'bst', allowed: last, best; did you mean 'best'"),
        ("precision=fp8", "no precision 'fp8', allowed: no, bf16"),
        ("tasks=a:audio", "no modality of a 'audio', allowed: image, video"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        find_recipe("toy", [setting])


def test_settings_are_found_by_the_names_that_they_once_had():
    recipe = find_recipe("toy", ["rate=0.25", "warmup_rate=0.125"])
    assert (recipe.optim.lr, recipe.optim.warmup_lr) == (0.25, 0.125)
    older = {"rate": 0.25, "warmup_rate": 0, "epochs": 3}
    assert current_names(older) == {"lr": 0.25, "warmup_lr": 0, "epochs": 3}
    assert current_names(recipe.to_dict()) == recipe.to_dict()


def test_a_setting_is_in_one_group():
    names = [
        field.name for group in (ModelSettings, DataSettings, OptimSettings, RunSettings) for field in fields(group)
    ]
    assert len(names) == len(set(names))
    assert list(Recipe().to_dict()) == names


def test_a_changed_recipe_leaves_the_others_alone():
    before = RECIPES["toy"].recipe.to_dict()
    changed = find_recipe("toy", ["lr=1", "tasks=a:image"])
    assert RECIPES["toy"].recipe.to_dict() == before
    assert {name for name, value in changed.to_dict().items() if value != before[name]} == {"lr", "tasks"}
    with pytest.raises(ValueError, match="no setting 'learning_rate', the nearest"):
        changed.changed(learning_rate=1)


@pytest.mark.parametrize("group", [ModelSettings, DataSettings, OptimSettings, RunSettings])
def test_groups_check_what_they_are_made_of(group):
    """Also where they are not made from the command line."""
    with pytest.raises(ValueError, match="unexpected"):
        group(nothing=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        group().model = 1


def test_every_recipe_says_what_to_expect_of_it():
    for name, experiment in RECIPES.items():
        assert experiment.about
        command = experiment.command.split()
        assert name in command or "--scale" in command
        assert experiment.cost
        assert experiment.figures


def test_fine_tuning_begins_with_the_network_that_the_command_line_has():
    """Its module must not import torch, so that both name it."""
    assert find_recipe("finetune").model.model == DEFAULT_MODEL


def test_the_best_checkpoint_needs_evaluations():
    for every in (0, 9):
        with pytest.raises(ValueError, match=f"eval_every is {every}"):
            find_recipe("toy", ["publish=best", f"eval_every={every}"])
    assert find_recipe("toy", ["publish=best"]).run.publish == "best"


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"no recipe 'paper34', allowed: paper-34, paper-34-three.*did you mean 'paper-34'"
    ):
        find_recipe("paper34")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_data(name):
    plain = find_recipe(name).to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert Recipe().changed(**plain).to_dict() == plain


def test_the_papers_numbers():
    small, three, large = (find_recipe(name) for name in ("paper-34", "paper-34-three", "paper-152"))
    assert (small.data.epoch_size or 0) * len(small.data.tasks) == 2_000_000
    assert (three.data.epoch_size or 0) * len(three.data.tasks) == 3_000_000
    assert (small.data.batch_size, small.optim.lr, small.optim.epochs) == (16, 0.01, 45)
    assert (large.data.batch_size, large.optim.lr, large.optim.epochs) == (8, 0.005, 45)
    spec = InputSpec()
    assert small.model.spec(spec) == InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=8, stride=1))
    assert large.model.spec(spec) == InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=16, stride=4))
    assert large.data.short_sides == (256, 320)
    assert not any((small.data.flip, small.data.rand_augment, small.optim.mixup, small.optim.label_smoothing))


def rates(settings, epochs, updates_per_epoch=1000):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = make_schedule(optimizer, settings, updates_per_epoch=updates_per_epoch)
    seen = []
    for epoch in epochs:
        schedule.step_update(round(epoch * updates_per_epoch))
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_the_papers_schedules():
    steps = rates(find_recipe("paper-34").optim, [0, 5, 10, 19.5, 20.5, 29.5, 30.5, 39.5, 40.5, 44.999])
    assert steps == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    cosine = rates(find_recipe("paper-152").optim, [0, 5, 10, 10 + 35 / 2, 45])
    assert cosine == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-6)


def test_a_single_update_is_not_spent_on_warming_up():
    short = find_recipe("finetune").changed(epochs=1, warmup_epochs=0.5).optim
    assert rates(short, [0], updates_per_epoch=1) == [1]
    assert rates(short, [0, 0.5], updates_per_epoch=4) == pytest.approx([0, 1])


def test_impossible_schedules():
    for changes, message in (
        ({"schedule": "plateau"}, "no schedule 'plateau', allowed: constant"),
        ({"warmup_epochs": 45}, "warmup_epochs 45 must be less than epochs 45"),
    ):
        with pytest.raises(ValueError, match=message):
            rates(find_recipe("paper-34").changed(**changes).optim, [0])
    assert rates(find_recipe("paper-34").changed(warmup_lr=0.2).optim, [0, 5]) == pytest.approx([0.2, 0.6])


def test_cover_samples_in_proportion():
    """Train files of ImageNet-1k, Kinetics-400, Something-Something V2 and Moments in Time."""
    recipe = find_recipe("cover")
    sizes = dict(zip(recipe.data.tasks, (1_281_167, 240_436, 168_913, 802_264), strict=True))
    epoch = recipe.data.examples_per_epoch(sizes)
    assert epoch == sum(sizes.values())
    seen = step_shares(recipe.data.batch_size, list(sizes.values()), 10_000).sum(0)
    assert seen / seen.sum() == pytest.approx([size / epoch for size in sizes.values()], abs=1e-4)
    assert recipe.model.spec(InputSpec()).image_frames == 1
    assert find_recipe("mini").model.spec(InputSpec()).image_frames is None
    assert find_recipe("cover", ["mix=equal"]).data.examples_per_epoch({"a": 3, "b": 7}) == 14


def test_cover_starts_from_a_vit(tmp_path):
    """All but time, whatever the classes of its own; one head for each data set."""
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 7}
    vit = timm.create_model("vit_base_patch16_224", **small)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    own = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "num_frames": 4}
    own |= {"spec": InputSpec(resize=36, crop=(32, 32)).to_dict()}
    own |= {"pretrained_cfg_overlay": {"file": str(tmp_path / "vit.safetensors")}}
    recipe = find_recipe("cover", [f"model_args={json.dumps(own)}"])
    names = {"in1k": "abc", "k400": "ab", "ssv2": "ab", "mit": "abcd"}
    media = {task: MediaSet(modality, tuple(names[task]), (), ()) for task, modality in recipe.data.tasks.items()}
    model = build_model(recipe.model, media).eval()
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model.forward_features(image)[:, 0], vit.eval().forward_features(image))
    assert {task: model(image, task=task).shape[1] for task in names} == {"in1k": 3, "k400": 2, "ssv2": 2, "mit": 4}


def test_every_setting_says_what_it_is_and_may_be_and_its_example_is_taken():
    explained = explained_settings(RECIPES["toy"].recipe)
    settings = [setting for group in explained.values() for setting in group]
    assert {one.name: one.value for one in settings if one.name in ("lr", "model")} == {
        "lr": 0.05,
        "model": "unidual10_aux",
    }
    assert [one.name for one in settings] == list(Recipe().to_dict())
    assert all(one.meaning.endswith(".") and one.allowed for one in settings)
    examples = [f"{one.name}={shlex.split(one.example)[0]}" for one in settings if one.example]
    assert {"monitor", "blend", "teachers", "tasks", "init"} <= {example.partition("=")[0] for example in examples}
    changed = find_recipe("mini", [*examples, "data={}", "loss_weights={}", "skip={}", "subsample={}"])
    assert (changed.data.monitor, changed.optim.blend) == (0.1, "offline")
    assert changed.model.model_args == {"norms": "shared"}
