"""The spec survives JSON and pickling, and refuses what cannot be."""

import dataclasses
import json
import pickle

import pytest

from unidual_zoo.spec import ClipSpec, InputSpec, Task, packaged_classes, parse_tasks


def test_round_trip():
    spec = InputSpec(resize=64, crop=(48, 32), clip=ClipSpec(length=4, stride=2, rate=12.5), classes={"a": ("x", "y")})
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
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        InputSpec().crop = (1, 1)  # type: ignore[misc]
    with pytest.raises(TypeError):
        InputSpec().classes["a"] = ("x",)  # type: ignore[index]
