"""Fitting weights to a network's heads and channels, and refusing those that are no numbers."""

import pytest
import timm
import torch
from models.small import TASKS, clips, small
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn
from weights.told import one_sentence

from unidual_zoo import for_inference
from unidual_zoo.inference import load_model
from unidual_zoo.weights import (
    CheckpointError,
    fit_to_model,
    is_finite,
)


def model_with_heads(**classes: int) -> nn.Module:
    heads = nn.ModuleDict({name: nn.Linear(2, count) for name, count in classes.items()})
    return nn.ModuleDict({"stem": nn.Conv2d(3, 2, 1, bias=False), "heads": nn.ModuleDict({"image": heads})})


def test_heads_are_fresh_only_where_that_is_allowed():
    weights = model_with_heads(a=4, b=5).state_dict()
    other = model_with_heads(a=4, b=6, c=1)
    message = r"no weights for heads.image.b, heads.image.c in the checkpoint \(heads.image.b has 5 classes there\)"
    with pytest.warns(UserWarning, match=message):
        fitted = fit_to_model(weights, other)
    assert torch.equal(fitted["heads.image.a.weight"], weights["heads.image.a.weight"])
    assert torch.equal(fitted["heads.image.b.weight"], other.state_dict()["heads.image.b.weight"])
    message = r"missing: heads.image.c.weight, heads.image.c.bias; of another shape: heads.image.b.weight \(5, 2\) for"
    with pytest.raises(CheckpointError, match=message):
        fit_to_model(weights, other, fresh_heads=False)
    assert (
        fit_to_model(weights, model_with_heads(a=4), fresh_heads=False).keys()
        == model_with_heads(a=4).state_dict().keys()
    )


def test_names_that_a_file_gives_its_weights_are_escaped():
    weights = model_with_heads().state_dict() | {"stem.\x1b[31m\nred": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unknown: 'stem.\\x1b\[31m\\nred'$") as error:
        fit_to_model(weights, model_with_heads())
    one_sentence(error.value)


def test_filters_are_fitted_to_other_channels():
    weights = model_with_heads().state_dict()
    grey = model_with_heads()
    grey["stem"] = nn.Conv2d(1, 2, 1, bias=False)
    fitted = fit_to_model(weights, grey, adaptable=["stem.weight"])
    torch.testing.assert_close(fitted["stem.weight"], weights["stem.weight"].sum(1, keepdim=True))
    with pytest.raises(CheckpointError, match=r"stem.weight \(2, 3, 1, 1\) for \(2, 1, 1, 1\)"):
        fit_to_model(weights, grey)
    weights["stem.weight"] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])[..., None, None, None]  # a kernel of three axes
    wide = model_with_heads()
    wide["stem"] = nn.Conv3d(5, 2, 1, bias=False)
    fitted = fit_to_model(weights, wide, adaptable=["stem.weight"])["stem.weight"]
    expected = torch.tensor([[0.6, 1.2, 1.8, 0.6, 1.2], [2.4, 3, 3.6, 2.4, 3]])
    torch.testing.assert_close(fitted.flatten(1), expected)
    with pytest.raises(CheckpointError, match=r"stem.weight \(2, 3, 1, 1, 1\) for \(2, 3, 1, 1\)"):
        fit_to_model(weights, model_with_heads(), adaptable=["stem.weight"])


# ---- weights that are no numbers ------------------------------------------------------------------------------------


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_value_of_any_type_is_found(dtype, bad):
    values = torch.full((2, 3), 3e4).to(dtype)  # within float16, and their sum beyond it
    assert is_finite(values)
    values[1, 2] = bad
    assert not is_finite(values)


def test_what_has_no_values_or_whole_ones_is_finite():
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.full((2,), 2**62))
    assert is_finite(torch.empty(10**12, device="meta"))


def spoiled(key: str, value: float, *, half: bool = False) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small network, and its weights with one bad value."""
    model = small("unidual10_aux", tasks=TASKS)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    if half:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    weights[key].view(-1)[-1] = value
    return model, weights


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "key", ["stages.2.0.conv1.spatial.weight", "stem.norm.video.running_mean", "heads.video.k400.bias"]
)
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, key, half):
    model, weights = spoiled(key, torch.nan, half=half)
    with pytest.raises(CheckpointError, match=rf"^the checkpoint holds NaN or infinity: {key}$"):
        fit_to_model(weights, model)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: the checkpoint holds NaN or infinity: {key}") as error:
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    one_sentence(error.value)
    with pytest.raises(RuntimeError, match=f"NaN or infinity: {key}"):
        load_model(f"local-dir:{tmp_path}", checkpoint=tmp_path / "model.safetensors")


def test_a_bad_head_that_is_not_used_does_not_matter():
    _, weights = spoiled("heads.image.k400.weight", torch.inf)
    without = small("unidual10", tasks=TASKS)
    assert "heads.image.k400.weight" not in fit_to_model(weights, without)


def test_packaged_weights_with_one_bad_value_are_refused(tmp_path):
    path = timm.get_pretrained_cfg("unidual10_aux.cifar10_motion").file
    weights = load_file(path)
    key = "stages.3.0.conv2.pointwise.video.weight"
    assert weights[key].dtype == torch.float16
    weights[key][0, 0] = torch.inf
    save_file(weights, tmp_path / "packaged.safetensors")
    with pytest.raises(RuntimeError, match=f"packaged.safetensors.*NaN or infinity: {key}"):
        load_model("unidual10_aux.cifar10_motion", checkpoint=tmp_path / "packaged.safetensors")


def test_every_convolution_is_looked_at_before_it_serves():
    """A network with one NaN answers NaN, and its served copy would answer: its ReLU turns NaN into 0."""
    model, x = small("unidual10", tasks=TASKS), clips(1, 2, 16)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) > 20
    for name in convolutions:
        weight = model.get_submodule(name).weight
        kept = weight[0, 0, 0, 0].item()
        with torch.no_grad():
            weight[0, 0, 0, 0] = torch.nan
            with pytest.raises(CheckpointError, match=f"the network holds NaN or infinity: {name}.weight"):
                for_inference(model)
            weight[0, 0, 0, 0] = kept
    assert for_inference(model)(x).isfinite().all()


def test_what_folding_and_casting_make_is_looked_at_too():
    model = small("unidual10", tasks=TASKS)
    norm = model.stem.norm["video"]
    with torch.no_grad():
        kept = norm.running_var.clone()
        norm.running_var[0] = -1  # finite, and its root is not
        with pytest.raises(
            CheckpointError, match=r"the folded network holds NaN or infinity: stem.layers.1.video.weight"
        ):
            for_inference(model)
        norm.running_var.copy_(kept)
        norm.weight[0] = 1e9
    for_inference(model)
    with pytest.raises(
        CheckpointError, match=r"the folded network in float16 holds NaN or infinity: stem.layers.1.video"
    ):
        for_inference(model, dtype=torch.float16)
