"""The spec survives JSON and pickling, and refuses what cannot be."""

import dataclasses
import json
import math
import pickle

import pytest

from unidual_zoo.spec import ClipSpec, InputSpec, Task, packaged_classes, parse_tasks


def test_round_trip():
    spec = InputSpec(
        resize=64,
        crop=(48, 32),
        clip=ClipSpec(length=4, stride=2, rate=12.5),
        image_frames=1,
        classes={"a": ("x", "y")},
    )
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_sampling_of_clips_survives_and_is_dense_where_an_old_config_has_none():
    spec = InputSpec(clip=ClipSpec(sampling="segments"))
    plain = json.loads(json.dumps(spec.to_dict()))
    assert InputSpec.from_dict(plain) == spec
    del plain["clip"]["sampling"]
    assert InputSpec.from_dict(plain).clip == ClipSpec(sampling="dense") == ClipSpec()


def test_span_counts_first_and_last_frame():
    assert [ClipSpec(length=n, stride=s).span for n, s in [(1, 9), (8, 1), (16, 4)]] == [1, 8, 61]


def test_class_names():
    spec = InputSpec(classes={"k400": "kinetics400", "mine": ("a", "b")})
    assert spec.class_names("k400")[:2] == ("abseiling", "air drumming")
    assert (len(spec.class_names("k400")), spec.class_names("mine"), spec.class_names("other")) == (
        400,
        ("a", "b"),
        None,
    )
    kept = spec.for_tasks(parse_tasks({"k400": ("video", 400), "mine": ("image", 3)}))
    assert set(kept.classes) == {"k400"}
    assert packaged_classes("imagenet1k")[0] == "tench"
    assert len(set(packaged_classes("imagenet1k"))) == 1000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputSpec(resize=100, crop=(112, 112)), r"crop \(112, 112\) is larger than resize 100"),
        (lambda: InputSpec.from_dict({"size": 3}), r"unknown spec fields \['size'\], allowed"),
        (lambda: ClipSpec(stride=0), "stride >= 1"),
        (lambda: ClipSpec(rate=0.0), "positive rate"),
        (lambda: ClipSpec(sampling="segment"), "no sampling 'segment', allowed: dense, segments; did you mean"),
        (lambda: Task("a", "smell", 3), "modality 'smell', allowed: image, video"),
        (lambda: Task("a", "image", True), "True classes"),
        (lambda: packaged_classes("cats"), "no list of class names 'cats', allowed"),
        (lambda: packaged_classes("cifar1O"), "allowed: cifar10, .*; did you mean 'cifar10'?"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


WRONG = {  # a field of a spec as JSON may have it, and what is said of it
    "resize": [
        (0, "height of resize must be a whole number from 1 to 4,096, got 0"),
        (10**9, "got 1000000000"),
        (True, "resize must be|height of resize must be"),
        ("128", r"resize must be \(height, width\), got '128'"),
        ([128, 171, 3], r"resize must be \(height, width\)"),
        ([128, 171.5], "width of resize must be a whole number from 1 to 4,096, got 171.5"),
        ({}, r"resize must be \(height, width\), got {}"),
    ],
    "crop": [(112, r"crop must be \(height, width\), got 112"), ([0, 5], "height of crop"), ([4, -4], "width of crop")],
    "mean": [
        ([0.5, math.nan, 0.5], r"mean of a channel must be a number from -10,000.0 to 10,000.0, got nan"),
        ([0.5, 0.5, -math.inf], "mean of a channel .* got -inf"),
        (["0.5"] * 3, "mean of a channel .* got '0.5'"),
        (0.5, "mean must be a number for each channel, got 0.5"),
        ([], "mean must be a number for each channel"),
        ([0.5], "mean and std must have as many channels, got 1 and 3"),
        ([0.5] * 2000, r"mean must be a number for each channel, got \(0.5, 0.5,"),
    ],
    "std": [
        ([0.2, 0.2, 0], r"std must be 1e-06 or more, got \(0.2, 0.2, 0\)"),
        ([0.2, 0.2, -1], "std must be 1e-06 or more"),
        ([0.2, 0.2, math.nan], "std of a channel"),
        ([0.2, 0.2], "mean and std must have as many channels, got 3 and 2"),
    ],
    "interpolation": [
        ("linear", "no interpolation 'linear', allowed: nearest, bilinear, bicubic; did you mean 'bilin")
    ],
    "clip": [
        (5, "spec.clip must be fields and their values, got 5"),
        ({"segments": 8}, r"unknown spec fields \['segments'\], allowed: \['length', 'rate', 'sampling', 'stride'\]"),
        ({"length": 10**9}, "whole numbers up to 4,096.*got length=1000000000, stride=1, rate=None"),
        ({"length": "8"}, "a clip needs length >= 1"),
        ({"stride": 2.0}, "whole numbers up to 4,096"),
        ({"rate": math.nan}, "positive rate from 0.001 to 1000 or None"),
        ({"rate": 1e-300}, "positive rate"),
    ],
    "image_frames": [
        (0, "image_frames must be a whole number from 1 to 4,096, got 0"),
        ("1", "image_frames must be a whole number"),
    ],
    "classes": [
        (["a"], r"classes must be names for each task, got \('a',\)"),
        ({"a": 5}, "classes of 'a' must be names or the name of a list, got 5"),
        ({"a": [1, 2]}, r"classes of 'a' must be names .* got \(1, 2\)"),
    ],
}


@pytest.mark.parametrize(("field", "value", "message"), [(f, v, m) for f, cases in WRONG.items() for v, m in cases])
def test_a_mistyped_field_of_a_saved_spec_is_named(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        InputSpec.from_dict({field: value})
    assert "\n" not in str(error.value)


def test_sizes_have_limits_together():
    within = InputSpec(resize=256, crop=(224, 224), clip=ClipSpec(length=4096))
    with pytest.raises(ValueError, match=r"a clip may have 268,435,456 pixels, 4096 frames of 257×257 are more"):
        dataclasses.replace(within, resize=257)
    InputSpec(resize=(4096, 4096), crop=(4096, 4096))
    with pytest.raises(ValueError, match=r"height of resize must be .* 4,096, got 4097"):
        InputSpec(resize=4097)


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_any_number_of_channels_has_statistics(channels):
    spec = InputSpec(mean=(0,) * channels, std=(1,) * channels)
    assert InputSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "name", ["../../secret", "..", ".", "", "/etc/passwd", "cifar10.txt", "../classes/cifar10", "\0"]
)
def test_a_list_of_classes_is_no_path(name):
    spec = InputSpec.from_dict({"classes": {"a": name}})
    with pytest.raises(ValueError, match=r"no list of class names .*, allowed: cifar10, "):
        spec.class_names("a")


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "a\\b", "a\nb", "\x1b[31m", 5, None])
def test_a_task_is_a_plain_name(name):
    with pytest.raises(ValueError, match="must be a non-empty printable string without"):
        Task(name, "image", 3)


@pytest.mark.parametrize("classes", [-1, 100_001, 10**12, 3.0, "3", None])
def test_a_task_has_a_number_of_classes(classes):
    with pytest.raises(ValueError, match=r"task 'a' has .* classes, allowed: 0 \(no head\) to 100,000"):
        parse_tasks({"a": ["image", classes]})


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        InputSpec().crop = (1, 1)  # type: ignore[misc]
    with pytest.raises(TypeError):
        InputSpec().classes["a"] = ("x",)  # type: ignore[index]
