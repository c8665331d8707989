"""timm's conventions over every registered name: its own checklist, with both modalities."""

import copy
import json
import warnings

import pytest
import timm
import torch
from models.small import DUAL, NAMES, TASKS, clips, close, images, small
from timm.models._hub import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import nn

from unidual_zoo.models.folding import for_inference
from unidual_zoo.models.unidual import ARCHITECTURES, CHECKPOINTS
from unidual_zoo.spec import InputSpec

EXPECTED = [
    "r2d34", "r2d152", "r2plus1d18", "r2plus1d34",
    "r2plus1d152", "r2d34_multitask", "r2d34_lstm_multitask", "r2plus1d34_multitask",
    "unidual34", "unidual34_aux", "unidual152", "unidual152_aux",
    "unidual10", "unidual10_aux", "r2d10", "r2plus1d10",
    "r2d10_multitask", "r2d10_lstm_multitask", "r2plus1d10_multitask",
]  # fmt: skip


def inputs(model: nn.Module) -> list[torch.Tensor]:
    return [images(), clips()]


def test_every_name_is_registered():
    assert sorted(NAMES) == sorted(EXPECTED) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    model = small(name, tasks=TASKS).train()
    losses = []
    for pathway in model.pathways:
        pooled = model.forward_head(model.forward_features(clips(), modality=pathway), True, modality=pathway)
        losses += [head(pooled).square().mean() for head in model.heads[pathway].values()]
    sum(losses).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NAMES)
def test_default_cfg_names_what_is_there(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    cfg, weights = model.default_cfg, model.state_dict()
    assert cfg["architecture"] == name
    assert cfg["num_classes"] == model.num_classes
    assert cfg["classifier"] + ".weight" in weights
    assert cfg["first_conv"] + ".weight" in weights
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    x = torch.empty(1, *cfg["input_size"], device="meta")
    assert tuple(model.forward_features(x).shape[-2:]) == cfg["pool_size"]
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["mean"], config["std"]) == ((3, *model.spec.crop), *stats(model.spec))


def stats(spec: InputSpec) -> tuple:
    return spec.mean, spec.std


@pytest.mark.parametrize("name", NAMES)
def test_features_without_heads(name):
    model = small(name)
    for x in inputs(model):
        features = model.forward_features(x)
        assert features.shape[:2] == (2, model.num_features)
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(0)
    none = small(name, num_classes=0)
    for x in inputs(model):
        assert model(x).shape == none(x).shape == (2, model.head_hidden_size)
    model.reset_classifier(0, "")
    none = small(name, num_classes=0, global_pool="")
    for x in inputs(model):
        assert model(x).shape == none(x).shape == model.forward_features(x).shape
    assert none.num_classes == 0
    assert not any(key.startswith("heads") for key in none.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kwargs", [dict(num_classes=5), dict(in_chans=1), dict(num_classes=5, in_chans=4)])
def test_sizes_of_input_and_output(name, kwargs):
    model = small(name, **kwargs)
    for x in (images(chans=kwargs.get("in_chans", 3)), clips(chans=kwargs.get("in_chans", 3))):
        assert model(x).shape[0] == 2
    assert model.num_classes == kwargs.get("num_classes", model.num_classes)
    assert model.in_chans == kwargs.get("in_chans", 3)


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_of_both_modalities(name):
    model = small(name)
    for x in inputs(model):
        final, taken = model.forward_intermediates(x)
        close(final, model.forward_features(x), 0)
        close(taken[-1], final, 0)
        assert len(taken) == len(model.feature_info) == 5
        for info, feature in zip(model.feature_info, taken, strict=True):
            assert feature.shape[1] == info["num_chs"]
            assert feature.shape[-1] == -(-32 // info["reduction"])
            assert feature.ndim == (4 if x.ndim == 4 and "image" in model.pathways else 5)
        early = model.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
        close(early[0], taken[0], 0)
        close(early[1], taken[2], 0)
    assert [info["reduction"] for info in model.feature_info] == sorted(
        info["reduction"] for info in model.feature_info
    )


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name):
    modality = dict(modality="video") if name in DUAL else {}
    model = small(name)
    extractor = small(name, features_only=True, out_indices=(1, 3), **modality)
    assert extractor.feature_info.channels() == [model.feature_info[i]["num_chs"] for i in (1, 3)]
    features = extractor(clips(frames=4))
    assert [feature.shape[1] for feature in features] == extractor.feature_info.channels()
    assert not any("image" in key for key in extractor.state_dict()) or name not in DUAL


def test_features_only_with_weights(tmp_path):
    model = small("unidual10_aux", tasks=TASKS)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    extractor = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, modality="image")
    x = images()
    taken = model.forward_intermediates(x, modality="image", intermediates_only=True)
    for ours, theirs in zip(extractor.eval()(x), taken, strict=True):
        close(ours, theirs, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(name):
    plain, checkpointed = small(name, tasks=TASKS).train(), small(name, tasks=TASKS).train()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.set_grad_checkpointing()
    for x in inputs(plain):
        out, again = plain(x), checkpointed(x)
        close(again, out, 1e-6)
        out.square().mean().backward()
        again.square().mean().backward()
    for (key, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, msg=key)
    for (key, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)  # a batch is counted once


@pytest.mark.parametrize("how", ["synchronised", "compiled"])
def test_recomputing_counts_a_batch_once(how):
    plain = small("unidual10").train()
    model = copy.deepcopy(plain)
    if how == "synchronised":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.set_grad_checkpointing()
    call = torch.compile(model, backend="aot_eager", fullgraph=True) if how == "compiled" else model
    call(x := clips()).sum().backward()
    plain(x).sum().backward()
    close(model.stem.spatial.weight.grad, plain.stem.spatial.weight.grad)
    for (key, a), b in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


def as_data_parallel(module):
    """A replica as torch.nn.DataParallel makes it, whose weights are attributes and no parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        replica._modules[name] = as_data_parallel(child)
    for name, weight in module._parameters.items():
        setattr(replica, name, weight if weight is None else weight.detach())
    return replica


@pytest.mark.parametrize("prepare", [lambda model: model, for_inference])
def test_data_parallel(prepare):
    model = prepare(small("unidual10"))
    replica = as_data_parallel(model)
    for x in (images(), clips()):
        close(replica(x), model(x), 0)


@pytest.mark.parametrize("name", NAMES)
def test_layer_groups_cover_all_parameters_in_order(name):
    model = small(name)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
    scales = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scales[id(model.stem.spatial.weight)] == min(scales.values())
    assert scales[id(model.get_classifier().weight)] == max(scales.values()) == 1
    assert scales[id(model.stages[0][0].conv2.norm[model.pathways[0]].weight)] < 1
    assert model.no_weight_decay() == set()


@pytest.mark.parametrize("name", NAMES)
def test_save_and_reload_is_equal(name, tmp_path):
    changes = {
        "fresh": lambda m: None,
        "reset": lambda m: m.reset_classifier(4),
        "one task gone": lambda m: m.reset_classifier(0, task=next(iter(m.tasks))),
        "no heads": lambda m: m.reset_classifier(0),
        "no auxiliary": lambda m: m.drop_auxiliary_heads(),
        "auxiliary": lambda m: m.add_auxiliary_heads(),
    }
    for number, (what, change) in enumerate(changes.items()):
        model = small(name, tasks=TASKS)
        change(model)
        folder = tmp_path / str(number)
        save_for_hf(model, str(folder), safe_serialization=True)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert again.state_dict().keys() == model.state_dict().keys(), what
        assert (again.tasks, again.spec, again._model_args) == (model.tasks, model.spec, model._model_args), what
        for x in inputs(model):
            close(again(x), model(x), 0)


def test_reload_with_other_tasks_and_classes(tmp_path):
    model = small("unidual10_aux", tasks=TASKS, pool=True, norms="shared")
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    folder = f"local-dir:{tmp_path}"
    with pytest.warns(UserWarning, match=r"no weights for heads.image.in1k, heads.video.in1k in the checkpoint"):
        five = timm.create_model(folder, pretrained=True, num_classes=5).eval()
    assert five.pool is not None
    assert (five(images()).shape, five(clips()).shape) == ((2, 5), (2, 6))
    close(five(x := clips()), model(x), 0)
    with pytest.warns(UserWarning, match=r"heads.video.food"):
        food = timm.create_model(folder, pretrained=True, tasks={"food": ("video", 3)})
    assert food.tasks.keys() == {"food"}
    assert food.num_classes == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        none = timm.create_model(folder, pretrained=True, num_classes=0).eval()
    close(none(x := images()), model.forward_head(model.forward_features(x), pre_logits=True), 0)
    grey = timm.create_model(folder, pretrained=True, in_chans=1).eval()
    close(grey(x := images(chans=1)), model(x.expand(-1, 3, -1, -1)), 1e-5)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_args"]["tasks"] == {"in1k": ["image", 7], "k400": ["video", 6]}


def test_reload_survives_changes_of_the_clip_and_the_class_names(tmp_path):
    names = {"in1k": tuple("abcdefg"), "k400": tuple("uvwxyz")}
    model = small("unidual10", tasks=TASKS, num_frames=5, spec=InputSpec(resize=40, crop=(32, 32), classes=names))
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert again.num_frames == again.spec.clip.length == 5
    assert again.spec.class_names("in1k") == tuple("abcdefg")
    again.reset_classifier(7)  # other classes now, although as many
    assert again.spec.class_names("in1k") is None
    assert again.spec.class_names("k400") == tuple("uvwxyz")


def test_spoiled_checkpoints_are_refused(tmp_path):
    model = small("unidual10", tasks=TASKS)
    weights = model.state_dict()
    stem = weights.pop("stem.spatial.weight")
    shape = dict(width=1 / 16, num_frames=4, tasks=TASKS)

    def load(state):
        overlay = dict(state_dict=state)
        return timm.create_model("unidual10", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, **shape)

    with pytest.raises(RuntimeError, match=r"does not fit UniDual: missing: stem.spatial.weight"):
        load(dict(weights))
    with pytest.raises(RuntimeError, match=r"unknown: stem.speedy"):
        load({**weights, "stem.spatial.weight": stem, "stem.speedy": stem})
    with pytest.raises(RuntimeError, match=r"of another shape: stem.norm.image.bias \(3,\) for \(4,\)"):
        load({**weights, "stem.spatial.weight": stem, "stem.norm.image.bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match=r"and \d+ more"):
        load({"stem.spatial.weight": stem})


def test_checkpoint_rows():
    for name, row in CHECKPOINTS.items():
        variant, tag = name.rstrip("*").split(".")
        assert variant in ARCHITECTURES
        cfg = timm.get_pretrained_cfg(f"{variant}.{tag}")
        assert cfg.input_size == (3, *row.spec.crop)
        assert row.has_weights or row.recipe, name
        assert row.license or not row.has_weights, name
        with torch.device("meta"):
            model = timm.create_model(f"{variant}.{tag}")
        assert model.spec == row.spec.for_tasks(model.tasks)
        assert cfg.num_classes == model.num_classes


def test_unknown_tag_is_refused():
    with pytest.raises(RuntimeError, match="r2plus1d18 has no tag 'nonsense', allowed: tv_k400"):
        timm.create_model("r2plus1d18.nonsense")


def test_seed_makes_the_same_network():
    torch.manual_seed(3)
    first = small("unidual10")
    torch.manual_seed(3)
    for a, b in zip(first.parameters(), small("unidual10").parameters(), strict=True):
        assert torch.equal(a, b)
