"""CorrNet against outputs of other code bases on seeded weights, and its correlation against one position at a time.

The goldens are pytorchvideo's R(2+1)D (commit f3142bb) at an eighth of its width and the correlation layer of
tefantasy/CorrNet (commit e533ef7), in float64.
"""

import zlib
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from models.base import FamilyTests
from models.small import TASKS, clips, close, images, make
from torch.export import Dim

from unidual_zoo import for_inference
from unidual_zoo.explain import explain
from unidual_zoo.models import corrnet
from unidual_zoo.models.corrnet import correlate, frames_before, from_pytorchvideo, resample_filters, to_pytorchvideo
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import CheckpointError

SPEC = InputSpec(resize=36, crop=(32, 32))
SMALL: dict[str, Any] = dict(width=1 / 16, depths=(2, 1, 1), correlations=((1,), (0,)), num_frames=4, spec=SPEC)
SHALLOW: dict[str, Any] = SMALL | dict(depths=(1,), correlations=((0,),))
EIGHTH: dict[str, Any] = dict(width=1 / 8, tasks={"k400": ("video", 7)})
NAMES_OF_WEIGHTS = 3647691718  # a checksum of pytorchvideo's names and shapes at an eighth of the width
LOGITS = [-0.591185, 0.686713, -0.244528, 1.04691, -0.644927, -0.275945, -0.615141]
TEFANTASYS_LOGITS = [0.103807, -0.510779, 1.688001, -0.118235, 0.55121, -0.266358, 0.523838]
PROJECTED = [9.45026, 3.57959, -0.044474, 15.575182, -7.60318, 3.31246]


class TestCorrNet(FamilyTests):
    family, names, small = corrnet.FAMILY, ("corrnet26",), SMALL


def seeded(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- the correlation ------------------------------------------------------------------------------------------------


def slowly(here, there, filters, *, dilation: int, groups: int) -> torch.Tensor:
    """The definition (paper, equations 1 to 3), an output at a time."""
    (frames, channels, height, width), kernel = here.shape, filters.shape[-1]
    output, size = here.new_zeros(frames, kernel * kernel * groups, height, width), channels // groups
    for n, out, y, x in torch.cartesian_prod(*map(torch.arange, output.shape)).tolist():
        (row, column), group = divmod(out // groups, kernel), out % groups
        v, u = y + dilation * (row - kernel // 2), x + dilation * (column - kernel // 2)
        if 0 <= v < height and 0 <= u < width:
            of = slice(group * size, (group + 1) * size)
            output[n, out, y, x] = (filters[n, of, row, column] * here[n, of, y, x] * there[n, of, v, u]).mean()
    return output


@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(3, 2, 2), (5, 1, 1), (1, 1, 4)])
def test_every_position_meets_a_window_of_the_other_frame(kernel, dilation, groups, monkeypatch):
    here, there, filters = seeded(1, 3, 4, 4, 5), seeded(2, 3, 4, 4, 5), seeded(3, 3, 4, kernel, kernel)
    expected = slowly(here, there, filters, dilation=dilation, groups=groups)
    for products in (2**18, 160, 1):  # all frames at once, two, one
        monkeypatch.setattr(corrnet, "PRODUCTS_ON_CPU", products)
        close(correlate(here, there, filters, dilation=dilation, groups=groups), expected, 1e-6)


def test_correlation_by_hand():
    """One channel, one row of three pixels, a window of 3×3 whose middle row alone lies within the frame."""
    here, there = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[10.0, 20.0, 30.0]]]])
    filters = torch.arange(9.0).reshape(1, 1, 3, 3)  # of the middle row 3, 4 and 5
    got = correlate(here, there, filters, dilation=1, groups=1)[0, :, 0]
    assert got[3:6].tolist() == [[0, 60, 180], [40, 160, 360], [100, 300, 0]]
    assert not got[:3].any()
    assert not got[6:].any()


def test_a_frame_is_compared_with_that_before_and_the_first_with_itself():
    numbers = torch.arange(6.0).reshape(6, 1, 1, 1)  # two clips of three frames
    assert frames_before(numbers, 2).flatten().tolist() == [0, 0, 1, 3, 3, 4]


def test_outputs_of_another_implementation():
    """Whose window lies in the later frame: the two change their roles."""
    generator = torch.Generator().manual_seed(5)
    filters = torch.randn(8, 3, 7, 7, generator=generator)
    x = torch.randn(1, 8, 3, 6, 5, generator=generator)[0].transpose(0, 1)
    got = correlate(frames_before(x, 1), x, filters.transpose(0, 1), dilation=2, groups=2)  # (T, K*K*G, H, W)
    random = seeded(6, 1, 98, 3, 6, 5)[0].transpose(0, 1)
    close((got * random).unflatten(1, (49, 2)).sum((1, 3, 4)).T.flatten(), torch.tensor(PROJECTED), 1e-5)


def test_gradients_of_the_correlation(monkeypatch):
    monkeypatch.setattr(corrnet, "PRODUCTS_ON_CPU", 12)  # a frame at a time
    shapes = [(2, 4, 2, 3), (2, 4, 2, 3), (2, 4, 3, 3)]
    inputs = [seeded(i, *shape).double().requires_grad_() for i, shape in enumerate(shapes)]

    def correlated(*tensors):
        return correlate(*tensors, dilation=1, groups=2)

    assert torch.autograd.gradcheck(correlated, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(correlated, inputs, fast_mode=True)


def test_gradients_of_the_correlation_in_every_setting():
    """Many at once, with autocast around the backward pass alone, and within a transform of something else."""
    here, there, filters = (seeded(i, 2, 4, side, side).requires_grad_() for i, side in enumerate((4, 4, 3)))
    inputs, output = [here, there, filters], correlate(here, there, filters, dilation=1, groups=2)
    given = seeded(3, 2, *output.shape)
    expected = [torch.autograd.grad(output, inputs, one, retain_graph=True) for one in given]
    batched = torch.autograd.grad(output, inputs, given, is_grads_batched=True, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(output, inputs, given[0])
    for number, tensor in enumerate(found):
        assert torch.equal(tensor, expected[0][number])
        torch.testing.assert_close(batched[number], torch.stack([one[number] for one in expected]))
    scales = torch.tensor([1.0, 2])
    scaled = torch.func.vmap(lambda scale: scale * correlate(here, there, filters, dilation=1, groups=2))(scales)
    torch.testing.assert_close(scaled[1], 2 * output)


def test_training_keeps_no_products():
    """For the gradient nothing is kept but what came in, one map of it padded: 49 times as much would be."""
    here, there, filters = (
        seeded(i, 2, 8, side, side).requires_grad_() for i, side in enumerate((16, 16, 7))
    )  # fmt: skip
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        correlate(here, there, filters, dilation=2, groups=1)
    assert sum(kept.values()) <= 4 * (here.nbytes + there.nbytes)


def test_filters_of_clips_of_another_length():
    """The first is of a frame with itself and stays; the others, 1 to 4, are stretched or shrunk."""
    filters = torch.tensor([9.0, 1, 2, 3, 4]).reshape(1, 5, 1, 1)
    lengths = {
        5: [9, 1, 2, 3, 4],
        3: [9, 1.5, 3.5],
        2: [9, 2.5],
        1: [9],
        9: [9, 1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4],
    }
    for length, expected in lengths.items():
        assert resample_filters(filters, length).flatten().tolist() == expected
    assert resample_filters(filters[:, :1], 3).flatten().tolist() == [9, 9, 9]
    assert torch.equal(resample_filters(weights := seeded(0, 3, 16, 7, 7), 16), weights)


@torch.inference_mode()
def test_a_correlation_block_is_the_papers():
    """1×1, correlation in groups of 32 channels, 1×1 and the input; each frame of a clip has filters of its own."""
    model: Any = make(
        "corrnet26", dict(depths=(1,), correlations=((0,),), num_frames=3, width=1, spec=SPEC), num_classes=0
    )
    block, x = model.stages[0][0].correlation, seeded(0, 6, 256, 3, 4).relu()
    block.filters.copy_(seeded(1, *block.filters.shape))
    assert (block.filters.shape, block.decode.weight.shape) == ((64, 3, 7, 7), (256, 98, 1, 1))
    encoded = F.relu(block.encode_norm(block.encode(x), "video"))
    before, filters = encoded[[0, 0, 1, 3, 3, 4]], block.filters[:, [0, 1, 2, 0, 1, 2]].transpose(0, 1)
    decoded = block.decode(slowly(encoded, before, filters, dilation=2, groups=2))
    close(block(x, "video", 2), F.relu(x + block.decode_norm(decoded, "video")))
    fresh: Any = timm.create_model("corrnet26", **SMALL).eval()
    fresh = fresh.stages[0][1].correlation
    assert fresh.filters.eq(1).all()
    close(fresh(x[:, :16], "video", 2), x[:, :16], 0)  # it starts as nothing


# ---- other code bases' weights --------------------------------------------------------------------------------------


def theirs(**kwargs) -> dict[str, torch.Tensor]:
    """Seeded weights by pytorchvideo's names that keep activations within bounds, the same on every machine."""
    return filled(to_pytorchvideo(timm.create_model("r2plus1d50", **EIGHTH | kwargs).state_dict(), task="k400"))


def filled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    for key in sorted(weights):
        if key.endswith("num_batches_tracked"):
            continue
        x = torch.randn(weights[key].shape, generator=generator)
        if key.endswith("running_var"):
            x = x.abs() * 0.5 + 0.5
        elif x.ndim > 1:
            x = x * (1.2 / x[0].numel()) ** 0.5
        elif key.endswith("weight"):
            x = 0.4 + 0.1 * x if "norm_c" in key else 1 + 0.2 * x
        else:
            x = 0.1 * x
        weights[key] = x
    return weights


def tefantasys() -> dict[str, torch.Tensor]:
    """Weights by tefantasy's names, at half the width: two bottlenecks with a correlation between them, and a third."""
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (7, 256), "fc.bias": (7,)}

    def conv_and_norm(conv: str, norm: str, outputs: int, inputs: int, *kernel: int, bias: bool = False) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, *kernel)
        shapes.update({f"{norm}.{last}": (outputs,) for last in ("weight", "bias", "running_mean", "running_var")})
        if bias:
            shapes[f"{conv}.bias"] = (outputs,)

    conv_and_norm("conv1.0", "conv1.1", 16, 3, 1, 7, 7, bias=True)
    for block, inputs, planes in (("res2.0", 16, 32), ("res2.2", 128, 32), ("res3.0", 128, 64)):
        middle = 9 * planes // 4
        conv_and_norm(f"{block}.conv1.0", f"{block}.conv1.1", planes, inputs, 1, 1, 1)
        conv_and_norm(f"{block}.conv2.0.spatial_conv", f"{block}.conv2.0.bn", middle, planes, 1, 3, 3, bias=True)
        conv_and_norm(f"{block}.conv2.0.temporal_conv", f"{block}.conv2.1", planes, middle, 3, 1, 1, bias=True)
        conv_and_norm(f"{block}.conv3.0", f"{block}.conv3.1", 4 * planes, planes, 1, 1, 1)
        if not block.endswith("2"):
            conv_and_norm(f"{block}.downsample_conv.0", f"{block}.downsample_conv.1", 4 * planes, inputs, 1, 1, 1)
    conv_and_norm("res2.1.encode_conv.0", "res2.1.encode_conv.1", 32, 128, 1, 1, 1)
    shapes["res2.1.correlation.filter_weight"] = (32, 4, 7, 7)
    conv_and_norm("res2.1.decode_conv.0", "res2.1.decode_conv.1", 128, 49 * 32, 1, 1, 1)
    return filled({name: torch.empty(shape) for name, shape in shapes.items()})


def load(name: str, weights: dict[str, torch.Tensor], **kwargs) -> Any:
    overlay = dict(state_dict=weights)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@torch.inference_mode()
def test_pytorchvideos_outputs_on_its_weights(tmp_path):
    weights = theirs()
    listed = "\n".join(sorted(f"{key} {tuple(weight.shape)}" for key, weight in weights.items()))
    assert zlib.crc32(listed.encode()) == NAMES_OF_WEIGHTS
    torch.save({"model_state": weights}, tmp_path / "theirs.pyth")
    overlay = dict(file=str(tmp_path / "theirs.pyth"))
    model: Any = timm.create_model("r2plus1d50", pretrained=True, pretrained_cfg_overlay=overlay, **EIGHTH).eval()
    x = seeded(11, 1, 3, 8, 32, 32)
    for network in (model, for_inference(model)):
        close(network(x), torch.tensor([LOGITS]), 1e-5)
    again = to_pytorchvideo(model.state_dict(), task="k400")
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    ours = from_pytorchvideo(weights, task="k400")
    assert {key: tuple(w.shape) for key, w in ours.items()} == {
        key: tuple(w.shape) for key, w in model.state_dict().items()
    }


@torch.inference_mode()
def test_a_corrnet_starts_as_its_trunk():
    trunk = load("r2plus1d50", theirs(), **EIGHTH)
    model: Any = timm.create_model("corrnet50", num_frames=8, **EIGHTH).eval()
    model.load_state_dict(model.adopt(trunk.state_dict()))
    close(model(x := clips()), trunk(x), 1e-6)
    model.stages[2][5].correlation.decode_norm["video"].weight.fill_(1)
    assert (model(x) - trunk(x)).abs().max() > 1e-3


@torch.inference_mode()
def test_tefantasys_outputs_on_its_weights():
    """The file says that it is of that form, and for clips of how many frames."""
    small = dict(width=1 / 2, depths=(2, 1), correlations=((0,),), tasks={"k400": ("video", 7)})
    with pytest.warns(UserWarning, match=r"is of a network of form='tefantasy', num_frames=4, and so this one becomes"):
        model = load("corrnet26", tefantasys(), **small)
    x = seeded(11, 1, 3, 4, 32, 32)
    for network in (model, for_inference(model)):
        close(network(x), torch.tensor([TEFANTASYS_LOGITS]), 1e-5)
    again: Any = timm.create_model("corrnet26", **model.arguments()).eval()
    again.load_state_dict(model.state_dict())
    close(again(x), model(x), 0)


def test_what_does_not_fit_is_refused():
    weights, size = theirs(), dict(width=1 / 8)
    with pytest.raises(CheckpointError, match=r"heads.video.k400.weight \(7, 256\) for \(400, 256\)"):
        load("r2plus1d50", weights, **size)
    with pytest.raises(CheckpointError, match=r"in no format that is read here: .*own, pytorchvideo's R\(2\+1\)D"):
        load("r2plus1d50", {"blocks.0.conv.weight": torch.zeros(8, 3, 1, 7, 7)}, **EIGHTH)
    with pytest.raises(CheckpointError, match=r"missing: stages.0.2.correlation.filters"):
        load("corrnet50", weights, **EIGHTH)
    with pytest.raises(ValueError, match=r"correlations \[\[\], \[4\]\] name blocks that stages of \[3, 4, 6, 3\]"):
        timm.create_model("corrnet50", correlations=((), (4,)))
    with pytest.raises(ValueError, match=r"depths \[1, 1, 1, 1, 1\] are of 5 stages, there are 4"):
        timm.create_model("corrnet50", depths=(1,) * 5)
    with pytest.raises(ValueError, match=r"a video pathway alone, got pathways \['image', 'video'\]"):
        timm.create_model("corrnet26", pathways=("image", "video"))
    with pytest.raises(ValueError, match=r"width 0.001 leaves no channels, it must be at least 0.016"):
        timm.create_model("corrnet26", width=0.001)


# ---- sizes and uses -------------------------------------------------------------------------------------------------


def test_parameters_are_the_papers():
    """Of the trunk pytorchvideo's count; the blocks' are of clips of 16 and of 32 frames."""
    counts = {("r2plus1d50", 16): 28_107_600, ("corrnet26", 16): 16_858_576 + 1_126_272, ("corrnet101", 32): 52_694_736}
    for (name, frames), count in counts.items():
        with torch.device("meta"):
            model: Any = timm.create_model(name, num_frames=frames)
        assert sum(weight.numel() for weight in model.parameters()) == count, name
    placed = [[block.correlation is not None for block in stage] for stage in model.stages]
    assert [[index for index, there in enumerate(stage) if there] for stage in placed] == [[2], [3], [11, 22], []]


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (1, 3, 3, 5, 2), (1, 3, 9, 33, 17)])
def test_any_clip_will_do(shape):
    model = make("corrnet26", SMALL)
    for network in (model, for_inference(model)):
        assert network(torch.randn(shape)).isfinite().all()
        with pytest.raises(ValueError, match=r"needs non-empty images .* got \(1, 3, 0, 8, 8\)"):
            network(torch.randn(1, 3, 0, 8, 8))


def test_it_compiles_without_graph_breaks_for_any_batch():
    torch._dynamo.reset()
    model: Any = make("corrnet26", SHALLOW).train()
    graphs: list[Any] = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled: Any = torch.compile(model, fullgraph=True, backend=backend)
    for batch in (2, 3):
        x = clips(batch)
        torch._dynamo.mark_dynamic(x, 0)
        close(compiled(x), model(x))
    assert len(graphs) == 1
    torch._dynamo.reset()


@torch.no_grad()
def test_it_exports_any_number_of_frames():
    model: Any = for_inference(make("corrnet26", SHALLOW))
    shapes = {"x": {0: Dim("batch"), 2: Dim("frames", min=3)}}
    exported = torch.export.export(model, (clips(2, 5),), dynamic_shapes=shapes).module()
    for other in (clips(1, 8), clips(3, 3)):
        close(exported(other), model(other))


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:FutureWarning")  # torch's own, made at its first use
def test_it_is_traced_vectorised_and_derived():
    model, x = make("corrnet26", SHALLOW, tasks=TASKS), clips()
    traced: Any = torch.jit.trace(model, x)
    with torch.no_grad():
        close(traced(x), model(x))
        close(torch.func.vmap(lambda one: model(one[None])[0])(x), model(x))
    direction, step = torch.randn_like(x), 1e-3
    tangent = torch.func.jvp(model, (x,), (direction,))[1]
    assert tangent.abs().max() > 0
    doubled, wide = model.double(), (x.double(), direction.double())
    slope = (doubled(wide[0] + step * wide[1]) - doubled(wide[0] - step * wide[1])) / (2 * step)
    close(tangent.double(), slope, 0.02)


def test_gradients_and_narrow_types():
    model, x = make("corrnet26", SMALL, tasks=TASKS), clips().requires_grad_()
    expected = torch.autograd.grad(model(x).square().sum(), x)[0]
    close(torch.autograd.grad(for_inference(model)(x).square().sum(), x)[0], expected, 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        close(model(x.detach()).float(), model(x.detach()).float(), 0.05)
    assert model.bfloat16()(images().bfloat16()).dtype == torch.bfloat16


def test_it_is_explained():
    model, clip = make("corrnet26", SMALL), torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    names, blocks = model.explained_layers()
    assert (names, blocks) == (["stem", *blocks], ["stages.0.0", "stages.0.1", "stages.1.0", "stages.2.0"])
    response = explain(model, clip, layer=1).responses["video"]
    assert response.maps.shape == (16, 8, 8)
    assert response.class_map is not None
    assert response.class_map.cam.isfinite().all()
