"""The table of checkpoints: conversions against independent networks, warm starts, and what is refused."""

import json
import re
import warnings
from pathlib import Path

import pytest
import timm
import torch
from conv3d import Conv3dNet
from models.reference import fill, filled, seeded_clip
from models.small import clips, close, images, small
from timm.models._hub import save_for_hf

from unidual_zoo.models.unidual import ARCHITECTURES, CHECKPOINTS, SHARED, checkpoint_filter_fn
from unidual_zoo.scoring import PROTOCOLS
from unidual_zoo.spec import parse_tasks
from unidual_zoo.training.recipes import find_recipe
from unidual_zoo.weights import CheckpointError

NARROW = dict(width=1 / 16, depths=(2, 1, 1, 1))
UPSTREAM = [name for name, row in CHECKPOINTS.items() if row.url and name != "r2plus1d18.tv_k400"]
WARM = [name for name in UPSTREAM if name.startswith("unidual")]
BOTH = {"in1k": ("image", 1000), "k400": ("video", 400)}


def size_of(name: str) -> str:
    return re.findall(r"(34|152)", name)[0]


def reference(name: str, num_classes: int | None = None) -> Conv3dNet:
    """A narrow network of upstream's kind with the number of classes of the tag's weights."""
    tasks = parse_tasks({**ARCHITECTURES[name.split(".")[0]], **CHECKPOINTS[name].arguments}["tasks"])
    num_classes = num_classes or next(task.num_classes for task in tasks.values() if task.modality == "video")
    return filled(size_of(name), num_classes=num_classes, **NARROW)


@pytest.fixture
def upstream_file(tmp_path):
    """Writes a network's weights as upstream does."""

    def write(model: torch.nn.Module, wrap=lambda state: state) -> Path:
        torch.save(wrap(model.state_dict()), tmp_path / "upstream.pth")
        return tmp_path / "upstream.pth"

    return write


def load(name: str, file: Path, **kwargs) -> torch.nn.Module:
    """The tag's model, narrow, with the weights of a file; a warning is an error."""
    overlay = dict(file=str(file))
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **{**NARROW, **kwargs}).eval()


# ---- conversions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["34", "152"])
def test_full_sized_network_gives_upstreams_logits(size):
    """Against logits of upstream's own code, and against torchvision's blocks put together as upstream does."""
    golden = json.loads((Path(__file__).parent / "upstream_logits.json").read_text())[size]["logits"]
    theirs, x = filled(size), seeded_clip(1, 3, 8, 64, 64)
    tag = next(iter(name for name in CHECKPOINTS if name.startswith(f"r2plus1d{size}.")))
    with torch.device("meta"):
        ours = timm.create_model(tag)
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours), assign=True)
    with torch.no_grad():
        logits, expected = ours.eval()(x), theirs(x)
    close(logits, expected, 1e-5)
    close(logits[0, : len(golden)], torch.tensor(golden), 1e-5)


@pytest.mark.parametrize("name", UPSTREAM)
def test_every_tag_takes_a_file_in_upstreams_format(name, upstream_file):
    theirs = reference(name)
    ours, x = load(name, upstream_file(theirs)), clips(frames=8)
    close(ours(x), theirs(x))
    assert ours.pool is None
    assert ours.spec.crop == (112, 112)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
)
def test_wrapped_weights_are_unwrapped(wrap, upstream_file):
    name = "r2plus1d34.ig65m_clip8"
    theirs = reference(name)
    close(load(name, upstream_file(theirs, wrap))(x := clips()), theirs(x))
    given = dict(state_dict=wrap(theirs.state_dict()))
    close(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **NARROW).eval()(x), theirs(x))


@pytest.mark.parametrize("name", WARM)
def test_image_pathway_of_a_warm_start_is_the_deflated_network(name, upstream_file):
    theirs = reference(name)
    ours, x = load(name, upstream_file(theirs)), images()
    for module in theirs.modules():  # a filter summed over time and put in its middle sees one frame as R2D does
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] == 3:
            weight = module.weight.data
            module.weight.data = torch.zeros_like(weight).index_copy_(2, torch.tensor([1]), weight.sum(2, keepdim=True))
    close(ours(x), theirs(x[:, :, None]))
    close(ours(x), ours(x, modality="image", task="k400"), 0)


def test_shared_norms_and_other_input_channels_take_upstreams_weights(upstream_file):
    theirs = reference("unidual34.ig65m_ft_k400_deflated")
    file = upstream_file(theirs)
    shared, x = load("unidual34.ig65m_ft_k400_deflated", file, norms=SHARED), clips()
    assert "stem.spatial_norm.shared.weight" in shared.state_dict()
    close(shared(x), theirs(x))
    close(shared(x := images()), load("unidual34.ig65m_ft_k400_deflated", file)(x))
    grey = load("unidual34.ig65m_ft_k400_deflated", file, in_chans=1)
    close(grey(x := clips(chans=1)), theirs(x.expand(-1, 3, -1, -1, -1)))


# ---- warm starts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WARM)
def test_warm_start_is_the_default_and_has_the_k400_heads_alone(name):
    variant = name.split(".")[0]
    assert timm.get_pretrained_cfg(variant).tag == "ig65m_ft_k400_deflated"
    with torch.device("meta"):
        model, bare = timm.create_model(name), timm.create_model(variant)
    assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("k400",)
    assert len(model.spec.class_names("k400")) == model.num_classes == 400
    assert bare.pathway_tasks("image")[0] == "in1k"
    assert bare.pool is not None or "152" not in name
    assert bare.spec.crop == ((224, 224) if "152" in name else (112, 112))


@pytest.mark.parametrize("name", WARM)
def test_a_saved_warm_start_is_not_deflated_again(name, upstream_file, tmp_path):
    model = load(name, upstream_file(reference(name)))
    with torch.no_grad():
        model.stages[0][0].conv2.pointwise["image"].weight.mul_(2)
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert (again._model_args, again.spec) == (model._model_args, model.spec)
    for x in (images(), clips()):
        close(again(x), model(x), 0)
    assert again.pretrained_cfg["tag"] == "ig65m_ft_k400_deflated"


@pytest.mark.parametrize("asked", [dict(tasks=BOTH), dict(num_classes=1000)])
@pytest.mark.parametrize("name", [name for name in WARM if "34" in name])
def test_an_imagenet_head_is_fresh_and_a_warning_says_so(name, asked, upstream_file):
    theirs = reference(name)
    with pytest.warns(UserWarning, match="no weights for heads.image.in1k.*: freshly initialised") as caught:
        model = load(name, upstream_file(theirs), **asked)
    assert len(caught) == 1
    assert "k400" not in str(caught[0].message)
    close(model(x := clips()), theirs(x))
    assert model(images()).shape == (2, 1000)
    aux = name.split(".")[0].endswith("_aux")
    assert model.pathway_tasks("image") == (("in1k", "k400") if aux else ("in1k",))
    assert model.pathway_tasks("video") == (("in1k", "k400") if aux else ("k400",))


def test_saved_warm_start_with_new_heads_comes_back_and_grows_again(upstream_file, tmp_path):
    name = "unidual34.ig65m_ft_k400_deflated"
    with pytest.warns(UserWarning, match="freshly"):
        model = load(name, upstream_file(reference(name)), tasks=BOTH)
    save_for_hf(model, str(tmp_path / "saved"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    for x in (images(), clips()):
        close(again(x), model(x), 0)
    with pytest.warns(UserWarning, match=r"heads.image.in1k.*has 1,000 classes there"):
        five = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True, num_classes=5).eval()
    assert five(images()).shape == (2, 5)
    close(five(x := clips()), model(x), 0)


@pytest.mark.parametrize("name", ["r2plus1d34.ig65m_ft_k400_clip8", "unidual34_aux.ig65m_ft_k400_deflated"])
def test_another_task_of_400_classes_does_not_get_the_head_of_k400(name, upstream_file):
    theirs = reference(name)
    with pytest.warns(UserWarning, match="no weights for .*heads.video.mine"):
        model = load(name, upstream_file(theirs), tasks={"mine": ("video", 400)})
    assert not torch.equal(model.heads["video"]["mine"].weight, theirs.fc.weight)
    assert model.spec.class_names("mine") is None


def test_features_alone_need_no_warning(upstream_file):
    theirs = reference("unidual34_aux.ig65m_ft_k400_deflated")
    file = upstream_file(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooled = load("unidual34_aux", file, num_classes=0)(x := clips())
        stages = load("unidual34_aux", file, features_only=True, modality="video", out_indices=(0, 4))(x)
    close(theirs.fc(pooled), theirs(x))
    close(stages[0], theirs.stem(x))
    close(stages[1].mean((2, 3, 4)), pooled)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_classes_is_refused_unless_other_classes_are_asked_for(upstream_file):
    name = "r2plus1d34.ig65m_ft_k400_clip8"
    file = upstream_file(reference(name, num_classes=487))
    with pytest.raises(
        CheckpointError, match=r"upstream.pth: .* another shape: heads.video.k400.weight \(487, 32\) for"
    ):
        load(name, file)
    with pytest.raises(CheckpointError, match=r"heads.video.k400.weight \(487, 32\) for \(400, 32\)"):
        load("unidual34", file)
    assert load(name, file, num_classes=487)(clips()).shape == (2, 487)


def test_a_checkpoint_of_another_network_is_refused_with_a_short_list(upstream_file):
    shallow = upstream_file(reference("r2plus1d34.ig65m_clip8", num_classes=400))
    with pytest.raises(
        CheckpointError, match=r"does not fit UniDual: missing: .* and \d+ more; .*another shape"
    ) as error:
        load("r2plus1d152", shallow)
    assert len(str(error.value)) < 1500
    torch.save({"encoder.weight": torch.zeros(3)}, shallow)
    with pytest.raises(CheckpointError, match=r"in no format that is read here: .* own, the R\(2\+1\)D of torchvision"):
        load("r2plus1d34", shallow, num_classes=3)


@pytest.mark.parametrize("name", [name for name, row in CHECKPOINTS.items() if not row.has_weights])
def test_systems_of_the_paper_have_a_recipe_in_place_of_weights(name):
    with pytest.raises(CheckpointError, match=f"{name} has no published weights: `unidual train paper-") as error:
        timm.create_model(name, pretrained=True, **NARROW)
    recipe, *settings = re.findall(r"`unidual train (.*)`", str(error.value))[0].split(" --set ")
    found = find_recipe(recipe, settings)
    assert found.model.model == name.split(".")[0]
    tasks = ARCHITECTURES[found.model.model]["tasks"]
    assert dict(found.data.tasks) == {task: modality for task, (modality, _) in tasks.items()}
    assert name.split(".")[1] == "_".join(tasks)
    with torch.device("meta"):
        assert not timm.create_model(name).auxiliary


def test_a_name_without_any_weights_says_so():
    with pytest.raises(
        CheckpointError, match=r"r2d34_multitask.in1k_k400 has no published weights: `unidual train paper-34"
    ):
        timm.create_model("r2d34_multitask", pretrained=True, **NARROW)
    with pytest.raises(CheckpointError, match="r2plus1d10_multitask has no published weights: use pretrained=False"):
        timm.create_model("r2plus1d10_multitask", pretrained=True)


# ---- the facts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in CHECKPOINTS.items() if row.url])
def test_facts_of_a_row(name):
    row, cfg = CHECKPOINTS[name], timm.get_pretrained_cfg(name)
    in_name = re.findall(r"-([0-9a-f]{8})\.pth$", row.url)
    assert [row.sha256] == (in_name or [None])
    assert row.url.startswith("https://")
    assert (cfg.url, cfg.license, cfg.origin_url) == (row.url, row.license, row.source)
    assert row.about
    assert ("k400" in name) == bool(row.upstream)
    assert {figure.protocol for figure in row.upstream} <= set(PROTOCOLS)
    with torch.device("meta"):
        model = timm.create_model(name)
    for task in model.tasks.values():
        names = model.spec.class_names(task.name)
        assert (names is None) == (task.name == "ig65m")
        assert names is None or len(names) == task.num_classes
    assert (model.spec.clip.length, model.spec.clip.stride) == ({"18": 16, "34": 8, "152": 32}[depth_of(name)], 1)
    assert model.spec.clip.rate == (15 if "18" in name else None)


def depth_of(name: str) -> str:
    return "152" if "clip32" in name else re.findall(r"(18|34|152)", name)[0]


def test_golden_fill_does_not_depend_on_the_order_of_names():
    state = small("r2plus1d10").state_dict()
    turned = dict(reversed(state.items()))
    assert all(torch.equal(value, fill(turned)[key]) for key, value in fill(state).items())
