"""Which parameters learn, are decayed, and how fast."""

import dataclasses

import pytest
import timm

import unidual_zoo  # noqa: F401  (registers the models)
from unidual_zoo.training.optimizers import freeze, make_optimizer
from unidual_zoo.training.recipes import RECIPES

RECIPE = dataclasses.replace(RECIPES["paper-34"], weight_decay=0.5, rate=2.0)


def network(name="unidual10_aux", **kwargs):
    return timm.create_model(name, width=1 / 16, **kwargs)


def settings(model, recipe, *, world=1):
    """Name of each parameter -> the settings of its group."""
    optimizer = make_optimizer(model, recipe, world=world)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {names[id(weight)]: group for group in optimizer.param_groups for weight in group["params"]}, optimizer


def test_all_but_biases_is_decayed():
    model = network("r2d10_lstm_multitask")
    groups, _ = settings(model, RECIPE)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, group in groups.items():
        assert group["weight_decay"] == (0 if "bias" in name else 0.5), name
    assert groups["stem.norm.image.weight"]["weight_decay"] == 0.5


def test_scales_of_norms_can_be_left_alone():
    groups, _ = settings(network(), dataclasses.replace(RECIPE, decay_norms=False))
    assert groups["stem.norm.image.weight"]["weight_decay"] == 0
    assert groups["stem.spatial.weight"]["weight_decay"] == 0.5


def test_the_rate_grows_with_the_examples_per_update():
    _, optimizer = settings(network(), dataclasses.replace(RECIPE, accumulate=3), world=4)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0 * 3 * 4}


def test_momentum_is_nesterovs():
    _, optimizer = settings(network(), RECIPE)
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_timms_optimizers_by_name():
    _, optimizer = settings(network(), dataclasses.replace(RECIPE, optimizer="adamw", momentum=0.8))
    assert type(optimizer).__name__ == "AdamW"


@pytest.mark.parametrize("name", ["kron", "cadafactorbv"])
def test_optimizers_that_no_checkpoint_holds_are_refused(name):
    with pytest.raises(ValueError, match=f"optimizer '{name}' cannot be used"):
        settings(network(), dataclasses.replace(RECIPE, optimizer=name))


def test_layer_decay_halves_the_rate_from_stage_to_stage():
    groups, _ = settings(network(), dataclasses.replace(RECIPE, layer_decay=0.5))
    scales = {name: group["lr_scale"] for name, group in groups.items()}
    assert scales["heads.image.in1k.weight"] == 1
    for stage in range(3):
        below, above = (scales[f"stages.{number}.0.conv1.spatial.weight"] for number in (stage, stage + 1))
        assert below == above / 2
    assert scales["stem.spatial.weight"] == scales["stages.0.0.conv1.spatial.weight"] / 2
    assert groups["stem.norm.image.bias"]["weight_decay"] == 0


def test_early_layers_freeze():
    model = network()
    assert freeze(model, first=0) == []
    names = freeze(model, first=2)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == set(names) == {n for n, _ in model.named_parameters() if n.startswith(("stem.", "stages.0."))}
    assert not frozen & set(settings(model, RECIPE)[0])
    freeze(model, first=5)  # all but the heads
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    with pytest.raises(ValueError, match="freeze must be 0 to 5 layers, got 6"):
        freeze(model, first=6)


def test_a_pathway_without_a_head_freezes():
    model = network("unidual10", tasks={"k400": ("video", 5)})
    assert set(freeze(model, first=0)) == {name for name, _ in model.named_parameters() if ".image." in name}
