"""Which parameters learn, are decayed, and how fast."""

import dataclasses

import pytest
import timm

import unidual_zoo  # noqa: F401  (registers the models)
from unidual_zoo.training.optimizers import check_optimizer, freeze, make_optimizer, make_schedule
from unidual_zoo.training.recipes import OptimSettings, find_recipe

SETTINGS = find_recipe("paper-34").changed(weight_decay=0.5, lr=2.0).optim


def network(name="unidual10_aux", **kwargs):
    return timm.create_model(name, width=1 / 16, **kwargs)


def groups_of(model, settings, *, world=1):
    """Name of each parameter -> the settings of its group."""
    optimizer = make_optimizer(model, settings, world=world)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {names[id(weight)]: group for group in optimizer.param_groups for weight in group["params"]}, optimizer


def test_all_but_biases_is_decayed():
    model = network("r2d10_lstm_multitask")
    groups, _ = groups_of(model, SETTINGS)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, group in groups.items():
        assert group["weight_decay"] == (0 if "bias" in name else 0.5), name
    assert groups["stem.norm.image.weight"]["weight_decay"] == 0.5


def test_scales_of_norms_can_be_left_alone():
    groups, _ = groups_of(network(), dataclasses.replace(SETTINGS, decay_norms=False))
    assert groups["stem.norm.image.weight"]["weight_decay"] == 0
    assert groups["stem.spatial.weight"]["weight_decay"] == 0.5


def test_what_a_network_excepts_is_not_decayed():
    model = network()
    model.no_weight_decay = lambda: {"stem.spatial.weight"}
    for settings in (SETTINGS, dataclasses.replace(SETTINGS, layer_decay=0.5)):
        groups, _ = groups_of(model, settings)
        assert groups["stem.spatial.weight"]["weight_decay"] == 0
        assert groups["stages.0.0.conv1.spatial.weight"]["weight_decay"] == 0.5


def test_the_learning_rate_grows_with_the_examples_per_update():
    _, optimizer = groups_of(network(), dataclasses.replace(SETTINGS, accumulate=3), world=4)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0 * 3 * 4}


def test_momentum_is_nesterovs():
    _, optimizer = groups_of(network(), SETTINGS)
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_timms_optimizers_by_name():
    _, optimizer = groups_of(network(), dataclasses.replace(SETTINGS, optimizer="adamw", momentum=0.8))
    assert type(optimizer).__name__ == "AdamW"


@pytest.mark.parametrize("name", ["kron", "cadafactorbv"])
def test_optimizers_that_no_checkpoint_holds_are_refused(name):
    with pytest.raises(ValueError, match=f"optimizer '{name}' cannot be used"):
        groups_of(network(), dataclasses.replace(SETTINGS, optimizer=name))


def test_layer_decay_halves_the_learning_rate_from_stage_to_stage():
    groups, _ = groups_of(network(), dataclasses.replace(SETTINGS, layer_decay=0.5))
    scales = {name: group["lr_scale"] for name, group in groups.items()}
    assert scales["heads.image.in1k.weight"] == 1
    for stage in range(3):
        below, above = (scales[f"stages.{number}.0.conv1.spatial.weight"] for number in (stage, stage + 1))
        assert below == above / 2
    assert scales["stem.spatial.weight"] == scales["stages.0.0.conv1.spatial.weight"] / 2
    assert groups["stem.norm.image.bias"]["weight_decay"] == 0


@pytest.mark.parametrize(("layer_decay", "stem"), [(None, 2.0), (0.5, 2.0 * 0.5**5)])
def test_heads_learn_at_a_rate_of_their_own(layer_decay, stem):
    settings = dataclasses.replace(SETTINGS, layer_decay=layer_decay, head_lr=0.1)
    groups, optimizer = groups_of(network(), settings)
    make_schedule(optimizer, dataclasses.replace(settings, schedule="constant", warmup_epochs=0), updates_per_epoch=3)
    assert set(groups) == {name for name, _ in network().named_parameters()}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert [rate for name, rate in rates.items() if name.startswith("heads.")] == pytest.approx([0.2] * 8)
    assert rates["stem.spatial.weight"] == pytest.approx(stem)
    assert groups["heads.image.in1k.bias"]["weight_decay"] == 0


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_what_the_model_excepts_from_weight_decay_is_not_decayed(monkeypatch, layer_decay, decay_norms):
    """Names, and timm's wildcards."""
    model = network()
    monkeypatch.setattr(model, "no_weight_decay", lambda: {"stem.spatial.weight", "stages.1.*"})
    changed = dataclasses.replace(SETTINGS, layer_decay=layer_decay, decay_norms=decay_norms)
    groups, _ = groups_of(model, changed)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, group in groups.items():
        excepted = name == "stem.spatial.weight" or name.startswith("stages.1.") or "bias" in name
        norm = model.get_parameter(name).ndim == 1
        assert group["weight_decay"] == (0 if excepted or (norm and not decay_norms) else 0.5), name


def test_timms_own_rule_is_met_where_a_model_excepts_parameters():
    """The same parameters as timm's factory leaves out, which decays no norms."""
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=2, img_size=32)
    assert model.no_weight_decay()
    theirs = timm.optim.create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.5)
    names = {id(weight): name for name, weight in model.named_parameters()}
    expected = {names[id(w)] for group in theirs.param_groups for w in group["params"] if not group["weight_decay"]}
    groups, _ = groups_of(model, OptimSettings(weight_decay=0.5, decay_norms=False))
    assert {name for name, group in groups.items() if not group["weight_decay"]} == expected
    assert {"cls_token", "pos_embed"} <= expected


def test_early_layers_freeze():
    model = network()
    assert freeze(model, 0) == []
    names = freeze(model, 2)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == set(names) == {n for n, _ in model.named_parameters() if n.startswith(("stem.", "stages.0."))}
    assert not frozen & set(groups_of(model, SETTINGS)[0])
    freeze(model, 5)  # all but the heads
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    with pytest.raises(ValueError, match="freeze must be 0 to 5 layers or trunk, got 6"):
        freeze(model, 6)


def test_a_pathway_without_a_head_freezes():
    model = network("unidual10", tasks={"k400": ("video", 5)})
    assert set(freeze(model, 0)) == {name for name, _ in model.named_parameters() if ".image." in name}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(optimizer="adanw2"), r"no optimizer 'adanw2', the nearest of \d+: adanw"),
        (dict(momentum=0.0), "optimizer=sgd needs a momentum above 0; without it: optimizer=momentum"),
        (dict(optimizer="kron"), "optimizer 'kron' cannot be used"),
    ],
)
def test_optimizers_that_cannot_be_are_refused_before_there_is_a_network(settings, message):
    with pytest.raises(ValueError, match=message):
        check_optimizer(OptimSettings(**settings))
    check_optimizer(OptimSettings(optimizer="lookahead_AdamW"))
