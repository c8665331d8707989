"""What `finetune` starts from, by what network it is given."""

import json

import pytest
import timm
from typer.testing import CliRunner

from unidual.app import app
from unidual_zoo.models.practice import CONVNEXTS, POINTWISE_UNITS, TRANSFORMERS
from unidual_zoo.training.finetune import finetune_recipe, practice_line, scalable_network
from unidual_zoo.training.network import export
from unidual_zoo.training.recipes import find_recipe
from unidual_zoo.weights import CheckpointError

MEASURED = find_recipe("finetune").optim


def test_the_recipe_of_a_fine_tuning(monkeypatch):
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: name == "r2plus1d18")
    both = finetune_recipe("unidual34", images="a", videos="b", test_videos="c", settings=["lr=1"])
    assert both.model.model == "unidual34"
    assert not both.model.pretrained
    assert both.data.tasks == {"images": "image", "videos": "video"}
    assert both.data.data == {"images": "a", "videos": "b"}
    assert both.data.test_data == {"videos": "c"}
    assert both.optim.lr == 1
    assert finetune_recipe("r2plus1d18", videos="b").data.tasks == {"videos": "video"}
    assert finetune_recipe("r2plus1d18", videos="b").model.pretrained
    with pytest.raises(ValueError, match="no model 'unidual43'"):
        finetune_recipe("unidual43", videos="b")
    assert not finetune_recipe("r2plus1d18", videos="b", settings=["pretrained=false"]).model.pretrained
    with pytest.raises(ValueError, match="test images and none to learn from: give --images"):
        finetune_recipe("unidual34", videos="b", test_images="c")
    with pytest.raises(ValueError, match="--images, --videos or both"):
        finetune_recipe("unidual34")
    with pytest.raises(CheckpointError, match="local-dir:nowhere: there is no folder nowhere"):
        finetune_recipe("local-dir:nowhere", videos="b")


def test_finetuning_lets_heads_see_the_order_of_frames(media):
    videos = str(media / "films")
    recipe = finetune_recipe("unidual_efficientnet_lite0", videos=videos)
    assert recipe.model.model_args == {"time_terms": 8}
    assert recipe.model.fit_heads
    given = finetune_recipe("unidual_efficientnet_lite0", videos=videos, settings=['model_args={"time_terms": 2}'])
    assert given.model.model_args == {"time_terms": 2}
    longer = finetune_recipe("unidual_efficientnet_lite0", videos=videos, settings=["num_frames=16"])
    assert longer.model.model_args == {"time_terms": 16}
    averaged = finetune_recipe(
        "unidual_trunk", videos=videos, settings=['model_args={"trunk": "test_vit", "frame_mean": "before_norm"}']
    )
    assert averaged.model.model_args == {"trunk": "test_vit", "frame_mean": "before_norm"}
    assert finetune_recipe("unidual10_aux", videos=videos).model.model_args == {}
    assert finetune_recipe("unidual_efficientnet_lite0", images=str(media / "pictures")).model.model_args == {}


def rates(recipe):
    return recipe.optim.lr, recipe.optim.layer_decay


SMALL = {"embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("model", "arguments", "practice"),
    [
        ("unidual_vit_base_patch16_clip_224", {}, TRANSFORMERS),
        ("unidual_trunk", {"trunk": "eva02_tiny_patch14_224"}, TRANSFORMERS),
        ("uniformerv2_base_patch16_224", {"trunk": "test_vit"}, TRANSFORMERS),
        ("timesformer_base", SMALL, TRANSFORMERS),
        ("vjepa2_1_vit_base", SMALL, TRANSFORMERS),
        ("unidual_trunk", {"trunk": "test_convnext"}, CONVNEXTS),
        ("unidual_trunk", {"trunk": "test_efficientnet", "operator": "pointwise"}, POINTWISE_UNITS),
        ("unidual_trunk", {"trunk": "test_convnext", "operator": "pointwise"}, CONVNEXTS),
        ("unidual_trunk", {"trunk": "test_resnet"}, None),
        ("unidual_efficientnet_lite0", {}, None),
        ("unidual10", {}, None),
    ],
)
def test_networks_learn_at_the_rates_of_their_kind(model, arguments, practice, monkeypatch):
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: True)
    recipe = finetune_recipe(model, videos="b", settings=[f"model_args={json.dumps(arguments)}"])
    assert rates(recipe) == ((practice.lr, practice.layer_decay) if practice else (MEASURED.lr, MEASURED.layer_decay))
    assert (practice_line(recipe, ()) is None) == (practice is None)


def test_what_is_set_goes_before_the_practice_of_others():
    def recipe(*settings, model="timesformer_base"):
        return finetune_recipe(model, videos="b", settings=[f"model_args={json.dumps(SMALL)}", *settings])

    def told(*settings):
        return practice_line(recipe(*settings), [setting.partition("=")[0] for setting in settings])

    plain = recipe()
    assert plain.optim.lr <= 1e-4
    assert told() == (
        "it learns with lr=0.00005, layer_decay=0.75: between the rates of BEiT and MAE for transformers, not measured "
        "here (--set lr=… --set layer_decay=… for others)"
    )
    assert rates(recipe("lr=0.01")) == (0.01, 0.75)
    for given in ("lr=0.01", "lr=0.00005"):  # another rate, and the same of one's own
        assert told(given).startswith("it learns with layer_decay=0.75: ")
        assert told(given, "layer_decay=0.75") is None
    assert told("epochs=0") is None
    for settings in (["freeze=trunk"], ["pretrained=false", "layer_decay=0.8"]):  # then no trunk goes on learning
        assert rates(recipe(*settings)) == (MEASURED.lr, MEASURED.layer_decay)
        assert told(*settings) is None
    random = recipe("pretrained=false")
    assert (random.optim.layer_decay, random.optim.freeze_norms, random.model.fit_heads) == (None, False, False)
    assert recipe("pretrained=false", "init=runs/mine").optim.lr == plain.optim.lr


def test_units_have_their_rate_where_they_learn(monkeypatch):
    """Beside a frozen trunk of a practice of its own, too; what the recipe has anyhow is not told as theirs."""
    monkeypatch.setattr(timm, "is_model_pretrained", lambda name: True)

    def recipe(*settings, trunk, **files):
        arguments = json.dumps({"trunk": trunk, "operator": "pointwise"})
        return finetune_recipe("unidual_trunk", **files, settings=[f"model_args={arguments}", *settings])

    for trunk in ("test_efficientnet", "test_convnext"):
        frozen = recipe("freeze=trunk", trunk=trunk, videos="b")
        assert rates(frozen) == (POINTWISE_UNITS.lr, POINTWISE_UNITS.layer_decay)
        assert practice_line(frozen, ["freeze"]) == (
            "it learns with lr=0.0001: at 0.001 point-wise units lose what they start with (--set lr=… for others)"
        )
        assert practice_line(recipe("lr=0.001", trunk=trunk, videos="b"), ["lr"]) is None
    assert rates(recipe(trunk="test_efficientnet", images="a")) == (MEASURED.lr, MEASURED.layer_decay)


def test_the_plan_says_whose_rates_they_are(media, tmp_path, monkeypatch):
    monkeypatch.setattr("unidual_zoo.training.trainer.train", lambda *args, **kwargs: {})
    options = ["--model", "timesformer_base", "--set", f"model_args={json.dumps(SMALL)}", "--out", str(tmp_path)]
    options += ["--epochs", "200"]  # fewer steps would have a rate of their own
    told = CliRunner().invoke(app, ["finetune", "--videos", str(media / "films"), *options]).stderr
    assert (
        "unidual: it learns with lr=0.00005, layer_decay=0.75: between the rates of BEiT and MAE for transformers"
        in told
    )
    options += ["--set", "rate=0.00005"]  # as lr was once called
    told = CliRunner().invoke(app, ["finetune", "--videos", str(media / "films"), *options]).stderr
    assert "unidual: it learns with layer_decay=0.75: between the rates of BEiT and MAE for transformers" in told


def test_a_saved_network_has_the_rates_of_its_trunk_and_the_heads_that_it_has(tmp_path):
    tasks = {"photos": ("image", 2), "clips": ("video", 2)}
    model = timm.create_model("unidual_trunk", trunk="test_vit", tasks=tasks, time_terms=2, num_frames=4)
    export(model, tmp_path)
    recipe = finetune_recipe(f"local-dir:{tmp_path}", images="a", videos="b")
    assert rates(recipe) == (TRANSFORMERS.lr, TRANSFORMERS.layer_decay)
    assert (recipe.model.pretrained, recipe.model.model_args) == (True, {})
    arguments = 'model_args={"trunk": "test_vit"}'
    of_any_size = [
        scalable_network(finetune_recipe(name, images="a", settings=settings))
        for name, settings in ((f"local-dir:{tmp_path}", ()), ("unidual_trunk", (arguments,)), ("unidual_trunk", ()))
    ]
    assert [network is not None for network in of_any_size] == [False, False, True]
