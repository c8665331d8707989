"""`forward(x, modality, task)`: which pathway and head answer, and what is refused."""

import copy

import pytest
import timm
import torch
from models.small import DUAL, NAMES, TASKS, clips, close, images, small
from timm.models import save_for_hf

THREE = TASKS | {"sports": ("video", 9)}


@pytest.mark.parametrize("name", DUAL)
def test_rank_chooses_pathway_and_task(name):
    model = small(name, tasks=TASKS)
    assert model(images()).shape == (2, 7)
    assert model(clips()).shape == (2, 6)
    close(model(x := images()), model(x, modality="image", task="in1k"))
    close(model(x := clips()), model(x, modality="video", task="k400"))


def test_single_pathway_models_take_both_ranks():
    r2d, r2plus1d = small("r2d34", num_classes=7), small("r2plus1d34", num_classes=6)
    assert r2d(clips()).shape == r2d(images()).shape == (2, 7)
    assert r2plus1d(clips()).shape == r2plus1d(images()).shape == (2, 6)


@pytest.mark.parametrize("name", ["r2d34_multitask", "r2plus1d34_multitask", "r2d34_lstm_multitask"])
def test_multitask_models_answer_by_the_inputs_modality(name):
    model = small(name, tasks=TASKS)
    assert model(images()).shape == (2, 7)
    assert model(clips()).shape == (2, 6)
    assert model(images(), task="k400").shape == (2, 6)


def test_default_task_is_the_first_of_the_modality_with_a_head_there():
    model = small("unidual10", tasks=THREE, heads={"image": ["k400"], "video": ["sports", "k400"]})
    assert model.pathway_tasks("video") == ("k400", "sports")
    assert model(clips()).shape == (2, 6)
    assert model(images()).shape == (2, 6)  # no image task has a head there: the first that has one
    assert model(images(), modality="video").shape == (2, 6)
    assert model(clips(), task="sports").shape == (2, 9)


def test_which_heads_there_are():
    assert {p: small("unidual10", tasks=THREE).pathway_tasks(p) for p in ("image", "video")} == {
        "image": ("in1k",),
        "video": ("k400", "sports"),
    }
    model = small("unidual10_aux", tasks=THREE)
    assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("in1k", "k400", "sports")


def test_dropping_auxiliary_heads_leaves_no_pathway_without_one():
    model = small("unidual10_aux", tasks=TASKS)
    x, y = images(), clips()
    before = model(x), model(y)
    model.drop_auxiliary_heads()
    assert (model.pathway_tasks("image"), model.pathway_tasks("video")) == (("in1k",), ("k400",))
    close(model(x), before[0], 0)
    close(model(y), before[1], 0)
    warm = small("unidual10", tasks={"k400": ("video", 6)}, heads={"image": ["k400"], "video": ["k400"]})
    warm.drop_auxiliary_heads()
    assert (warm.pathway_tasks("image"), warm.pathway_tasks("video")) == (("k400",), ("k400",))
    multitask = small("r2plus1d10_multitask", tasks=TASKS)
    multitask.drop_auxiliary_heads()
    assert multitask.pathway_tasks("video") == ("in1k", "k400")
    headless = small("unidual10_aux", tasks=TASKS)
    headless.reset_classifier(0, task="in1k")
    headless.drop_auxiliary_heads()
    assert headless.pathway_tasks("image") == ("k400",)


def test_adding_auxiliary_heads_keeps_the_others():
    model = small("unidual10", tasks=TASKS)
    x, y = images(), clips()
    before = model(x), model(y)
    model.add_auxiliary_heads()
    assert model.auxiliary
    assert model.pathway_tasks("image") == ("in1k", "k400")
    close(model(x), before[0], 0)
    close(model(y), before[1], 0)
    assert model(y, modality="image", task="k400").shape == (2, 6)


def test_reset_classifier():
    model = small("unidual10_aux", tasks=THREE)
    model.reset_classifier(4)
    assert (model.num_classes, model(images()).shape, model(clips()).shape) == (4, (2, 4), (2, 6))
    assert model(clips(), modality="image", task="in1k").shape == (2, 4)
    model.reset_classifier(3, task="sports")
    assert model(clips(), task="sports").shape == (2, 3)
    model.reset_classifier(0, task="k400")
    assert model(clips()).shape == (2, 3)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model(images()).shape == model(clips()).shape == (2, model.num_features)
    model.reset_classifier(5)
    assert model(images()).shape == model(clips()).shape == (2, 5)
    with pytest.raises(ValueError, match=r"no task 'food', allowed: in1k, k400, sports"):
        model.reset_classifier(3, task="food")


def test_reset_classifier_and_pooling():
    model = small("unidual10")
    for refused, heads in [((5, ""), "in1k, k400"), ((0, ""), "k400")]:
        with pytest.raises(ValueError, match=f"needs num_classes=0, got heads of {heads}"):
            model.reset_classifier(*refused, task="in1k")
    assert model(images()).shape == (2, 1000), "a refused call changes nothing"
    model.reset_classifier(0, "")
    assert model(images()).ndim == 4
    model.reset_classifier(5)
    assert (model.global_pool, model(images()).shape) == ("avg", (2, 5))


@pytest.mark.parametrize(("name", "last"), [("unidual10", 2), ("r2d10_lstm_multitask", 1), ("r2plus1d10", 0)])
def test_a_pruned_network_is_a_smaller_one(name, last, tmp_path):
    model = small(name)
    expected = model.forward_intermediates(x := images(), [last], intermediates_only=True)[0]
    model.prune_intermediate_layers([last])
    close(model.forward_features(x), expected)
    model.reset_classifier(3)
    assert model(images()).shape == (2, 3)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    close(again(x), model(x))


def test_num_video_classes():
    model = small("unidual10", num_classes=3, num_video_classes=4)
    assert (model(images()).shape, model(clips()).shape) == ((2, 3), (2, 4))
    with pytest.raises(ValueError, match=r"num_video_classes=4 needs a video task, got \['in1k'\]"):
        small("r2d10", num_video_classes=4)


def test_explicit_num_classes_goes_over_tasks():
    assert small("unidual10", tasks=TASKS, num_classes=3)(images()).shape == (2, 3)
    assert small("r2plus1d10", num_classes=3)(clips()).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
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
        (lambda m: m.forward_intermediates(images(), output_fmt="NHWC"), r"output_fmt 'NHWC'"),
    ],
)
def test_refused_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(small("unidual10", tasks=TASKS))


def test_absent_pathway_is_refused():
    with pytest.raises(ValueError, match="modality 'video' here, allowed: image"):
        small("r2d10")(images(), modality="video")


def test_autocast_takes_float_input():
    model = small("unidual10", tasks=TASKS)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images()).dtype == torch.bfloat16
        assert model(images().bfloat16()).shape == (2, 7)
        with pytest.raises(ValueError, match=r"torch.uint8"):
            model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(tasks={"a": ("sound", 3)}), "modality 'sound', allowed: image, video"),
        (dict(tasks=["a"]), r"tasks must be {name: \(modality, number of classes\)}, got \['a'\]"),
        (dict(tasks={"a": 3}), r"must be \(modality, number of classes\), got 3"),
        (dict(tasks={"a.b": ("image", 3)}), "without '.'"),
        (dict(tasks={"a": ("image", -1)}), "-1 classes"),
        (dict(tasks={"type": ("image", 3)}), "task name 'type' is taken"),
        (dict(pathways=()), "needs a pathway, allowed: image, video"),
        (dict(width=0.01), "width 0.01 leaves no channels"),
        (dict(spec={"clip": {"frames": 3}}), r"unknown spec.clip fields \['frames'\]"),
        (dict(norms="both"), "no norms 'both', allowed: split, shared"),
        (dict(heads={"image": ["food"]}), "'food', allowed: in1k, k400"),
        (dict(heads={"audio": []}), "no pathway in heads 'audio', allowed: image, video"),
        (dict(frame_pool="lstm"), r"needs pathways \('image',\) alone"),
        (dict(global_pool="max"), "no global_pool 'max', allowed: avg, ''"),
        (dict(global_pool=""), "needs num_classes=0"),
        (dict(features_only=True, modality="sound"), "'sound' is not a modality"),
        (dict(features_only=True, feature_cls="list"), "no feature_cls 'list', allowed: getter, hook"),
        (dict(features_only=True, feature_cls="hook", modality="video"), "use 'getter' on the video pathway"),
        (dict(modality="image"), "features_only=True"),
        (dict(num_frames=0), "length >= 1"),
    ],
)
def test_refused_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("unidual10", **kwargs)


def test_shared_norms_have_fewer_parameters_and_the_dual_convolutions_keep_their_own():
    split, shared = small("unidual10", norms="split"), small("unidual10", norms="shared")
    unit = shared.stages[1][0].conv1
    assert list(unit.spatial_norm) == ["shared"]
    assert list(unit.norm) == ["image", "video"]
    assert sum(p.numel() for p in shared.parameters()) < sum(p.numel() for p in split.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_independent(name):
    model = small(name)
    other = copy.deepcopy(model)
    other.reset_classifier(3)
    assert model.num_classes != 3
