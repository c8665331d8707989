"""Names and tags of networks on trunks, and the weights of timm that they start from."""

import dataclasses
import math

import pytest
import timm
import torch
from models.on_trunks import started, theirs
from models.small import TASKS, close, images
from timm.models._hub import save_for_hf

from unidual_zoo.models import create
from unidual_zoo.models.dual_trunk import ARCHITECTURES, CHECKPOINTS, DualTrunk, timm_spec
from unidual_zoo.spec import ClipSpec
from unidual_zoo.weights import CheckpointError


def published(name: str):
    return timm.get_pretrained_cfg(f"{ARCHITECTURES[name.split('.')[0]]['trunk']}.{name.split('.', 1)[1]}")


@pytest.mark.parametrize("name", [name for name, row in CHECKPOINTS.items() if not row.url])
def test_rows_say_what_timm_says(name):
    row, cfg = CHECKPOINTS[name], published(name)
    assert row.spec == timm_spec(cfg)
    assert row.license == cfg.license
    assert row.license in ("apache-2.0", "mit", "bsd-3-clause")
    assert row.file or row.hf_hub_id == cfg.hf_hub_id == f"timm/{cfg.architecture}.{cfg.tag}"
    assert row.spec.clip == ClipSpec(length=8, sampling="segments")
    with torch.device("meta"):
        model, bare = timm.create_model(name), timm.create_model(name.split(".")[0])
    assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("in1k",)
    assert len(model.spec.class_names("in1k")) == 1000
    assert (bare.pathway_tasks("image"), bare.pathway_tasks("video")) == (("in1k",), ("k400",))
    ours = timm.data.resolve_model_data_config(model)
    expected = timm.data.resolve_data_config({}, pretrained_cfg=cfg.to_dict())
    for key in ("input_size", "interpolation", "mean", "std", "crop_mode"):
        assert ours[key] == expected[key]
    assert math.floor(ours["input_size"][-1] / ours["crop_pct"]) == math.floor(cfg.input_size[-1] / cfg.crop_pct)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["unidual_efficientnet_lite0.in1k", "unidual_vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k"]
)
def test_a_tag_takes_a_file_in_timms_format(name, tmp_path):
    network = theirs(ARCHITECTURES[name.split(".")[0]]["trunk"], num_classes=1000)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    overlay = dict(file=str(tmp_path / "timm.pth"))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = images(1, size=network.default_cfg["input_size"][-1])
    assert torch.equal(model(x), network(x))
    close(model(x[:, :, None].expand(-1, -1, 3, -1, -1)), network(x), 1e-5)
    wrong = dict(state_dict=theirs(ARCHITECTURES[name.split(".")[0]]["trunk"]).state_dict())
    with pytest.raises(CheckpointError, match=r"heads.image.in1k.weight \(7, \d+\) for \(1000, \d+\)"):
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=wrong)
    tasks = {"mine": ("image", 1000), "k400": ("video", 5)}
    with pytest.warns(UserWarning, match="no weights for heads.image.mine, heads.video.k400 in the checkpoint"):
        mine = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, tasks=tasks)
    assert not torch.equal(mine.heads["image"]["mine"].weight, network.get_classifier().weight)


def test_heads_that_no_image_network_has_are_fresh():
    network = theirs("test_efficientnet")
    with pytest.warns(UserWarning, match="no weights for heads.video.k400 in the checkpoint: freshly initialised"):
        model = started(network, "test_efficientnet", tasks=TASKS, heads=None)
    assert torch.equal(model.heads["image"]["in1k"].weight, network.get_classifier().weight)


def test_the_weights_of_a_trunk_by_its_name_come_from_timms_repository(monkeypatch, tmp_path):
    network, asked = theirs("test_efficientnet", num_classes=1000), []

    def fetch(repository, filename, *, cache_dir):
        asked.append((repository, filename))
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    monkeypatch.setattr(create, "fetch_from_hub", fetch)
    tasks = {"in1k": ("image", 1000)}
    model = timm.create_model("unidual_trunk", pretrained=True, trunk="test_efficientnet.r160_in1k", tasks=tasks).eval()
    assert asked == [("timm/test_efficientnet.r160_in1k", "model.safetensors")]
    cfg = timm.get_pretrained_cfg("test_efficientnet.r160_in1k")
    assert model.spec == dataclasses.replace(timm_spec(cfg), classes={"in1k": "imagenet1k"})
    assert model.pretrained_cfg["license"] == cfg.license == "apache-2.0"
    x = images(size=160)
    assert torch.equal(model(x), network(x))
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert len(asked) == 1
    assert torch.equal(again(x), network(x))
    assert again.pretrained_cfg["license"] == "apache-2.0"


def test_another_side_is_told_in_the_spec():
    with torch.device("meta"):
        model = timm.create_model("unidual_efficientnet_lite0", img_size=320)
    assert (model.spec.crop, model.spec.resize) == ((320, 320), 365)  # 256 * 320 / 224 = 365.7
    again = DualTrunk(**model._model_args)
    assert again.spec == model.spec
    other = DualTrunk(**{**model._model_args, "spec": dataclasses.replace(model.spec, crop=(112, 112))})
    assert other.spec.crop == (112, 112)


def test_the_parameters_of_the_packaged_network():
    with torch.device("meta"):
        model = timm.create_model("unidual_efficientnet_lite0.in1k")
        trunk = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    sizes = dict.fromkeys(("trunk", "units", "norms", "heads"), 0)
    for name, weight in model.named_parameters():
        sizes[name.split(".")[0]] += weight.numel()
    assert sizes["trunk"] == sum(weight.numel() for weight in trunk.parameters()) == 3_371_008
    widths = [16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320]
    assert sizes["units"] == sum(2 * c * (c // 2) + c // 2 + 4 * (c // 2) + c for c in widths)
    assert sizes["heads"] == 2 * 1281 * 1000


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        (dict(), 7.11), (dict(per_block=2), 14.22), (dict(per_block=2, operator="local_mhra"), 18.99),
        (dict(operator="none", global_blocks=4), 28.36 + 0.086 + 0.002),
    ],
)  # fmt: skip
def test_what_operators_add_to_a_vit_base(options, millions):
    """The figures of ST-Adapter (7.11 M) and UniFormerV2."""
    with torch.device("meta"):
        model = timm.create_model("unidual_vit_base_patch16_clip_224", norms="shared", num_classes=0, **options)
    own = sum(
        weight.numel() for name, weight in model.named_parameters() if name.startswith(("units.", "global_blocks."))
    )
    assert own / 1e6 == pytest.approx(millions, abs=0.006)
