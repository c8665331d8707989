"""The folder of a saved network: what timm reads back, what transformers needs, and that it is never half written."""

import json

import pytest
import timm
import torch
from models.small import TASKS, clips, close, images, small
from timm.models import save_for_hf

from unidual_zoo import for_inference
from unidual_zoo.models import saving
from unidual_zoo.models.saving import save
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CONFIG, WEIGHTS_FILE

CLASSES = {"in1k": tuple("abcdefg"), "k400": tuple("uvwxyz")}
SPEC = InputSpec(resize=40, crop=(32, 32), classes=CLASSES)


def config_of(folder):
    return json.loads((folder / CONFIG).read_text())


def reload(folder, **kwargs):
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs).eval()


def test_the_classes_of_the_primary_task_have_names(tmp_path):
    model = small("unidual10", tasks=TASKS, spec=SPEC)
    save(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS_FILE]
    config = config_of(tmp_path)
    assert (config["num_classes"], config["label_names"]) == (7, list("abcdefg"))
    assert "label_names" not in config["pretrained_cfg"]
    again = reload(tmp_path)
    assert again.pretrained_cfg["label_names"] == tuple("abcdefg")
    assert (again.spec, again.tasks, again._model_args) == (model.spec, model.tasks, model._model_args)
    for x in (images(), clips()):
        close(again(x), model(x), 0)


@pytest.mark.parametrize("name", ["r2plus1d10", "unidual10"])
def test_names_that_nobody_knows_are_left_out(name, tmp_path):
    model = small(name, num_classes=5)
    save(model, tmp_path)
    assert "label_names" not in config_of(tmp_path)
    assert reload(tmp_path).pretrained_cfg.get("label_names") is None


def test_names_of_other_classes_do_not_linger(tmp_path):
    save(small("unidual10", tasks=TASKS, spec=SPEC), tmp_path / "first")
    model = reload(tmp_path / "first")
    model.reset_classifier(7)  # as many, but others
    save(model, tmp_path / "second")
    assert "label_names" not in config_of(tmp_path / "second")
    save_for_hf(model, str(tmp_path / "plain"), safe_serialization=True)
    for folder in ("second", "plain"):
        assert reload(tmp_path / folder).pretrained_cfg.get("label_names") is None
    with pytest.warns(UserWarning, match="freshly initialised"):
        food = reload(tmp_path / "first", tasks={"food": ("video", 7)})
    assert food.pretrained_cfg.get("label_names") is None


@pytest.mark.parametrize("name", ["unidual10_aux", "r2d10_lstm_multitask", "r2plus1d10"])
def test_transformers_can_build_it(name, tmp_path):
    """Its wrapper passes `num_classes` beside the saved arguments: the number of labels, or 0 for features."""
    model = small(name, in_chans=1)
    save(model, tmp_path)
    config = config_of(tmp_path)
    again = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"]).eval()
    again.load_state_dict(model.state_dict())
    features = timm.create_model(config["architecture"], num_classes=0, **config["model_args"]).eval()
    features.load_state_dict(model.state_dict(), strict=False)
    for x in (images(chans=1), clips(chans=1)):
        close(again(x), model(x), 0)
        maps = features.forward_features(x)
        close(features.forward_head(maps), model.forward_head(model.forward_features(x), pre_logits=True), 0)


def test_what_timm_saves_by_itself_comes_back(tmp_path):
    model = small("unidual10_aux", tasks=TASKS, spec=SPEC)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    assert config_of(tmp_path)["model_args"]["num_classes"] == 7
    again = reload(tmp_path)
    assert (again.spec, again.tasks, again._model_args) == (model.spec, model.tasks, model._model_args)
    close(again(x := images()), model(x), 0)


def test_the_memory_format_is_the_callers(tmp_path):
    model = small("unidual10", tasks=TASKS).to(memory_format=torch.channels_last)
    save(model, tmp_path)
    assert model.stem.spatial.weight.is_contiguous(memory_format=torch.channels_last)
    close(reload(tmp_path)(x := images()), model(x))


def test_what_cannot_be_built_again_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"do not give .*: save the model that it was made from"):
        save(for_inference(small("unidual10")), tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    first = small("unidual10", tasks=TASKS)
    save(first, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(saving, "save_config_for_hf", fail)
    with pytest.raises(OSError, match="No space left"):
        save(small("unidual10", tasks=TASKS), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
