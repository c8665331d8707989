"""Non-local networks, I3D and C2D against the outputs of other code bases on seeded weights under their own names.

The goldens are the authors' own modules at an eighth of the width (commits: SlowFast 287ec00, its reader of Caffe2's
files included, mmaction2 4d6c934 with
mmcv 2.2.0, pytorch-resnet3d 8d3e1da at its full width, pytorchvideo f3142bb), in float64.
"""

import dataclasses
import zlib
from typing import Any, ClassVar

import pytest
import timm
import torch
from caffe2 import write_blobs
from models.base import FamilyTests
from models.small import clips, close, make
from torchvision.models.resnet import Bottleneck, ResNet

from unidual_zoo.models import nonlocal_net
from unidual_zoo.models.nonlocal_net import FORMATS, from_upstream, to_plain, to_upstream
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CheckpointError

SMALL: dict[str, Any] = dict(
    width=1 / 16, depths=(2, 2, 1, 1), nonlocal_blocks=((), (1,)), num_frames=4,
    spec=InputSpec(resize=36, crop=(32, 32)),
)  # fmt: skip
K400: dict[str, Any] = {"k400": ("video", 7)}
EIGHTH: dict[str, Any] = dict(width=1 / 8, depths=(1, 2, 2, 1), tasks=K400)
TWO: dict[str, Any] = dict(nonlocal_blocks=((), (1,), (1,), ()))
SHORT: dict[str, Any] = dict(depths=(1, 2, 1, 1), tasks=K400, nonlocal_blocks=((), (1,)))
GOLDEN: dict[str, Any] = {  # format, name and arguments, frames, checksum of upstream's names and shapes, logits
    "PySlowFast's I3D": (
        "slowfast", "i3d50_nl", EIGHTH | TWO, 8, 2753966765,
        [-1.87035, 0.278486, 1.469601, 9.40824, -7.70663, 9.389497, -6.548457],
    ),
    "PySlowFast's C2D, dot products": (
        "slowfast", "c2d50_nl", EIGHTH | TWO | dict(affinity="dot_product"), 8, 1624106022,
        [-19732.481337, 95931.246062, -260312.260403, -127482.16882, 104937.457588, 119294.848911, -203802.731682],
    ),
    "PySlowFast's I3D from Caffe2": (
        "caffe2", "i3d50_nl", EIGHTH | TWO, 8, 2161479410,
        [-4.563562, 3.482581, 0.911657, 6.799798, -1.837542, -1.011298, -0.062762],
    ),
    "mmaction2's, embedded": (
        "mmaction2", "i3d50_nl.mm_k400", EIGHTH | TWO, 16, 1505651251,
        [5.977805, -0.501314, -1.337705, 2.103872, -2.650349, -7.676801, 3.138348],
    ),
    "mmaction2's, gaussian": (
        "mmaction2", "i3d50_nl.mm_gaussian_k400", EIGHTH | TWO, 16, 2566522533,
        [3.324776, 0.572156, -3.526704, -0.916413, -5.525826, -5.75843, -3.339301],
    ),
    "pytorch-resnet3d's": (
        "pytorch_resnet3d", "i3d50_nl.caffe2_32f_k400", SHORT, 16, 3113924734,
        [-0.183547, 1.657277, 0.239032, 4.606879, 0.206912, -0.017359, -1.571123],
    ),
    "pytorchvideo's": (
        "pytorchvideo", "i3d50.ptv_k400", EIGHTH, 8, 704229737,
        [-0.64365, 1.704956, 1.175887, 1.160062, -1.429515, -0.878665, -0.835646],
    ),
}  # fmt: skip


class TestNonLocalNet(FamilyTests):
    family, names = nonlocal_net.FAMILY, ("i3d50_nl_dual", "c2d50_nl")
    small, shallow = SMALL, dict(depths=(1, 1), nonlocal_blocks=((0,), ()))
    options: ClassVar = dict(norms="shared", form="slowfast_nopool")


def filled(weights: dict[str, torch.Tensor], seed: int = 7) -> dict[str, torch.Tensor]:
    """Weights of these names and shapes that keep activations within bounds, the same on every machine."""
    generator, fresh = torch.Generator().manual_seed(seed), dict(weights)
    for key in sorted(weights):
        if key.endswith("num_batches_tracked"):
            continue
        x = torch.randn(weights[key].shape, generator=generator)
        last_norm = any(part in key for part in ("branch2.c_bn", "branch2c_bn", "bn3", "conv3.bn", "norm_c"))
        if key.endswith(("running_var", "_riv")):
            x = x.abs() * 0.5 + 0.5
        elif x.ndim > 1:
            x = x * (1.2 / x[0].numel()) ** 0.5
        elif key.endswith(("weight", "_s")):
            x = 0.4 + 0.1 * x if last_norm else 1 + 0.2 * x
        else:
            x = 0.1 * x
        fresh[key] = x
    return fresh


def load(name: str, weights: dict[str, torch.Tensor], **kwargs) -> Any:
    overlay = dict(state_dict=weights)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


def theirs(known: str, name: str, **kwargs) -> dict[str, torch.Tensor]:
    """Seeded weights in another format, those of a network of ours of that name."""
    model = timm.create_model(name, **kwargs)
    return filled(to_upstream(model.state_dict(), known, pathway="video", task="k400"))


@pytest.mark.filterwarnings("ignore:.*are under cc-by-nc")  # of the authors' files
@torch.inference_mode()
@pytest.mark.parametrize("case", GOLDEN)
def test_upstreams_outputs_on_upstreams_weights(case, tmp_path):
    known, name, arguments, frames, checksum, logits = GOLDEN[case]
    weights = theirs(known, name, **arguments)
    listed = "\n".join(sorted(f"{key} {tuple(weight.shape)}" for key, weight in weights.items()))
    assert zlib.crc32(listed.encode()) == checksum
    write = write_blobs if known == "caffe2" else lambda path, state: torch.save(state, path)
    write(tmp_path / "theirs.pth", weights)
    overlay = dict(file=str(tmp_path / "theirs.pth"))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()
    x = torch.randn((1, 3, frames, 32, 32), generator=torch.Generator().manual_seed(11))
    close(model(x), torch.tensor([logits]), 1e-5)


@pytest.mark.parametrize("known", FORMATS)
def test_names_of_weights_there_and_back(known):
    name = {"resnet": "c2d50", "pytorchvideo": "i3d50"}.get(known, "i3d50_nl")
    weights = make(name, EIGHTH | TWO if name == "i3d50_nl" else EIGHTH).state_dict()
    again = from_upstream(
        to_upstream(weights, known, pathway="video", task="k400"), known, pathway="video", task="k400"
    )
    plain = to_plain({key: value for key, value in weights.items() if not key.startswith("heads.")})
    if known == "caffe2":  # whose norms do not count batches
        plain = {key: value for key, value in plain.items() if not key.endswith("num_batches_tracked")}
    assert set(again) - {"heads.video.k400.weight", "heads.video.k400.bias"} == set(plain)
    assert all(torch.equal(again[key].flatten(), value.flatten()) for key, value in plain.items())


@torch.inference_mode()
def test_c2d_on_one_frame_is_a_resnet():
    """Of torchvision, by its own names; a clip of equal frames and one of a single frame are that image, too."""
    resnet, classes = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=7).eval(), {"in1k": ("image", 7)}
    resnet.load_state_dict(filled(resnet.state_dict()))
    model = load("c2d50.tv_in1k", resnet.state_dict(), depths=(1, 1, 1, 1), tasks=classes)
    x = torch.randn(2, 3, 48, 40)
    close(model(x), resnet(x), 1e-6)
    for frames in (1, 4):
        close(model(x[:, :, None].expand(-1, -1, frames, -1, -1)), resnet(x), 2e-6)


@torch.inference_mode()
def test_non_local_c2d_sees_equal_frames_as_one():
    model = make("c2d50_nl", SMALL, num_classes=0)
    x = torch.randn(2, 3, 32, 32)
    close(model(x[:, :, None].expand(-1, -1, 6, -1, -1)), model(x))


@torch.inference_mode()
def test_a_resnet_starts_the_image_pathway_exactly_and_is_inflated():
    """An inflated network sees a still clip as the image, but for its ends, where time is padded."""
    resnet = timm.create_model("resnet26", layers=(1, 2, 1, 1), num_classes=7).eval()
    weights = filled(resnet.state_dict())
    resnet.load_state_dict(weights)
    with pytest.warns(UserWarning, match=r"no weights for heads.video.k400 in the checkpoint: freshly"):
        model = load("i3d50_nl_dual", weights, **SHORT | dict(tasks={"in1k": ("image", 7)} | K400))
    x = torch.randn(2, 3, 40, 40)
    close(model(x), resnet(x))
    stem = model.stem.conv["video"].weight
    close(stem, weights["conv1.weight"][:, :, None].expand(-1, -1, 5, -1, -1) / 5)
    temporal = model.stages[0][0].conv1["video"].weight
    close(temporal, weights["layer1.0.conv1.weight"].expand(-1, -1, 3, -1) / 3)


@torch.inference_mode()
def test_a_video_network_starts_both_pathways():
    """The image pathway is the deflation: every filter summed over time."""
    weights = theirs("slowfast", "i3d50_nl", **EIGHTH | TWO)
    alone = load("i3d50_nl.sf_k400", weights, **EIGHTH | TWO)
    both: dict[str, Any] = dict(heads={"image": ["k400"], "video": ["k400"]})
    dual = load("i3d50_nl_dual.sf_k400_deflated", weights, **EIGHTH | TWO | both)
    close(dual(x := clips()), alone(x), 1e-6)
    close(dual.stem.conv["image"].weight, weights["s1.pathway0_stem.conv.weight"].sum(2))
    first = dual.stages[0][0].conv1["image"].weight
    close(first, weights["s2.pathway0_res0.branch2.a.weight"].sum(2))
    c2d = {key: w.sum(2, keepdim=True) if w.ndim == 5 else w for key, w in weights.items()}
    image = load("c2d50_nl", c2d, **EIGHTH | TWO | both)
    close(dual(x := torch.randn(2, 3, 32, 32)), image(x))
    adopted: Any = timm.create_model("i3d50_nl_dual", **EIGHTH | TWO | both).eval()
    adopted.load_state_dict(adopted.adopt(alone.state_dict()))
    close(adopted(x), dual(x), 1e-6)
    with pytest.raises(CheckpointError, match=r"of another shape: stem.conv.weight \(8, 3, 5, 7, 7\) for"):
        load("c2d50_nl", weights, **EIGHTH | TWO | both)  # which no frame of it could stand for


@torch.inference_mode()
def test_long_clips_are_looked_at_in_groups_of_four_frames():
    """The second stage's blocks see four frames at a time, as if those were clips of their own; the third's see all."""
    arguments: dict[str, Any] = dict(width=1 / 32, depths=(1, 1, 1), tasks=K400, form="caffe2_8f_groups")
    model: Any = make("i3d50_nl", arguments, nonlocal_blocks=((), (0,), (0,)))
    assert [model.stages[number][0].attention.group for number in (1, 2)] == [4, 0]
    block = model.stages[1][0].attention
    x = torch.randn(2, 12, 16, 6, 6)
    apart = torch.stack([block(group.flatten(0, 1), "video", 2).unflatten(0, (2, 4)) for group in x.split(4, 1)], 1)
    close(block(x.flatten(0, 1), "video", 2), apart.flatten(0, 2), 1e-6)
    assert block(x[:, :3].flatten(0, 1), "video", 2).shape == (6, 16, 6, 6)  # fewer than a group
    assert model(clips(1, 24)).shape == (1, 7)
    with pytest.raises(ValueError, match=r"leave frames in groups of 4, got \(1, 3, 20, 32, 32\), which leave 10"):
        model(clips(1, 20))


@torch.inference_mode()
def test_caffe2s_norms_of_scale_and_bias_alone(tmp_path):
    """As the authors fold them (convert_to_finetune.py): scale / std and bias - mean * scale / std, non-local blocks
    without any norm; the same network as with the statistics."""
    weights = theirs("caffe2", "i3d50_nl", **EIGHTH | TWO)
    affine, endings = {}, ("_s", "_b", "_rm", "_riv")
    for norm in {key.removesuffix("_riv") for key in weights if key.endswith("_riv")}:
        scale, bias, mean, variance = (weights[f"{norm}{ending}"] for ending in endings)
        if norm.startswith("nonlocal"):
            for ending, value in zip(endings, (1.0, 0.0, 0.0, 1 - 1e-5), strict=True):
                weights[f"{norm}{ending}"] = torch.full_like(scale, value)
        else:
            std = (variance + 1e-5).sqrt()
            affine |= {f"{norm}_s": scale / std, f"{norm}_b": bias - mean * scale / std}
    folded = {key: value for key, value in weights.items() if "_bn_" not in key} | affine
    write_blobs(tmp_path / "affine.pkl", folded, lr=b"K\1")
    overlay = dict(file=str(tmp_path / "affine.pkl"))
    model = timm.create_model("i3d50_nl", pretrained=True, pretrained_cfg_overlay=overlay, **EIGHTH | TWO).eval()
    close(model(x := clips(2, 8)), load("i3d50_nl", weights, **EIGHTH | TWO)(x), 1e-5)
    del folded["res3_1_branch2b_bn_s"]
    with pytest.raises(CheckpointError, match=r"missing: stages.1.1.conv2_norm.\w*.?weight"):
        load("i3d50_nl", folded, **EIGHTH | TWO)
    del weights["res3_1_branch2b_bn_riv"]  # of a network that has statistics
    with pytest.raises(CheckpointError, match=r"missing: stages.1.1.conv2_norm.\w*.?running_var"):
        load("i3d50_nl", weights, **EIGHTH | TWO)


def test_what_does_not_fit_is_refused():
    weights = theirs("slowfast", "i3d50", **EIGHTH)
    with pytest.raises(CheckpointError, match=r"classifier in these weights of PySlowFast has 7 .* k400 has 400"):
        load("i3d50", weights, width=1 / 8, depths=EIGHTH["depths"])
    with pytest.raises(
        CheckpointError, match=r"in no format that is read here: .*PySlowFast, Caffe2 .*, mmaction2, Tushar-N"
    ):
        load("i3d50", {"features.0.weight": torch.zeros(3)}, **EIGHTH)
    with pytest.raises(CheckpointError, match=r"missing: stages.1.1.attention.theta.weight"):
        load("i3d50_nl.sf_k400", weights, **EIGHTH | TWO)
    with pytest.raises(ValueError, match=r"nonlocal_blocks \[\[\], \[4\]\] names blocks that stages of \[1, 2, 2, 1\]"):
        timm.create_model("i3d50", nonlocal_blocks=((), (4,)), **EIGHTH)
    with pytest.warns(UserWarning, match=r"form 'mmaction2', this one is of 'slowfast': .* choose a tag"):
        load("i3d50", theirs("mmaction2", "i3d50", **EIGHTH), form="slowfast", **EIGHTH)


@pytest.mark.filterwarnings("ignore:.*are under cc-by-nc")
@torch.inference_mode()
@pytest.mark.parametrize(
    ("file", "tag", "known", "other"),
    [
        ("i3d50_nl.mm_gaussian_k400", "i3d50_nl", "mmaction2", "mm_k400"),
        ("i3d50_nl.sf_k400", "i3d50_nl.mm_dot_product_k400", "slowfast", None),
        ("i3d50_nl.caffe2_32f_k400", "i3d50_nl", "pytorch_resnet3d", None),
    ],
)
def test_a_file_brings_its_form_along(file, tag, known, other):
    """A network of another tag, or of none, becomes the one that the file is of."""
    size, x = EIGHTH | TWO, clips(frames=8)
    weights = theirs(known, file, **size)
    expected: Any = load(file, weights, **size)
    for name in filter(None, (tag, other and f"i3d50_nl.{other}")):
        with pytest.warns(UserWarning, match=r"state_dict is of a network of .*, and so this one becomes"):
            model: Any = load(name, weights, **size)
        close(model(x), expected(x), 0)
        assert timm.create_model(name, **model.arguments()).arguments()["affinity"] == model.arguments()["affinity"]


def test_rows_without_files_say_so():
    for name in ("i3d101.sf_k400", "i3d101_nl.sf_k400", "c2d50.sf_k400"):
        with pytest.raises(CheckpointError, match=rf"{name} has no published weights: `unidual train paper-34"):
            timm.create_model(name, pretrained=True, **EIGHTH)


def test_a_licence_that_forbids_commercial_use_is_told(tmp_path, monkeypatch):
    name = "i3d50_nl.caffe2_8f_k400"
    model = theirs("slowfast", name, **EIGHTH | TWO)
    torch.save({"model_state": model, "epoch": 3}, tmp_path / "theirs.pyth")
    rows = nonlocal_net.CHECKPOINTS
    monkeypatch.setitem(rows, name, dataclasses.replace(rows[name], url=(tmp_path / "theirs.pyth").as_uri()))
    with pytest.warns(UserWarning, match=rf"the weights of {name} are under cc-by-nc-4.0: .* commercially"):
        timm.create_model(name, pretrained=True, cache_dir=str(tmp_path / "cache"), **EIGHTH | TWO)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "frames", "pixels"),
    [
        ("i3d50", 2, 1), ("i3d50_nl", 2, 17), ("i3d50.mm_k400", 5, 1), ("i3d50.caffe2_32f_k400", 7, 5),
        ("c2d50.sf_nopool_k400", 1, 1),
    ],
)  # fmt: skip
def test_the_smallest_input_is_taken_and_a_smaller_one_refused(name, frames, pixels):
    model = make(name, dict(EIGHTH, width=1 / 32) | (TWO if "_nl" in name else {}))
    assert model(torch.randn(1, 3, frames, pixels, pixels), modality="video").isfinite().all()
    for few, small in ((frames - 1, pixels), (frames, pixels - 1)):
        if few and small:
            with pytest.raises(ValueError, match=rf"of at least ({frames} frames|{pixels} pixels), got"):
                model(torch.randn(1, 3, few, small, small), modality="video")


def test_parameters_are_upstreams():
    counts = {"c2d50": 24_327_632, "i3d50_nl.mm_k400": 35_397_840, "i3d101_nl": 59_112_656}
    for name, count in counts.items():
        with torch.device("meta"):
            model = timm.create_model(name, tasks={"k400": ("video", 400)})
        assert sum(weight.numel() for weight in model.parameters()) == count, name
