"""What the tools around timm call: its factory, scripts, tasks and extractors, tracers, counters and exporters.

The checks of timm's own suite that are made nowhere else, and the calls of transformers, captum, fvcore and
segmentation_models_pytorch, made by hand: none of these is needed to run the tests.
"""

import copy
import re

import pytest
import timm
import torch
from models.small import DIFFERENT, DUAL, NAMES, TASKS, clips, close, images, small
from timm.layers import apply_test_time_pool, convert_splitbn_model
from timm.models import group_parameters, load_checkpoint, resume_checkpoint
from timm.optim import param_groups_layer_decay
from timm.task import FeatureDistillationTask, LogitDistillationTask
from timm.utils import ModelEmaV3
from timm.utils.model import freeze_batch_norm_2d
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from unidual_zoo import for_inference

SMALL = dict(width=1 / 16, depths=(1, 1, 1, 1), num_frames=4)
SHALLOW = dict(depths=(1, 1))  # for what goes through a network operator by operator, which takes long
AUX, TAG = "unidual10_aux", "unidual10_aux.cifar10_motion"  # a name, and its tag that pretrained=True picks
IMAGE_NAMES = [name for name in NAMES if not name.startswith("r2plus1d")]
FORMS = {"plain": lambda model: model, "served": for_inference}


# ---- timm.create_model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENT)
def test_device_and_type_are_those_asked_for(name):
    for kwargs in ({}, {"features_only": True}):
        model = timm.create_model(name, device="meta", dtype=torch.bfloat16, **SMALL, **kwargs)
        assert {weight.device.type for weight in model.state_dict().values()} == {"meta"}
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not {"device", "dtype"} & set(timm.create_model(name, device="cpu", **SMALL)._model_args)


def test_weights_take_the_type_asked_for():
    model = timm.create_model(AUX, pretrained=True, dtype=torch.bfloat16, device="cpu").eval()
    logits = model(x := images().bfloat16())
    assert logits.dtype == torch.bfloat16
    close(logits.float(), timm.create_model(AUX, pretrained=True).eval()(x.float()), 0.05)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_configuration(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.architecture == name
    assert timm.is_model_pretrained(name) == any((cfg.file, cfg.url))
    assert timm.get_pretrained_cfg_value(name, "first_conv") == "stem.spatial"


@pytest.mark.parametrize("task", [LogitDistillationTask, FeatureDistillationTask])
@pytest.mark.parametrize("teacher", [AUX, TAG, "r2plus1d10"])
@pytest.mark.filterwarnings("ignore:no weights for heads.video.cifar_motion")  # r2plus1d10 was trained on 12 classes
def test_a_name_is_a_teacher(task, teacher):
    student = small("r2d10", num_classes=10).train()
    taught = task(student, teacher, device=torch.device("cpu"), dtype=torch.float32, verbose=False)
    assert taught.teacher.model.num_classes == 10
    out = taught(images(), torch.tensor([1, 2]))
    out["loss"].backward()
    assert out["output"].shape == (2, 10)
    assert all(weight.grad is not None for weight in student.parameters())
    assert all(weight.grad is None for weight in taught.teacher.parameters())


def test_a_teachers_weights_are_a_file(tmp_path):
    teacher = timm.create_model(TAG, pretrained=True).eval()
    teacher.heads["image"]["cifar10"].bias.data.fill_(3)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    path = dict(teacher_pretrained_path=str(tmp_path / "teacher.pth"))
    taught = LogitDistillationTask(small("r2d10", num_classes=10), AUX, verbose=False, **path)
    close(taught.teacher(x := images()), teacher(x), 0)


def test_timms_tools_take_it():
    model = small("unidual10", tasks=TASKS)
    close(ModelEmaV3(model)(x := images()), model(x), 0)
    frozen = freeze_batch_norm_2d(copy.deepcopy(model).train())
    close(frozen(x), model(x))
    split = convert_splitbn_model(copy.deepcopy(model), 2).eval()
    close(split(x), model(x), 0)
    larger = dict(input_size=(3, 144, 144))  # than 112, the size it was made for: 9×9 maps, 3×3 averages of 7×7
    dense, pools = apply_test_time_pool(copy.deepcopy(model), larger)
    assert pools
    maps = model.forward_features(x := images(1, 144))
    windows = model.get_classifier()(nn.functional.avg_pool2d(maps, 7, 1).flatten(2).mT)  # (1, 9, classes)
    close(dense(x), (windows.mean(1) + windows.amax(1)) / 2)


# ---- checkpoints of timm's scripts ----------------------------------------------------------------------------------


def saved(model, folder):
    """A checkpoint as timm's CheckpointSaver writes it."""
    torch.save({"epoch": 1, "version": 2, "arch": AUX, "state_dict": model.state_dict()}, folder / "last.pth.tar")
    return str(folder / "last.pth.tar")


@pytest.mark.parametrize(
    "load",
    [
        lambda path: resume_checkpoint(timm.create_model(AUX), path, log_info=False),
        lambda path: load_checkpoint(timm.create_model(AUX), path),
        lambda path: timm.create_model(AUX, checkpoint_path=path),
    ],
    ids=["resume", "validate", "create"],
)
def test_a_checkpoint_of_a_tag_names_it_where_the_bare_name_is_asked_for(load, tmp_path):
    trained = timm.create_model(AUX, pretrained=True).eval()
    path = saved(trained, tmp_path)
    with pytest.raises(RuntimeError, match=rf"have the heads image: cifar10 \(10\).* they fit '{re.escape(TAG)}'$"):
        load(path)
    again = timm.create_model(TAG, checkpoint_path=path).eval()
    assert resume_checkpoint(again, path, log_info=False) == 2
    close(again(x := images()), trained(x), 0)


def test_a_checkpoint_of_the_bare_name_says_so_where_a_tag_is_picked(tmp_path):
    trained = timm.create_model(AUX, **SMALL).eval()
    path = saved(trained, tmp_path)
    hint = r"they fit 'unidual10_aux' with pretrained=False$"
    with pytest.raises(RuntimeError, match=hint):
        load_checkpoint(timm.create_model(TAG, **SMALL), path)
    again = timm.create_model(AUX, pretrained=False, checkpoint_path=path, **SMALL).eval()
    close(again(x := images()), trained(x), 0)


@pytest.mark.parametrize("asked", [{}, {"num_classes": 1000}])
def test_a_file_of_the_bare_names_heads_is_no_pretrained_tag(asked, tmp_path):
    """train.py --pretrained --pretrained-path: only the head whose classes are asked for may be another one."""
    path = saved(timm.create_model(AUX, **SMALL), tmp_path)
    overlay = dict(file=path, num_classes=-1)
    hint = "the heads in it fit 'unidual10_aux' with pretrained=False and the file as checkpoint_path"
    with pytest.raises(RuntimeError, match=f"heads.video.cifar_motion.*; {hint}$"):
        timm.create_model(AUX, pretrained=True, pretrained_cfg_overlay=overlay, **asked, **SMALL)


def test_features_need_no_heads_of_a_checkpoint(tmp_path):
    trained = timm.create_model(AUX, **SMALL).eval()
    overlay = dict(file=saved(trained, tmp_path))
    extractor = timm.create_model(AUX, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay, **SMALL)
    close(extractor.eval()(x := images())[-1], trained.forward_features(x), 0)


@pytest.mark.parametrize("name", [AUX, TAG])
def test_a_checkpoint_with_other_numbers_of_classes_tells_the_tasks(name, tmp_path):
    trained = timm.create_model(name, num_classes=7, **SMALL).eval()
    path = saved(trained, tmp_path)
    with pytest.raises(RuntimeError, match="they fit ") as caught:
        load_checkpoint(timm.create_model(name, **SMALL), path)
    told = re.search(r"they fit '(.*?)' with (?:pretrained=False, )?tasks=(.*)$", str(caught.value))
    again = timm.create_model(told[1], tasks=eval(told[2]), checkpoint_path=path, **SMALL).eval()
    close(again(x := images()), trained(x), 0)


def test_heads_that_no_name_has_are_listed():
    trained = small("unidual10", tasks={"food": ("image", 3)})
    message = (
        r"heads image: food \(3\), this network has image: in1k.*: create it with the tasks and heads of the weights"
    )
    with pytest.raises(RuntimeError, match=message):
        small("unidual10").load_state_dict(trained.state_dict())


# ---- groups of layers -----------------------------------------------------------------------------------------------


def test_layers_learn_as_fast_as_those_of_timms_resnet():
    """Stem, eight blocks and a head each: with a decay of 0.5 the head learns at 1, the last block at 0.5."""

    def rates(model):
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        scales = {id(weight): group["lr_scale"] for group in groups for weight in group["params"]}
        return {name: scales[id(weight)] for name, weight in model.named_parameters()}

    theirs, ours = rates(timm.create_model("resnet18")), rates(small("unidual34_aux", depths=(2, 2, 2, 2)))
    same = {
        "conv1.weight": "stem.spatial.weight",
        "layer1.0.conv1.weight": "stages.0.0.conv1.spatial.weight",
        "layer4.0.downsample.0.weight": "stages.3.0.shortcut.conv.weight",
        "layer4.1.conv2.weight": "stages.3.1.conv2.pointwise.video.weight",
        "layer4.1.bn2.weight": "stages.3.1.conv2.norm.image.weight",
        "fc.weight": "heads.image.in1k.weight",
        "fc.bias": "heads.video.k400.bias",
    }
    assert {key: ours[ours_key] for key, ours_key in same.items()} == {key: theirs[key] for key in same}
    assert {rate for name, rate in ours.items() if name.startswith("heads.")} == {1.0}
    assert set(ours.values()) == set(theirs.values())


@pytest.mark.parametrize("coarse", [False, True])
def test_an_lstm_is_part_of_the_last_block(coarse):
    model = small("r2d10_lstm_multitask")
    layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert {layers[name] for name in layers if name.startswith("lstm")} == {
        layers["stages.3.0.conv2.norm.image.weight"]
    }
    assert (
        {layers[name] for name in layers if name.startswith("heads")} == {max(layers.values())} == {5 if coarse else 6}
    )


# ---- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENT)
def test_features_of_every_layer_and_no_weight_unused(name):
    """DistributedDataParallel stops at a weight without a gradient."""
    for kind in ("getter", "hook") if name in IMAGE_NAMES else ("getter",):
        extractor = small(name, features_only=True, feature_cls=kind).train()
        x = images() if name in IMAGE_NAMES else clips()
        features = extractor(x)
        assert [feature.shape[1] for feature in features] == extractor.feature_info.channels()
        sizes = [-(-32 // reduction) for reduction in extractor.feature_info.reduction()]
        assert [feature.shape[-1] for feature in features] == sizes
        assert features[0].ndim == x.ndim
        sum(feature.mean() for feature in features).backward()
        assert [key for key, weight in extractor.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("indices", [(1, 3), [-2], 2, (-1,)])
@pytest.mark.parametrize("name", ["unidual10", "r2d10_lstm_multitask"])
def test_hooks_see_what_the_getter_gets(name, indices):
    hooked, got = (
        small(name, features_only=True, feature_cls=kind, out_indices=indices) for kind in ("hook", "getter")
    )
    assert {key.partition(".")[2] for key in hooked.state_dict()} == {key.partition(".")[2] for key in got.state_dict()}
    hooked.body.load_state_dict(got.model.state_dict())
    assert hooked.feature_info.channels() == got.feature_info.channels()
    for a, b in zip(hooked(x := images()), got(x), strict=True):
        close(a, b, 0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(feature_cls="list"), r"no feature_cls 'list', allowed: getter, hook"),
        (dict(feature_cls="dict"), r"no feature_cls 'dict'"),
        (dict(feature_cls="fx"), r"no feature_cls 'fx'"),
        (dict(feature_cls="hook", modality="video"), r"use 'getter' on the video pathway"),
        (dict(out_indices=(0, 5)), r"feature index 5 is out of range \(0 to 4\)"),
    ],
)
def test_refused_extractors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small("unidual10", features_only=True, **kwargs)


@pytest.mark.parametrize("name", DUAL)
def test_a_backbone_of_transformers(name):
    """As its TimmBackbone: the last map by default, the layers by name, norms frozen."""
    backbone = small(name, pretrained=False, features_only=True, in_chans=4, out_indices=(-1,))
    assert [layer["module"] for layer in backbone.feature_info.get_dicts()] == ["stages.3"]
    assert backbone.feature_info.out_indices == (4,)
    assert len(backbone.feature_info.info) == 5
    expected = backbone(x := images(chans=4))
    freeze_batch_norm_2d(backbone)
    (got,) = backbone.train()(x)
    assert got.shape[:2] == (2, backbone.feature_info.channels()[0])
    close(got, expected[0])


def test_an_encoder_of_segmentation_models():
    """Maps of half, a quarter, … of the picture's size, as its decoders need: with the pool behind the stem."""
    encoder = small("unidual34", features_only=True, pool=True, out_indices=tuple(range(5)), in_chans=3)
    assert encoder.feature_info.reduction() == [2, 4, 8, 16, 32]
    x = images(1, 64)
    assert [x.shape[-1] // feature.shape[-1] for feature in encoder(x)] == [2, 4, 8, 16, 32]


# ---- modules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_module_is_called_twice(name):
    """What attribution by DeepLift and quantization by calibration ask for."""
    model, calls = small(name), {}

    def count(module, *_):
        calls[module] = calls.get(module, 0) + 1

    for module in model.modules():
        module.register_forward_hook(count)
    for pathway in model.pathways:
        calls.clear()
        model(clips(), modality=pathway)
        assert {key for key, module in model.named_modules() if calls.get(module, 0) > 1} == set()
        units = [module for module in calls if isinstance(module, nn.ReLU)]
        assert len(units) == sum(isinstance(module, nn.ReLU) for module in model.modules())


def test_every_activation_can_be_hooked():
    """In both directions, once the ReLUs are not in place: captum asks for the same of every network."""
    model, calls = small("r2d10"), []
    plain = torch.autograd.grad(model(x := images().requires_grad_()).sum(), x)[0]
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_full_backward_hook(lambda module, *_: calls.append(module))
    close(torch.autograd.grad(model(x).sum(), x)[0], plain)
    assert len(calls) == len(set(calls)) == sum(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize("training", [False, True])
def test_new_heads_are_in_the_networks_mode_and_type(training):
    model = small("unidual10", tasks=TASKS).to(torch.bfloat16).train(training)
    model.reset_classifier(5)
    model.add_auxiliary_heads()
    assert {module.training for module in model.modules()} == {training}
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


# ---- the first convolution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 4), (3, 13), (1, 3), (4, 3), (13, 1)])
def test_weights_of_any_number_of_channels(before, after):
    """Summed for one channel; else repeated, cut off, and scaled so that equal channels give what they gave."""
    state = small("unidual10", tasks=TASKS, in_chans=before).state_dict()
    overlay = dict(state_dict=state)
    model = small("unidual10", tasks=TASKS, in_chans=after, pretrained=True, pretrained_cfg_overlay=overlay)
    theirs = state["stem.spatial.weight"]
    if after == 1:
        expected = theirs.sum(1, keepdim=True)
    else:
        expected = torch.stack([theirs[:, i % before] for i in range(after)], 1) * (before / after)
    close(model.stem.spatial.weight, expected, 1e-6)
    assert model(images(chans=after)).shape == (2, 7)


def test_a_saved_network_of_one_channel_sees_grey_in_colour(tmp_path):
    grey = small("unidual10", tasks=TASKS, in_chans=1)
    timm.models.save_for_hf(grey, str(tmp_path), safe_serialization=True)
    colour = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=3).eval()
    x = images(chans=1)
    close(colour(x.expand(-1, 3, -1, -1)), grey(x))


@pytest.mark.parametrize("shape", [(3, 0, 7, 7), (3, 3), (3, 3, 5, 5), (4, 1, 7, 7)])
def test_a_first_convolution_of_another_shape_is_refused(shape):
    state = small("r2d10").state_dict() | {"stem.spatial.weight": torch.ones(shape)}
    with pytest.raises(RuntimeError, match=r"of another shape: stem.spatial.weight"):
        small("r2d10", pretrained=True, pretrained_cfg_overlay=dict(state_dict=state))


# ---- tracing, counting, exporting -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "form"), [("unidual10", "plain"), ("unidual10", "served"), ("unidual152", "served")])
@torch.inference_mode()
def test_traces_serve_other_batches(name, form):
    model = small(name, **SHALLOW)
    traced_model = FORMS[form](model)
    for x, larger in ((images(), images(3)), (clips(), clips(3))):
        traced_model(x)  # a served copy has laid its weights out
        traced = torch.jit.trace(traced_model, x)
        close(traced(larger), model(larger))


@pytest.mark.parametrize("name", ["unidual10_aux", "unidual152", "r2d10_lstm_multitask"])
@torch.inference_mode()
def test_a_served_copy_counts_as_many_operations(name):
    model = small(name, **SHALLOW)
    for x in (images(), clips()):
        counted = []
        for form in FORMS.values():
            with FlopCounterMode(display=False) as counter:
                form(model)(x)
            counted.append(counter.get_total_flops())
        assert counted[0] > 1e5
        assert counted[1] == pytest.approx(counted[0], rel=0.01)


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_shapes_without_numbers(form):
    model = FORMS[form](small("unidual10", tasks=TASKS))
    model(images())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(images(3))).shape == (3, 7)
        assert model(mode.from_tensor(clips(3))).shape == (3, 6)
    with torch.device("meta"):
        assert model.to("meta")(images(3)).shape == (3, 7)


def test_a_network_of_fake_tensors_is_made():
    with FakeTensorMode():
        assert timm.create_model("unidual10", **SMALL)(torch.randn(2, 3, 32, 32)).shape == (2, 1000)


@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:FutureWarning")  # torch's own, made at its first use
@pytest.mark.parametrize("form", FORMS)
def test_forward_derivatives_and_vectorised_calls(form):
    model = small("unidual10", tasks=TASKS)
    taken = FORMS[form](model)
    x, direction = images(), images()
    expected = torch.func.jvp(model, (x,), (direction,))[1]
    close(torch.func.jvp(taken, (x,), (direction,))[1], expected, 1e-4)
    with forward_ad.dual_level(), torch.no_grad():  # which does not concern them
        got = forward_ad.unpack_dual(taken(forward_ad.make_dual(x, direction))).tangent
    close(got, expected, 1e-4)
    with torch.no_grad():
        close(torch.func.vmap(lambda one: taken(one[None])[0])(x), model(x))


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (torch.fx.symbolic_trace, r"torch.fx cannot trace UniDual: the input's rank chooses .* torch.export"),
        (torch.jit.script, r"torch.jit.script cannot compile UniDual: the input's rank chooses .* torch.export"),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:FutureWarning")
def test_what_cannot_be_traced_says_what_can(trace, message):
    model = small("unidual10")
    for called in (model, nn.Sequential(model, nn.Softmax(-1)), for_inference(model)):
        with pytest.raises(NotImplementedError, match=message):
            trace(called)


@pytest.mark.parametrize(("name", "form"), [("unidual10", "plain"), ("unidual152", "served")])
@torch.no_grad()
def test_exports_any_number_of_frames(name, form):
    """From nine on, so that the last stage has several: torch fixes what it sees to be one."""
    model = small(name, **SHALLOW)
    shapes = {"x": {0: Dim("batch"), 2: Dim("frames", min=9)}}
    exported = torch.export.export(FORMS[form](model), (clips(2, 12),), dynamic_shapes=shapes).module()
    for other in (clips(1, 9), clips(3, 31), clips(2, 16)):
        close(exported(other), model(other))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_exports_any_image(form):
    model = small("unidual10", **SHALLOW)
    shapes = {"x": {0: Dim("batch"), 2: Dim.AUTO, 3: Dim.AUTO}}
    exported = torch.export.export(FORMS[form](model), (torch.randn(2, 3, 40, 48),), dynamic_shapes=shapes).module()
    for other in (torch.randn(1, 3, 64, 48), torch.randn(5, 3, 39, 51)):
        close(exported(other), model(other))


@torch.no_grad()
def test_exports_any_clip_on_the_image_pathway():
    model = small("r2d10_multitask", **SHALLOW)
    shapes = {"x": {0: Dim("batch"), 2: Dim("frames")}}
    exported = torch.export.export(model, (clips(2, 12),), dynamic_shapes=shapes).module()
    for other in (clips(1, 2), clips(3, 31)):
        close(exported(other), model(other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_older_onnx_exporter(form, tmp_path):
    onnx = pytest.importorskip("onnx", reason="writing ONNX needs the onnx package")
    model = FORMS[form](small("unidual10", **SHALLOW))
    torch.onnx.export(model, (clips(),), str(tmp_path / "model.onnx"), dynamo=False)
    graph = onnx.load(tmp_path / "model.onnx").graph
    convolutions = sum(isinstance(module, nn.Conv2d) for module in small("r2plus1d10", **SHALLOW).modules())
    assert sum(node.op_type == "Conv" for node in graph.node) == convolutions
