"""What every family must pass, over each of its registered names: subclass `FamilyTests` and say how to make it small.

    class TestTokenNet(FamilyTests):
        family, small = tokennet.FAMILY, SMALL

A test that asks for `name` runs over the names that are made small, for `dual` over those with both pathways, for
`joint` on the first of these, for `registered` over all names, for `row` over the table of checkpoints. What only the
family can know it adds itself: an independent implementation that gives the same outputs, or outputs that are kept.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import timm
import torch
from models.small import TASKS, close, make
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from unidual_zoo import for_inference
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.family import Family
from unidual_zoo.models.pathways import pathway_of
from unidual_zoo.models.saving import save
from unidual_zoo.models.summary import registered_names, summarise
from unidual_zoo.scoring import Route
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.training.optimizers import freeze, make_optimizer
from unidual_zoo.training.recipes import find_recipe
from unidual_zoo.weights import HEADS

THREE = TASKS | {"sports": ("video", 9)}
BOTH = ("image", "video")
HEAD_CHANGES = {
    "fresh": lambda model: None,
    "reset": lambda model: model.reset_classifier(4),
    "one task gone": lambda model: model.reset_classifier(0, task=next(iter(model.tasks))),
    "no heads": lambda model: model.reset_classifier(0),
    "no auxiliary": lambda model: model.drop_auxiliary_heads(),
    "auxiliary": lambda model: model.add_auxiliary_heads(),
}
REFUSED_CALLS = [
    (lambda m: m(torch.rand(2, 3, 32)), r"needs non-empty images \(B, 3, H, W\) or clips .* got \(2, 3, 32\)"),
    (lambda m: m(torch.rand(2, 4, 32, 32)), r"got \(2, 4, 32, 32\)"),
    (lambda m: m(torch.rand(2, 8, 3, 32, 32)), r"got \(2, 8, 3, 32, 32\)"),
    (lambda m: m(torch.rand(2, 3, 0, 32, 32)), r"non-empty .* got \(2, 3, 0, 32, 32\)"),
    (lambda m: m(torch.rand(0, 3, 32, 32)), r"non-empty"),
    (lambda m: m(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)), r"normalised torch.float32 .* got torch.uint8"),
    (lambda m: m(torch.rand(2, 3, 32, 32).double()), r"got torch.float64"),
    (lambda m: m(torch.rand(2, 3, 32, 32), modality="audio"), r"modality 'audio' here, allowed: image, video"),
    (lambda m: m(torch.rand(2, 3, 32, 32), task="k400"), r"'k400' has no head on the image pathway, allowed: in1k"),
    (lambda m: m(torch.rand(2, 3, 4, 32, 32), task="food"), r"no head on the video pathway, allowed: k400"),
    (lambda m: m.forward_intermediates(torch.rand(2, 3, 32, 32), output_fmt="NHWC"), r"output_fmt 'NHWC'"),
]
REFUSED_ARGUMENTS = [
    (dict(tasks={"a": ("sound", 3)}), "modality 'sound', allowed: image, video"),
    (dict(tasks=["a"]), r"tasks must be {name: \(modality, number of classes\)}, got \['a'\]"),
    (dict(tasks={"a": 3}), r"must be \(modality, number of classes\), got 3"),
    (dict(tasks={"a.b": ("image", 3)}), "without '.'"),
    (dict(tasks={"a": ("image", -1)}), "-1 classes"),
    (dict(tasks={"type": ("image", 3)}), "task name 'type' is taken"),
    (dict(pathways=()), "needs a pathway, allowed: image, video"),
    (dict(spec={"clip": {"frames": 3}}), r"unknown spec fields \['frames'\]"),
    (dict(heads={"image": ["food"]}), "'food', allowed: in1k, k400"),
    (dict(heads={"audio": []}), "no pathway in heads 'audio', allowed: image, video"),
    (dict(global_pool="max"), "no global_pool 'max', allowed: avg, ''"),
    (dict(global_pool=""), "needs num_classes=0"),
    (dict(features_only=True, modality="sound"), "'sound' is not a modality"),
    (dict(features_only=True, feature_cls="list"), "no feature_cls 'list', allowed: getter, hook"),
    (dict(features_only=True, feature_cls="hook", modality="video"), "use 'getter' on the video pathway"),
    (dict(modality="image"), "features_only=True"),
    (dict(num_frames=0), "length >= 1"),
]


class FamilyTests:
    """Tests of a family's registered names.

    `small` are constructor arguments with which any of its networks takes milliseconds, on images of `side` pixels and
    clips of `small["num_frames"]` such frames; with `shallow` besides, one that a compiler is done with soon. `options`
    are arguments of its own that a saved network must remember. `names` are those to be made small, by default all, and
    `rows` those of the checkpoints to be made as they are.
    """

    family: ClassVar[Family]
    names: ClassVar[Sequence[str]] = ()
    rows: ClassVar[Sequence[str]] = ()
    small: ClassVar[Mapping[str, Any]]
    side = 32
    shallow: ClassVar[Mapping[str, Any]] = {}
    options: ClassVar[Mapping[str, Any]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The names of the family for tests that ask for them."""
        registered = list(self.family.architectures)
        names = list(self.names) or registered
        dual = [name for name in names if tuple(self.family.architectures[name]["pathways"]) == BOTH]
        given = {"name": names, "dual": dual, "joint": dual[:1], "row": list(self.rows or self.family.checkpoints)}
        given["registered"] = registered
        none = pytest.param(None, marks=pytest.mark.skip("this family has none"))
        for asked in given.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(asked, given[asked] or [none])

    def make(self, name: str, **kwargs: Any) -> TaskModel:
        """The small network of that name, in evaluation mode."""
        return make(name, self.small, **kwargs)

    def images(self, batch: int = 2, chans: int = 3) -> Tensor:
        return torch.randn(batch, chans, self.side, self.side)

    def clips(self, batch: int = 2, chans: int = 3) -> Tensor:
        return torch.randn(batch, chans, self.small["num_frames"], self.side, self.side)

    def both(self, chans: int = 3) -> tuple[Tensor, Tensor]:
        return self.images(chans=chans), self.clips(chans=chans)

    # ---- what is registered -----------------------------------------------------------------------------------------

    def test_every_name_is_registered_and_listed(self):
        names = self.family.architectures
        module = self.family.model_class.__module__.rpartition(".")[2]
        assert sorted(timm.list_models(module=module)) == sorted(names)
        assert [name for name in registered_names() if name in names] == timm.list_models(module=module)

    def test_the_model_card_can_say_what_it_is(self):
        assert self.family.about
        assert "](http" in self.family.about, "it links to the paper"

    def test_default_cfg_names_what_is_there(self, registered):
        with torch.device("meta"):
            model = timm.create_model(registered)
        cfg, weights = model.default_cfg, model.state_dict()
        assert cfg["architecture"] == registered
        assert cfg["num_classes"] == model.num_classes
        assert cfg["classifier"] + ".weight" in weights
        assert cfg["first_conv"] + ".weight" in weights
        assert model.get_classifier() is model.get_submodule(cfg["classifier"])
        features = model.forward_features(torch.empty(1, *cfg["input_size"], device="meta"))
        maps = model.feature_maps(features, model.default_pathway(IMAGE))
        assert tuple(maps.shape[-2:]) == cfg["pool_size"]
        config = timm.data.resolve_model_data_config(model)
        spec = model.spec
        assert (config["input_size"], config["mean"], config["std"]) == ((3, *spec.crop), spec.mean, spec.std)

    def test_a_row_of_the_checkpoints(self, row):
        facts, name = self.family.checkpoints[row], row.rstrip("*")
        assert name.split(".")[0] in self.family.architectures
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.input_size == (3, *facts.spec.crop)
        assert facts.has_weights or facts.recipe
        assert facts.license or not facts.has_weights
        with torch.device("meta"):
            model = timm.create_model(name, **self.shallow)
        assert model.spec == facts.spec.for_tasks(model.tasks)
        assert cfg.num_classes == model.num_classes

    def test_unknown_tag_is_refused(self, joint):
        with pytest.raises(RuntimeError, match=f"{joint} has no tag 'nonsense', allowed: "):
            timm.create_model(f"{joint}.nonsense")

    def test_a_row_of_the_list_of_models(self, joint):
        (row,) = summarise([joint])
        assert [*row.multiply_adds] == [*BOTH]
        assert all(count > 0 for count in row.multiply_adds.values())
        with torch.device("meta"):
            model = timm.create_model(joint)
        assert row.parameters == sum(parameter.numel() for parameter in model.parameters())

    # ---- which pathway and head answer ------------------------------------------------------------------------------

    def test_rank_chooses_pathway_and_task(self, name):
        model = self.make(name, tasks=TASKS)
        for modality, task, x in ((IMAGE, "in1k", self.images()), (VIDEO, "k400", self.clips())):
            pathway = modality if modality in model.pathways else model.pathways[0]
            assert model(x).shape == (2, TASKS[task][1])
            close(model(x), model(x, modality=pathway, task=task))
        if len(model.pathways) == 1:
            assert model(self.images(), task="k400").shape == (2, 6)

    def test_a_single_task_answers_both_ranks(self, name):
        model = self.make(name, tasks={"one": ("image", 7)}, auxiliary=False)
        assert model(self.images()).shape == (2, 7)
        assert model(self.clips()).shape == (2, 7 if len(model.pathways) == 1 else model.head_hidden_size)

    def test_default_task_is_the_first_of_the_modality_with_a_head_there(self, joint):
        model = self.make(joint, tasks=THREE, heads={"image": ["k400"], "video": ["sports", "k400"]})
        assert model.pathway_tasks("video") == ("k400", "sports")
        assert model(self.clips()).shape == (2, 6)
        assert model(self.images()).shape == (2, 6)  # no image task has a head there: the first that has one
        assert model(self.images(), modality="video").shape == (2, 6)
        assert model(self.clips(), task="sports").shape == (2, 9)

    @pytest.mark.parametrize(("call", "message"), REFUSED_CALLS)
    def test_refused_input(self, joint, call, message):
        with pytest.raises(ValueError, match=message):
            call(self.make(joint, tasks=TASKS))

    def test_absent_pathway_is_refused(self, name):
        model = self.make(name)
        for absent in {*MODALITIES} - {*model.pathways}:
            with pytest.raises(ValueError, match=f"modality '{absent}' here, allowed: {model.pathways[0]}"):
                model(self.images(), modality=absent)

    @pytest.mark.parametrize(("kwargs", "message"), REFUSED_ARGUMENTS)
    def test_refused_arguments(self, joint, kwargs, message):
        with pytest.raises(ValueError, match=message):
            timm.create_model(joint, **{**self.small, **kwargs})

    # ---- what is computed -------------------------------------------------------------------------------------------

    def test_clip_on_the_image_pathway_is_the_head_on_its_mean_frame_features(self, dual):
        model, x = self.make(dual, auxiliary=True), self.clips(batch=3)
        features = model.forward_features(x.transpose(1, 2).flatten(0, 1), modality="image")
        frames = model.forward_head(features, pre_logits=True, modality="image").unflatten(0, (3, -1))
        close(model(x, modality="image"), model.heads["image"]["k400"](frames.mean(1)))

    def test_image_is_inflated_on_the_video_pathway(self, name):
        model, x = self.make(name, auxiliary=True), self.images()
        clip = x[:, :, None].expand(-1, -1, model.image_frames, -1, -1)
        for pathway in model.pathways:  # on the image pathway averaging equal frames changes nothing in evaluation
            close(model(x, modality=pathway), model(clip, modality=pathway, task=model.default_task(IMAGE, pathway)))

    def test_examples_do_not_see_each_other(self, name):
        model = self.make(name)
        for x in (self.images(batch=3), self.clips(batch=3)):
            close(model(x)[1:2], model(x[1:2]))

    def test_seed_makes_the_same_network(self, joint):
        torch.manual_seed(3)
        first = self.make(joint)
        torch.manual_seed(3)
        for a, b in zip(first.parameters(), self.make(joint).parameters(), strict=True):
            assert torch.equal(a, b)

    def test_autocast_takes_float_input(self, joint):
        model = self.make(joint, tasks=TASKS)
        with torch.autocast("cpu", torch.bfloat16):
            assert model(self.images()).dtype == torch.bfloat16
            assert model(self.images().bfloat16()).shape == (2, 7)
            with pytest.raises(ValueError, match=r"torch.uint8"):
                model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_it_is_made_in_the_type_that_is_asked_for(self, joint, dtype):
        model = self.make(joint, dtype=dtype)
        assert model.dtype == dtype
        assert {weight.dtype for weight in model.parameters()} == {dtype}
        assert model(self.clips().to(dtype)).dtype == dtype

    # ---- heads come and go ------------------------------------------------------------------------------------------

    def test_which_heads_there_are(self, joint):
        model = self.make(joint, tasks=THREE)
        assert {pathway: model.pathway_tasks(pathway) for pathway in BOTH} == {
            "image": ("in1k",),
            "video": ("k400", "sports"),
        }
        model = self.make(joint, tasks=THREE, auxiliary=True)
        assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("in1k", "k400", "sports")

    def test_dropping_auxiliary_heads_leaves_no_pathway_without_one(self, joint):
        model, (x, y) = self.make(joint, tasks=TASKS, auxiliary=True), self.both()
        before = model(x), model(y)
        model.drop_auxiliary_heads()
        assert (model.pathway_tasks("image"), model.pathway_tasks("video")) == (("in1k",), ("k400",))
        close(model(x), before[0], 0)
        close(model(y), before[1], 0)
        warm = self.make(joint, tasks={"k400": ("video", 6)}, heads={"image": ["k400"], "video": ["k400"]})
        warm.drop_auxiliary_heads()
        assert (warm.pathway_tasks("image"), warm.pathway_tasks("video")) == (("k400",), ("k400",))
        headless = self.make(joint, tasks=TASKS, auxiliary=True)
        headless.reset_classifier(0, task="in1k")
        headless.drop_auxiliary_heads()
        assert headless.pathway_tasks("image") == ("k400",)

    def test_tasks_on_the_other_modalitys_pathway_are_none_that_only_training_needs(self, name):
        model = self.make(name, tasks=TASKS)
        model.drop_auxiliary_heads()
        assert {task for pathway in model.pathways for task in model.pathway_tasks(pathway)} == {"in1k", "k400"}

    def test_adding_auxiliary_heads_keeps_the_others(self, joint):
        model, (x, y) = self.make(joint, tasks=TASKS), self.both()
        before = model(x), model(y)
        model.add_auxiliary_heads()
        assert model.auxiliary
        assert model.pathway_tasks("image") == ("in1k", "k400")
        close(model(x), before[0], 0)
        close(model(y), before[1], 0)
        assert model(y, modality="image", task="k400").shape == (2, 6)

    def test_reset_classifier(self, joint):
        model, (x, y) = self.make(joint, tasks=THREE, auxiliary=True), self.both()
        model.reset_classifier(4)
        assert (model.num_classes, model(x).shape, model(y).shape) == (4, (2, 4), (2, 6))
        assert model(y, modality="image", task="in1k").shape == (2, 4)
        model.reset_classifier(3, task="sports")
        assert model(y, task="sports").shape == (2, 3)
        model.reset_classifier(0, task="k400")
        assert model(y).shape == (2, 3)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model(x).shape == model(y).shape == (2, model.num_features)
        model.reset_classifier(5)
        assert model(x).shape == model(y).shape == (2, 5)
        with pytest.raises(ValueError, match=r"no task 'food', allowed: in1k, k400, sports"):
            model.reset_classifier(3, task="food")

    def test_reset_classifier_and_pooling(self, joint):
        model, x = self.make(joint), self.images()
        for refused, heads in [((5, ""), "in1k, k400"), ((0, ""), "k400")]:
            with pytest.raises(ValueError, match=f"needs num_classes=0, got heads of {heads}"):
                model.reset_classifier(*refused, task="in1k")
        assert model(x).shape == (2, 1000), "a refused call changes nothing"
        model.reset_classifier(0, "")
        assert model(x).shape == model.forward_features(x).shape
        model.reset_classifier(5)
        assert (model.global_pool, model(x).shape) == ("avg", (2, 5))

    def test_num_video_classes(self, joint):
        model = self.make(joint, num_classes=3, num_video_classes=4)
        assert (model(self.images()).shape, model(self.clips()).shape) == ((2, 3), (2, 4))
        with pytest.raises(ValueError, match=r"num_video_classes=4 needs a video task, got \['in1k'\]"):
            self.make(joint, tasks={"in1k": ("image", 7)}, num_video_classes=4)

    def test_explicit_num_classes_goes_over_tasks(self, name):
        model = self.make(name, tasks=TASKS, num_classes=3)
        assert (model.num_classes, model(self.images()).shape) == (3, (2, 3))
        assert self.make(name, num_classes=3).get_classifier().out_features == 3

    def test_a_copy_is_independent(self, name):
        model = self.make(name)
        other = copy.deepcopy(model)
        other.reset_classifier(3)
        assert model.num_classes != 3

    # ---- timm's conventions -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kwargs", [dict(num_classes=5), dict(in_chans=1), dict(num_classes=5, in_chans=4)])
    def test_sizes_of_input_and_output(self, name, kwargs):
        model = self.make(name, **kwargs)
        for x in self.both(chans=kwargs.get("in_chans", 3)):
            assert model(x).shape[0] == 2
        assert model.num_classes == kwargs.get("num_classes", model.num_classes)
        assert model.in_chans == kwargs.get("in_chans", 3)

    def test_features_without_heads(self, name):
        model = self.make(name)
        for x in self.both():
            features = model.forward_features(x)
            maps = model.feature_maps(features, model.default_pathway(IMAGE if x.ndim == 4 else VIDEO))
            assert maps.shape[:2] == (2, model.num_features)
            assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
        model.reset_classifier(0)
        none = self.make(name, num_classes=0)
        for x in self.both():
            assert model(x).shape == none(x).shape == (2, model.head_hidden_size)
        model.reset_classifier(0, "")
        none = self.make(name, num_classes=0, global_pool="")
        for x in self.both():
            assert model(x).shape == none(x).shape == model.forward_features(x).shape
        assert none.num_classes == 0
        assert not any(key.startswith(HEADS) for key in none.state_dict())

    def test_intermediates_of_both_modalities(self, name):
        model = self.make(name)
        middle = len(model.feature_info) // 2
        for x in self.both():
            final, taken = model.forward_intermediates(x)
            close(final, model.forward_features(x), 0)
            if model.fully_convolutional and final.shape == taken[-1].shape:  # nothing lies behind the last one
                close(taken[-1], final, 0)
            assert len(taken) == len(model.feature_info)
            for info, feature in zip(model.feature_info, taken, strict=True):
                assert feature.shape[1] == info["num_chs"]
                assert feature.shape[-1] == -(-self.side // info["reduction"])
                assert feature.ndim == (4 if x.ndim == 4 and "image" in model.pathways else 5)
            early = model.forward_intermediates(x, indices=[0, middle], stop_early=True, intermediates_only=True)
            close(early[0], taken[0], 0)
            close(early[1], taken[middle], 0)
        reductions = [info["reduction"] for info in model.feature_info]
        assert reductions == sorted(reductions)

    def test_features_only(self, name):
        model = self.make(name)
        indices = tuple(sorted({1, len(model.feature_info) - 2}))
        pathway = model.pathways[-1]
        asked = dict(modality=pathway) if len(model.pathways) > 1 else {}
        extractor = self.make(name, features_only=True, out_indices=indices, **asked)
        assert extractor.feature_info.channels() == [model.feature_info[i]["num_chs"] for i in indices]
        features = extractor(self.clips())
        assert [feature.shape[1] for feature in features] == extractor.feature_info.channels()
        assert {pathway_of(key) for key in extractor.state_dict()} <= {None, pathway}

    def test_features_only_with_weights(self, joint, tmp_path):
        model, x = self.make(joint, tasks=TASKS), self.images()
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        extractor = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, modality="image")
        taken = model.forward_intermediates(x, modality="image", intermediates_only=True)
        for ours, theirs in zip(extractor.eval()(x), taken, strict=True):
            close(ours, theirs, 1e-6)

    def test_a_pruned_network_is_a_smaller_one(self, name, tmp_path):
        model, x = self.make(name), self.images()
        last = len(model.feature_info) // 2
        before = sum(weight.numel() for weight in model.parameters())
        (expected,) = model.forward_intermediates(x, [last], intermediates_only=True)
        model.prune_intermediate_layers([last])
        close(model.forward_intermediates(x, [last], intermediates_only=True)[0], expected)
        assert sum(weight.numel() for weight in model.parameters()) < before
        model.reset_classifier(3)
        assert model(x).shape == (2, 3)
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))

    def test_every_parameter_gets_a_gradient(self, name):
        model = self.make(name, tasks=TASKS).train()
        losses = []
        for pathway in model.pathways:
            features = model.forward_features(self.clips(), modality=pathway)
            pooled = model.forward_head(features, True, modality=pathway)
            losses += [head(pooled).square().mean() for head in model.heads[pathway].values()]
        sum(losses).backward()
        assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    def test_gradient_checkpointing_changes_nothing(self, name):
        plain, checkpointed = (self.make(name, tasks=TASKS).train() for _ in range(2))
        checkpointed.load_state_dict(plain.state_dict())
        checkpointed.set_grad_checkpointing()
        for x in self.both():
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

    def test_checkpointing_keeps_less(self, dual):
        model, kept = self.make(dual).train(), []
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            kept.append(_saved_bytes(model, self.clips()))
        assert kept[1] < kept[0] / 2

    @pytest.mark.parametrize("prepare", [lambda model: model, for_inference])
    def test_data_parallel(self, joint, prepare):
        model = prepare(self.make(joint))
        replica = _as_data_parallel(model)
        for x in self.both():
            close(replica(x), model(x), 0)

    def test_layer_groups_cover_all_parameters_in_order(self, name):
        model = self.make(name)
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for p in model.parameters())
        scales = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
        by_name = {key: scales[id(weight)] for key, weight in model.named_parameters()}
        assert by_name[f"{model.default_cfg['first_conv']}.weight"] == min(by_name.values())
        assert {scale for key, scale in by_name.items() if key.startswith(HEADS)} == {1}
        assert max(scale for key, scale in by_name.items() if not key.startswith(HEADS)) < 1

    def test_weights_that_must_not_decay_do_not(self, joint):
        model = self.make(joint)
        weights = dict(model.named_parameters())
        exempt = model.no_weight_decay()
        assert exempt <= weights.keys()
        optimizer = make_optimizer(model, find_recipe("mini").optim, world=1)
        decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
        assert {decay[id(weights[key])] for key in exempt} <= {0}
        assert decay[id(weights[f"{model.default_cfg['first_conv']}.weight"])] > 0

    def test_layers_freeze_from_the_input_on(self, joint):
        model = self.make(joint)
        frozen = freeze(model, 1)
        assert f"{model.default_cfg['first_conv']}.weight" in frozen
        assert not any(key.startswith(HEADS) for key in frozen)
        assert len(freeze(self.make(joint), 2)) > len(frozen)

    def test_a_frozen_trunk_stays_as_it_is(self, joint):
        model = self.make(joint, tasks=TASKS)
        freeze(model, "trunk")
        model.train()
        assert model.head_drop.training
        still = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
        before = {key: value.clone() for key, value in model.state_dict().items()}
        assert still
        assert not any(name.startswith(HEADS) for name in still)
        for pathway in filter(model.is_settled, model.pathways):
            x = self.both()[0]
            settled, again = (model.forward_settled(x, pathway) for _ in range(2))
            assert not settled.requires_grad
            assert torch.equal(settled, again)
            pooled = model.forward_head(model.forward_features(x, modality=pathway), pre_logits=True, modality=pathway)
            close(model.pool_settled(settled, pathway), pooled, 0)
        sum(model(x).square().mean() for x in self.both()).backward()
        assert all(weight.grad is None for weight in still.values())
        held = [name for name, module in model.named_modules() if any(module is part for part in model.trunk_modules())]
        after = model.state_dict()
        assert all(torch.equal(after[key], before[key]) for key in after if key.startswith(tuple(held)))

    # ---- saved and loaded -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("change", HEAD_CHANGES)
    def test_save_and_reload_is_equal(self, name, change, tmp_path):
        model = self.make(name, tasks=TASKS)
        HEAD_CHANGES[change](model)
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert again.state_dict().keys() == model.state_dict().keys()
        assert (again.tasks, again.spec, again._model_args) == (model.tasks, model.spec, model._model_args)
        for x in self.both():
            close(again(x), model(x), 0)

    def test_reload_with_other_tasks_and_classes(self, joint, tmp_path):
        model, (x, y) = self.make(joint, tasks=TASKS, auxiliary=True, **self.options), self.both()
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        folder = f"local-dir:{tmp_path}"
        with pytest.warns(UserWarning, match=r"no weights for heads.image.in1k, heads.video.in1k in the checkpoint"):
            five = timm.create_model(folder, pretrained=True, num_classes=5).eval()
        assert five._model_args.items() >= self.options.items()
        assert (five(x).shape, five(y).shape) == ((2, 5), (2, 6))
        close(five(y), model(y), 0)
        with pytest.warns(UserWarning, match=r"heads.video.food"):
            food = timm.create_model(folder, pretrained=True, tasks={"food": ("video", 3)})
        assert food.tasks.keys() == {"food"}
        assert food.num_classes == 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            none = timm.create_model(folder, pretrained=True, num_classes=0).eval()
        close(none(x), model.forward_head(model.forward_features(x), pre_logits=True), 0)
        grey = timm.create_model(folder, pretrained=True, in_chans=1).eval()
        close(grey(x := self.images(chans=1)), model(x.expand(-1, 3, -1, -1)), 1e-5)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["model_args"]["tasks"] == {"in1k": ["image", 7], "k400": ["video", 6]}

    def test_reload_survives_changes_of_the_clip_and_the_class_names(self, joint, tmp_path):
        names = {"in1k": tuple("abcdefg"), "k400": tuple("uvwxyz")}
        spec = InputSpec(resize=40, crop=(self.side, self.side), classes=names)
        model = self.make(joint, tasks=TASKS, num_frames=5, spec=spec)
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
        assert again.num_frames == again.spec.clip.length == 5
        assert again.spec.class_names("in1k") == tuple("abcdefg")
        again.reset_classifier(7)  # other classes now, although as many
        assert again.spec.class_names("in1k") is None
        assert again.spec.class_names("k400") == tuple("uvwxyz")

    def test_other_clips_than_the_weights_were_trained_on(self, name, tmp_path):
        model = self.make(name, tasks=TASKS)
        save_for_hf(model, str(tmp_path), safe_serialization=True)
        longer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_frames=2 * model.num_frames).eval()
        assert longer.num_frames == 2 * model.num_frames
        assert longer(self.clips().repeat(1, 1, 2, 1, 1)).shape == (2, 6)

    @pytest.mark.parametrize("pathway", MODALITIES)
    def test_a_pathway_starts_from_the_weights_of_both(self, joint, pathway):
        model = self.make(joint, tasks=TASKS)
        alone = self.make(joint, tasks=TASKS, pathways=[pathway], heads={pathway: model.pathway_tasks(pathway)})
        alone.load_state_dict(alone.adopt(model.state_dict()))
        x = self.images() if pathway == IMAGE else self.clips()
        close(alone(x), model(x), 1e-6)

    def test_a_kept_pathway_is_saved_and_made_alone(self, joint, tmp_path):
        shared = {"norms": "shared"} if "norms" in inspect.signature(self.family.model_class).parameters else {}
        model, x = self.make(joint, tasks=TASKS, **shared), self.clips()
        expected = model(x)
        model.keep_pathway("video")
        save(model, tmp_path)
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert (again.pathways, again.state_dict().keys()) == (("video",), model.state_dict().keys())
        close(again(x), expected, 1e-6)

    def test_features_of_the_pathways_that_are_asked_for(self, joint):
        extractor = self.make(joint, pathways=["video"], features_only=True)
        assert extractor(self.clips())[0].ndim == 5
        with pytest.raises(ValueError, match="modality 'image' is none of them"):
            self.make(joint, pathways=["video"], features_only=True, modality="image")

    def test_spoiled_checkpoints_are_refused(self, joint):
        weights = self.make(joint, tasks=TASKS).state_dict()
        (first, value), (other, right), *_ = (
            (key, value) for key, value in weights.items() if not key.startswith(HEADS) and value.numel() > 1
        )
        spoiled = torch.zeros(*right.shape, 3)
        cases = {
            rf"does not fit {self.family.model_class.__name__}: missing: {re.escape(first)}": {first: None},
            r"unknown: stem\.speedy": {"stem.speedy": value},
            rf"of another shape: {re.escape(other)} {re.escape(f'{tuple(spoiled.shape)} for {tuple(right.shape)}')}": {
                other: spoiled
            },
            r"and \d+ more": dict.fromkeys(set(weights) - {first}),
        }
        for message, changes in cases.items():
            state = {key: value for key, value in {**weights, **changes}.items() if value is not None}
            overlay = dict(state_dict=state)
            with pytest.raises(RuntimeError, match=message):
                self.make(joint, tasks=TASKS, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)

    # ---- served -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def test_a_served_copy_gives_the_same_outputs(self, name):
        model = self.make(name, tasks=TASKS)
        served = for_inference(model)
        again = for_inference(served, modality=model.pathways[-1])
        assert again.pathways == model.pathways[-1:]
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in served.modules())
        for x in self.both():
            for pathway in model.pathways:
                expected = model(x, modality=pathway)
                close(served(x, modality=pathway), expected)
            close(again(x), expected)

    @torch.inference_mode()
    def test_a_served_copys_intermediates_are_the_models(self, name):
        model, x = self.make(name), self.clips()
        served = for_inference(model)
        for pathway in model.pathways:
            expected = model.forward_intermediates(x, modality=pathway)
            got = served.forward_intermediates(x, modality=pathway)
            for a, b in zip([got[0], *got[1]], [expected[0], *expected[1]], strict=True):
                close(a, b)
            close(served.forward_head(got[0], modality=pathway), model(x, modality=pathway))

    @torch.inference_mode()
    def test_a_served_copy_in_another_type_is_near(self, name):
        model, x = self.make(name), self.clips()
        with torch.autocast("cpu", torch.bfloat16):
            logits = for_inference(model)(x)
        assert logits.dtype == torch.bfloat16
        close(logits.float(), model(x), 0.05)
        cast = for_inference(model, dtype=torch.bfloat16)
        close(cast(x.bfloat16()).float(), model(x), 0.05)
        cast.reset_classifier(5)
        assert cast.get_classifier().weight.dtype == torch.bfloat16
        assert cast(self.images().bfloat16() if len(model.tasks) > 1 else x.bfloat16()).shape == (2, 5)

    def test_gradients_reach_the_input_of_a_served_copy(self, joint):
        model, x = self.make(joint), self.clips().requires_grad_()
        expected = torch.autograd.grad(model(x).square().sum(), x)[0]
        close(torch.autograd.grad(for_inference(model)(x).square().sum(), x)[0], expected, 1e-4)

    def test_dense_scores_come_of_maps_alone(self, joint):
        model = self.make(joint, tasks=TASKS)
        if model.fully_convolutional:
            assert model.forward_features(self.clips()).ndim == 5
            Route(model, VIDEO, protocol="unidual152")
            return
        Route(model, IMAGE, protocol="unidual152")  # an image is scored as ever
        with pytest.raises(ValueError, match=r"'unidual152' runs a network fully convolutionally, which .* cannot"):
            Route(model, VIDEO, protocol="unidual152")

    @pytest.mark.parametrize(("pathway", "kind"), [(IMAGE, "training"), (VIDEO, "served")])
    def test_compiles_without_graph_breaks_for_any_batch(self, joint, kind, pathway):
        torch._dynamo.reset()
        model = self.make(joint, **self.shallow).train(kind == "training")
        model = for_inference(model) if kind == "served" else model
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(model, fullgraph=True, backend=backend)
        for batch in (2, 3):
            x = self.images(batch) if pathway == IMAGE else self.clips(batch)
            torch._dynamo.mark_dynamic(x, 0)
            with torch.set_grad_enabled(kind == "training"):
                assert compiled(x, modality=pathway).shape[0] == batch
        assert len(graphs) == 1
        torch._dynamo.reset()


def _saved_bytes(model: nn.Module, x: Tensor) -> int:
    """What autograd keeps for the backward pass, without the weights."""
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x)
    return sum(size for place, size in saved.items() if place not in weights)


def _as_data_parallel(module: nn.Module) -> nn.Module:
    """A replica as torch.nn.DataParallel makes it, whose weights are attributes and no parameters."""
    replica = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        replica._modules[name] = _as_data_parallel(child)
    for name, weight in module._parameters.items():
        setattr(replica, name, weight if weight is None else weight.detach())
    return replica
