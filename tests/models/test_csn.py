"""CSN: what every family must pass, and the logits of four code bases' own networks on weights by their own names."""

from pathlib import Path

import pytest
import timm
import torch
from models.base import FamilyTests
from models.reference import fill, seeded_clip
from models.small import TASKS, clips, close, images, make, randomise_norms
from torch import nn
from torch.export import Dim

from unidual_zoo.models import csn
from unidual_zoo.models.csn import FORMATS, from_upstream, to_upstream
from unidual_zoo.weights import CheckpointError

SMALL = dict(width=1 / 16, depths=(2, 1, 1, 1), num_frames=4)
NARROW, FEW = dict(width=1 / 16), dict(depths=(1, 1, 1, 1))
TINY = NARROW | FEW
SIZE = dict(width=1 / 16, depths=(3, 4, 6, 3))
# What each code base's own network gave, in float32 on a CPU: weights by `fill`, `seeded_clip(1, 3, 6, 48, 40)`.
GOLDEN = {
    # open-mmlab/mmaction2 4d6c934 with mmcv-lite 2.2.0: ResNet3dCSN(50, None, base_channels=4, with_pool2=False), mean
    "mmaction2 (ir-CSN)": ("ircsn50", NARROW, [-49.0329, -15.0907, -66.7621, -36.4711, -46.298, 33.234]),
    "mmaction2 (ip-CSN)": ("ipcsn50", NARROW, [752.932, 178.106, -412.108, 456.3, -310.587, 825.699]),
    # facebookresearch/VMZ 4cc542d: _generic_resnet(block=Bottleneck, layers=[1] * 4, stem=BasicStem_Pool)
    "VMZ (ir-CSN)": ("ircsn50", FEW, [0.299442, -3.20321, -2.76651, -2.01041, 3.36849, 7.73134]),
    "VMZ (ip-CSN)": ("ipcsn50", FEW, [-9.33826, -13.3559, 1.76446, -5.33771, 5.09017, 6.27434]),
    # dmlc/gluon-cv 5677756: ResNet_IRCSNv2(Bottleneck_IRCSNv2, block_nums=[1] * 4, use_affine=False)
    "GluonCV": ("ircsn50", FEW, [-7.78698, -2.22007, 5.51276, -6.11815, -2.806, 0.150182]),
    # facebookresearch/pytorchvideo f3142bb: create_csn(stem_pool=MaxPool3d, stem_dim_out=4, its pool of the map)
    "PyTorchVideo": ("ircsn50", NARROW, [-10.8369, 4.4041, -0.880623, -26.6691, 2.59608, 17.5944]),
}  # fmt: skip


class TestCSN(FamilyTests):
    family, small, shallow = csn.FAMILY, SMALL, dict(depths=(1, 1))
    names = ("ircsn50", "ipcsn50_dual")


# ---- files of other code bases --------------------------------------------------------------------------------------


def theirs(format: str, *, num_classes: int = 400, **kwargs) -> dict[str, torch.Tensor]:
    """The golden weights of a code base's network, by its names."""
    name, size, _ = GOLDEN[format]
    with torch.device("meta"):
        own = timm.create_model(name, num_classes=num_classes, **{**size, **kwargs})
    return fill(to_upstream(own.state_dict(), FORMATS[format], task="k400"))


def save(weights, path: Path, format: str) -> str:
    """The file as the code base has it: PyTorchVideo and mmaction2 keep the weights in a dict with other things."""
    around = {"PyTorchVideo": "model_state", "mmaction2 (ir-CSN)": "state_dict"}
    torch.save({around[format]: weights, "epoch": 3} if format in around else weights, path)
    return str(path)


def load(name: str, file: str, **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=file), **kwargs).eval()


@torch.inference_mode()
@pytest.mark.parametrize("format", FORMATS)
def test_upstreams_logits_on_upstreams_files(format, tmp_path):
    name, size, golden = GOLDEN[format]
    file = save(theirs(format), tmp_path / "theirs.pth", format)
    model, x = load(name, file, **size), seeded_clip(1, 3, 6, 48, 40)
    close(model(x)[0, : len(golden)], torch.tensor(golden))


@torch.inference_mode()
def test_a_dual_network_starts_from_a_video_networks_file(tmp_path):
    format = "mmaction2 (ip-CSN)"
    file = save(theirs(format), tmp_path / "theirs.pth", format)
    alone, x, image = load("ipcsn152", file, **SIZE), seeded_clip(1, 3, 6, 48, 40), images()
    deflated = load("ipcsn152_dual", file, **SIZE)  # its default tag has a Kinetics head on either pathway
    close(deflated(x), alone(x), 0)
    assert deflated.pathway_tasks("image") == ("k400",)
    with pytest.warns(UserWarning, match=r"no weights for heads.image.in1k in the checkpoint"):
        dual = load("ipcsn152_dual", file, tasks={"in1k": ("image", 7), "k400": ("video", 400)}, **SIZE)
    close(dual(x), alone(x), 0)
    close(dual.forward_features(image), deflated.forward_features(image), 0)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in theirs(format).items()}
    coarse = load("ipcsn152_dual", save(halves, tmp_path / "halves.pth", format), **SIZE)
    widened = {key: value.float() if value.is_floating_point() else value for key, value in halves.items()}
    again = load("ipcsn152_dual", save(widened, tmp_path / "widened.pth", format), **SIZE)
    close(coarse(image), again(image), 0)  # what is summed over time is summed in float32


@pytest.mark.parametrize("format", FORMATS)
def test_names_of_weights_there_and_back(format):
    own = timm.create_model(GOLDEN[format][0], **SMALL).state_dict()
    weights = to_upstream(own, FORMATS[format], task="k400")
    assert weights.keys().isdisjoint(own)
    assert sum(value.ndim == 5 for value in weights.values()) == sum(value.ndim >= 4 for value in own.values())
    again = from_upstream(weights, FORMATS[format], task="k400")
    assert again.keys() == own.keys()
    assert all(torch.equal(again[key], value) for key, value in own.items())


@torch.inference_mode()
def test_the_norms_have_the_eps_of_the_formats_authors(tmp_path):
    """The one name has a tag whose eps is another, which a file of another code base must not get."""
    x, logits = seeded_clip(1, 3, 6, 48, 40), []
    weights = from_upstream(theirs("PyTorchVideo"), FORMATS["PyTorchVideo"], task="k400")
    for format in ("PyTorchVideo", "mmaction2 (ir-CSN)"):
        file = save(to_upstream(weights, FORMATS[format], task="k400"), tmp_path / "theirs.pth", format)
        for name in ("ircsn50", "ircsn101.ptv_k400"):
            model = load(name, file, **SIZE)
            assert model._model_args["norm_eps"] == {"PyTorchVideo": 1e-5}.get(format, 1e-3)
            logits.append(model(x))
    close(logits[1], logits[0], 0)
    close(logits[3], logits[2], 0)
    assert (logits[2] - logits[0]).abs().max() > 1e-3 * logits[0].abs().max()


@torch.inference_mode()
def test_norms_of_scale_and_bias_alone(tmp_path):
    """GluonCV's Affine: x * weight + bias, whose weights are (C, 1, 1, 1)."""
    name, size, golden = GOLDEN["GluonCV"]
    weights = theirs("GluonCV")
    for norm in [key.removesuffix("running_var") for key in weights if key.endswith("running_var")]:
        scale = weights[f"{norm}weight"] / (weights.pop(f"{norm}running_var") + 1e-3).sqrt()
        bias = weights[f"{norm}bias"] - scale * weights.pop(f"{norm}running_mean")
        weights |= {f"{norm}weight": scale[:, None, None, None], f"{norm}bias": bias[:, None, None, None]}
    model = load(name, save(weights, tmp_path / "theirs.pth", "GluonCV"), **size)
    close(model(seeded_clip(1, 3, 6, 48, 40))[0, : len(golden)], torch.tensor(golden))


def test_files_that_do_not_fit_say_why(tmp_path):
    file = str(tmp_path / "theirs.pth")
    torch.save(theirs("VMZ (ir-CSN)", num_classes=359, **NARROW), file)
    with pytest.raises(CheckpointError, match=r"of another shape: .*heads.video.k400.weight \(359, 128\) for \(400, "):
        load("ircsn152", file, **TINY)
    assert load("ircsn152", file, num_classes=359, **TINY).num_classes == 359
    assert load("ircsn152.vmz_ig65m", file, **TINY).tasks["ig65m"].num_classes == 359
    with pytest.warns(UserWarning, match=r"\(heads.video.k400 has 359 classes there\): freshly"):
        load("ircsn152", file, tasks={"k400": ("video", 400)}, **TINY)
    with pytest.raises(CheckpointError, match=r"missing: stages.0.0.interact.conv.weight"):
        load("ipcsn152", file, **TINY)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}, file)
    formats = r"format that is read, mmaction2 \(ip-CSN\), .*, PyTorchVideo or this package's: .* conv1.weight, bn1"
    with pytest.raises(CheckpointError, match=formats):
        load("ircsn50", file, **TINY)


def test_an_encoder_without_a_classifier_leaves_the_heads_fresh(tmp_path):
    whole = theirs("mmaction2 (ir-CSN)")
    bare = {key.removeprefix("backbone."): value for key, value in whole.items() if key.startswith("backbone.")}
    torch.save(bare, tmp_path / "theirs.pth")
    with pytest.warns(UserWarning, match=r"no weights for heads.video.k400 in the checkpoint: freshly"):
        model = load("ircsn50.mm_ig65m", str(tmp_path / "theirs.pth"), **NARROW)
    assert torch.equal(model.stem.conv["video"].weight, whole["backbone.conv1.conv.weight"])


# ---- what is computed -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_image_pathway_is_the_video_network_if_no_filter_sees_another_frame():
    video = make("ipcsn50", SMALL, tasks=TASKS)
    for module in video.modules():
        if isinstance(module, nn.Conv3d):
            module.weight[:, :, ::2] = 0
    dual = make("ipcsn50_dual", SMALL, tasks=TASKS, auxiliary=True)
    dual.load_state_dict(dual.adopt(video.state_dict()))
    close(dual(x := images()), video(x))
    close(dual(x, modality="video"), video(x), 0)


def test_a_pathway_starts_as_the_other():
    video = make("ircsn50", SMALL, tasks=TASKS)
    image = make("ircsn50_dual", SMALL, tasks=TASKS, pathways=["image"])
    image.load_state_dict(image.adopt(video.state_dict()))
    filters = video.stages[1][0].conv2.conv["video"].weight
    torch.testing.assert_close(image.stages[1][0].conv2.conv["image"].weight, filters.sum(2))
    torch.testing.assert_close(image.stem.conv["image"].weight, video.stem.conv["video"].weight.sum(2))
    again = make("ircsn50", SMALL, tasks=TASKS)
    again.load_state_dict(again.adopt(image.state_dict()))
    for frame in range(3):
        torch.testing.assert_close(again.stages[1][0].conv2.conv["video"].weight[:, :, frame], filters.sum(2) / 3)
    assert torch.equal(again.heads["video"]["k400"].weight, video.heads["video"]["k400"].weight)


@torch.inference_mode()
def test_clips_of_any_length_are_halved_three_times():
    model = make("ircsn50", SMALL)
    for frames, left in ((1, 1), (9, 2), (16, 2)):
        assert model.forward_features(clips(frames=frames)).shape[2] == left


@torch.no_grad()
def test_clips_of_any_length_are_exported():
    """From nine frames on, so that the last stage has two: torch fixes what it sees to be one."""
    model = make("ircsn50", SMALL)
    shapes = ({0: Dim("batch"), 2: Dim("frames", min=9)},)
    exported = torch.export.export(model, (clips(2, 12),), dynamic_shapes=shapes).module()
    close(exported(x := clips(1, 17)), model(x))


def test_drop_path_drops_whole_clips():
    model = randomise_norms(timm.create_model("ircsn50_dual", drop_path_rate=0.5, **SMALL)).train()
    block, x = model.stages[0][1], torch.rand(12, 16, 8, 8)
    block.drop_path.drop_prob = 1 - 1e-9
    close(block(x, "video", 3), x, 0)
    assert model._model_args["drop_path_rate"] == 0.5


def test_refused_arguments():
    with pytest.raises(ValueError, match="no block 'basic', allowed: ir, ip"):
        timm.create_model("ircsn50", block="basic")
    with pytest.raises(ValueError, match=r"width 0\.001 leaves no channels"):
        timm.create_model("ircsn50", width=0.001)


# ---- the full-sized networks ----------------------------------------------------------------------------------------

PARAMETERS = {  # of upstream's own networks; of the dual one by hand
    "ircsn50": 13_131_152, "ircsn101": 22_213_776, "ipcsn50": 14_396_176, "ipcsn152_dual": 35_358_072,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(weight.numel() for weight in model.parameters()) == PARAMETERS[name]


def test_a_fresh_network_keeps_the_size_of_activations():
    """He's filler counts what one output sums over: 27 of a depthwise filter, whatever the channels."""
    torch.manual_seed(0)
    model = timm.create_model("ircsn50", width=0.5, depths=(1, 1, 1, 1))
    for block in (stage[0] for stage in model.stages):
        weight = block.conv2.conv["video"].weight
        assert weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.05)
        assert block.conv1.conv.weight.std().item() == pytest.approx(
            (2 / block.conv1.conv.in_channels) ** 0.5, rel=0.06
        )
