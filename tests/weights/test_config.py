"""A saved configuration is checked before it is believed: fields, types, sizes, and where weights lie."""

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from models.small import TASKS, close, images, small
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from unidual_zoo.models.create import create_model
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CheckpointError, check_config, check_saved, check_size, read_config

FIT = "does not fit this version of unidual_zoo"
NO_NETWORK = "describes no network that can be built"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    save_for_hf(small("unidual10_aux", tasks=TASKS), str(folder), safe_serialization=True)
    return folder


def spoil(saved: Path, folder: Path, *, cfg: dict | None = None, **arguments) -> str:
    """The name of the saved network with other fields and arguments in its config.json."""
    config = json.loads((saved / "config.json").read_text())
    config["pretrained_cfg"] |= cfg or {}
    config["model_args"] |= arguments
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    return f"local-dir:{folder}"


ARGUMENTS = {  # of the network, and what is said of them
    "unknown": (dict(segments=8, tubes=2), f"{FIT}: unknown fields model_args.segments, model_args.tubes$"),
    "timm's": (dict(pretrained_cfg_overlay={"file": "x"}), f"{FIT}: unknown fields model_args.pretrained_cfg_overlay"),
    "build's": (dict(features_only=True), f"{FIT}: unknown fields model_args.features_only"),
    "text": (dict(width="wide"), f"{FIT}: model_args.width should be a valid number, got 'wide'"),
    "number": (dict(depths=3), f"{FIT}: model_args.depths should be a valid array, got 3"),
    "fraction": (dict(depths=[1.5] * 4), f"{FIT}: model_args.depths should be a valid integer"),
    "boolean": (dict(width=True), f"{FIT}: model_args.width should be a valid number, got True"),
    "tasks": (dict(tasks={"a": ["smell", 3]}), f"{FIT}: task 'a' has modality 'smell'"),
    "classes": (dict(tasks={"a": ["image", 10**9]}), f"{FIT}: task 'a' has 1000000000 classes, allowed: 0"),
    "thousands": (
        dict(tasks={f"t{i}": ["image", 1] for i in range(1001)}),
        f"{FIT}: a network has at most 1,000 tasks",
    ),
    "spec": (dict(spec={"segments": 3}), rf"{FIT}: unknown spec fields \['segments'\], allowed"),
    "mean": (dict(spec={"mean": [float("nan")] * 3}), f"{FIT}: mean of a channel must be a number"),
    "list": (dict(spec={"classes": {"in1k": "../classes/cifar10"}}), f"{NO_NETWORK}: no list of class names"),
    "frames": (dict(num_frames=10**9), f"{FIT}: model_args.num_frames is too large: its numbers add up to more than 1"),
    "many frames": (dict(num_frames=5000), f"{NO_NETWORK}: a clip needs length >= 1"),
    "deep": (dict(depths=[10**6]), rf"{NO_NETWORK}: it would have over .* tensors, and its file holds [\d,]+ in \d+$"),
    "deeper": (dict(depths=[10**12]), f"{FIT}: model_args.depths is too large"),
    "wide": (dict(width=5.0), rf"{NO_NETWORK}: it would have over 1\d,\d\d\d,\d\d\d weights"),
    "infinite": (dict(width=float("inf")), f"{FIT}: model_args.width is too large"),
    "block": (dict(block="dense"), f"{NO_NETWORK}: no block 'dense', allowed: basic, bottleneck"),
}
FIELDS = {
    "unknown": (dict(views=3, num_classes=3), f"{FIT}: unknown fields pretrained_cfg.views$"),
    "mean": (dict(mean="grey"), f"{FIT}: pretrained_cfg.mean should be a valid array, got 'grey'"),
    "std": (dict(std=[0, 1, 1]), f"{FIT}: pretrained_cfg.std should be greater than 0"),
    "size": (dict(input_size=[3, 10**9, 64]), f"{FIT}: pretrained_cfg.input_size should be less than or equal to 4096"),
    "rank": (dict(input_size=[3, 64]), f"{FIT}: pretrained_cfg.input_size"),
    "tag": (dict(tag=["a"]), f"{FIT}: pretrained_cfg.tag should be a valid string"),
    "fixed": (
        dict(fixed_input_size=True),
        f"{FIT}: pretrained_cfg.fixed_input_size is for networks that have an img_size",
    ),
    "crop": (dict(crop_pct=0), f"{FIT}: pretrained_cfg.crop_pct should be greater than 0, got 0"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_no_network_has(case, saved, tmp_path):
    arguments, message = ARGUMENTS[case]
    name = spoil(saved, tmp_path, **arguments)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=f"^config.json of {tmp_path} {message}") as error:
        create_model(name, pretrained=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert time.monotonic() - start < 30  # a network that is built for good takes minutes and gigabytes


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_timm_does_not_have(case, saved, tmp_path):
    fields, message = FIELDS[case]
    name = spoil(saved, tmp_path, cfg=fields)
    for create in (create_model, timm.create_model):
        with pytest.raises(CheckpointError, match=f"^config.json of {tmp_path} {message}"):
            create(name, pretrained=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([1], r"x must be fields and their values, got \[1\]"),
        ({"pretrained_cfg": {}}, "architecture must be a name"),
        ({"architecture": 5, "pretrained_cfg": {}}, "architecture must be a name"),
        ({"architecture": "a", "pretrained_cfg": "b"}, "pretrained_cfg must be fields and their values"),
        ({"architecture": "a", "pretrained_cfg": {}, "model_args": None}, "model_args must be fields and their values"),
        ({"architecture": "a", "model_args": {}}, "unknown fields pretrained_cfg.model_args"),  # as timm takes it
    ],
)
def test_a_configuration_of_another_form(config, message):
    with pytest.raises(CheckpointError, match=message):
        check_config(config, what="x")


def test_timms_old_form_is_known():
    check_config({"architecture": "a", "num_features": 3, "labels": ["x"], "num_classes": 1, "mean": [0]}, what="x")


def test_files_that_are_no_configuration(tmp_path):
    for text in ("[" * 100_000, "<html>", "1" * 5000, ""):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"nested|Expecting value|digits"):
            read_config(tmp_path / "config.json")
        with pytest.raises(CheckpointError, match=r"has no config.json that names an architecture"):
            create_model(f"local-dir:{tmp_path}")
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(CheckpointError, match=r"134,217,728 bytes, at most 67,108,864 are read"):
        create_model(f"local-dir:{tmp_path}")


def test_a_folders_weights_are_its_own(saved, tmp_path):
    """Whatever its configuration names: other files, URLs, repositories. The caller may name some."""
    torch.manual_seed(1)
    other = small("unidual10_aux", tasks=TASKS).state_dict()
    save_file(other, tmp_path / "other.safetensors")
    (tmp_path / "folder").mkdir()
    places = dict(file=str(tmp_path / "other.safetensors"), url="http://127.0.0.1:1/x.pth", hf_hub_id="x/y")
    name = spoil(saved, tmp_path / "folder", cfg=places)
    own = load_file(saved / "model.safetensors")
    for create in (create_model, timm.create_model):
        with pytest.warns(
            UserWarning, match=r"config.json of .*folder names other weights \(hf_hub_id, url\), which are"
        ):
            model = create(name, pretrained=True)
        assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())
        assert not {"url", "hf_hub_id"} & {key for key, value in model.pretrained_cfg.items() if value}
        overlay = dict(file=str(tmp_path / "other.safetensors"))
        with pytest.warns(UserWarning, match="names other weights"):
            model = create(name, pretrained=True, pretrained_cfg_overlay=overlay)
        assert all(torch.equal(value, other[key]) for key, value in model.state_dict().items())


def test_fields_of_the_hub_name_no_place_either(saved):
    places = dict(file="/etc/passwd", url="http://x/y", state_dict={}, hf_hub_filename="evil.bin")
    cfg = {"source": "hf-hub", "hf_hub_id": "org/name", "mean": [0, 0, 0]}
    with pytest.warns(UserWarning, match=r"config.json of org/name names other weights \(file, hf_hub_filename, url\)"):
        assert check_saved({**cfg, **places}, {}, nn.Module) == cfg
    own = {"file": "mine.pth", "url": "http://x/y", "anything": 3}
    assert check_saved(own, {"anything": 3}, nn.Module) == own  # the caller wrote it


def test_a_sound_configuration_changes_nothing(saved):
    """No warning, the same network, and the same random numbers for what is fresh."""
    model = small("unidual10_aux", tasks=TASKS)
    model.load_state_dict(load_file(saved / "model.safetensors"))
    again = create_model(f"local-dir:{saved}", pretrained=True).eval()
    close(again(x := images()), model(x), 0)
    torch.manual_seed(3)
    create_model(f"local-dir:{saved}")
    state = torch.get_rng_state()
    torch.manual_seed(3)
    timm.create_model("unidual10_aux", **model._model_args)
    assert torch.equal(torch.get_rng_state(), state)


class Base(nn.Module):
    def __init__(self, *, spec: InputSpec | None = None, tasks: dict | None = None, width: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))


class Derived(Base):
    def __init__(self, *, heads: int = 2, **common) -> None:
        super().__init__(**common)


def test_any_family_is_checked_by_what_its_class_declares():
    cfg = {"source": "local-dir", "file": "x"}
    check_saved(cfg, {"heads": 3, "width": 5, "spec": None, "num_classes": 3}, Derived)
    with pytest.raises(CheckpointError, match=r"unknown fields model_args.common, model_args.depth$"):
        check_saved(cfg, {"common": {}, "depth": 3}, Derived)
    with pytest.raises(CheckpointError, match=r"model_args.width should be a valid integer, got 2.5$"):
        check_saved(cfg, {"width": 2.5}, Derived)
    check_size(Derived, {"width": 30_000}, cfg=cfg)  # 2,700,090,000 weights, none of which is made
    with pytest.raises(
        CheckpointError, match=r"of x describes .*: it would have over 3,000,000,000 weights, or over 5,000"
    ):
        check_size(Derived, {"width": 32_000}, cfg=cfg)
    weights = {"w": torch.zeros(1000)}
    with pytest.raises(
        CheckpointError, match=r"over 10,002,000 weights, or over 502 tensors, and its file holds 1,000 in"
    ):
        check_size(Derived, {"width": 2000}, cfg=cfg, weights=weights)
    nn.Linear(2000, 2000, device="meta")  # the limits hold for that network alone


def test_a_check_of_size_changes_no_hooks_under_another_thread_that_builds():
    hooks = iter(torch.nn.modules.module._global_parameter_registration_hooks.values())
    check_size(Derived, {"width": 30}, cfg={"source": "local-dir", "file": "x"})
    assert list(hooks)  # an OrderedDict that was changed meanwhile raises RuntimeError
