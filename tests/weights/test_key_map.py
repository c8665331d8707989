"""A table of names is read in both directions, and what it does not know stays and is seen."""

import pytest
import torch

from unidual_zoo.weights import CheckpointError, KeyMap

ROWS = [
    ("layer{s+1}.{b}.conv{i}.0", "stages.{s}.{b}.conv{i}"),
    ("encoder.{i}.ln{i}.gamma", "blocks.{i}.norm.weight"),
    ("cls", "cls_token"),
    ("fc", "heads.image.{task}"),
    ("blocks.{a}.{b}", "parts.{b}.{a+10}"),
]
NAMES = {  # theirs -> ours, by hand
    "layer1.0.conv2.0.weight": "stages.0.0.conv2.weight",
    "layer12.30.conv1.0.running_mean": "stages.11.30.conv1.running_mean",
    "encoder.7.ln7.gamma": "blocks.7.norm.weight",
    "cls": "cls_token",
    "fc.bias": "heads.image.my task+.bias",
    "blocks.3.4.weight": "parts.4.13.weight",
}
UNKNOWN = [
    "layer0.0.conv1.0.weight",  # would be stage -1
    "layer01.0.conv1.0.weight",  # would come back as layer1
    "layer1.0.conv1.0.0.weight",  # a module within
    "layer1.0.conv1.weight",
    "encoder.7.ln8.gamma",
    "encoder.7.ln7",
    "fcs.weight",
    "head.fc.weight",
    "layer١.0.conv1.0.weight",  # an Arabic one
]


def numbered(names) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(number) for number, name in enumerate(names)}


def test_names_by_hand_in_both_directions():
    keys = KeyMap(ROWS, task="my task+")
    theirs, ours = numbered(NAMES), numbered(NAMES.values())
    assert keys.forward(theirs) == ours
    assert keys.back(ours) == theirs


def test_unknown_names_stay_as_they_are():
    keys = KeyMap(ROWS, task="t")
    assert keys.forward(numbered(UNKNOWN)) == numbered(UNKNOWN)
    mixed = numbered([*NAMES, *UNKNOWN])
    assert keys.back(keys.forward(mixed)) == mixed
    strange = ["parts.4.9.weight", "stages.0.0.conv1.deep.weight", "heads.image.other.weight"]  # 9 is before 10
    assert keys.back(numbered(strange)) == numbered(strange)


def test_two_weights_of_one_name_are_refused():
    keys = KeyMap(ROWS, task="t")
    with pytest.raises(CheckpointError, match=r"weights of the checkpoint get the same name: cls_token, cls_token"):
        keys.forward(numbered(["cls", "cls_token"]))


def test_a_table_that_loses_something_is_refused():
    with pytest.raises(ValueError, match=r"'a.\{i\}' and 'b.\{j\}' must have the same fields"):
        KeyMap([("a.{i}", "b.{j}")])
    with pytest.raises(ValueError, match=r"\{i\*2\} in 'a.\{i\*2\}' is no field such as \{s\} or \{s\+1\}"):
        KeyMap([("a.{i*2}", "b.{i}")])
    keys = KeyMap([("a", "x"), ("b", "x")])
    assert keys.forward(numbered(["a.weight"])) == numbered(["x.weight"])
    with pytest.raises(ValueError, match=r"the key map is no way back: b.weight becomes x.weight, and that a.weight"):
        keys.forward(numbered(["b.weight"]))
