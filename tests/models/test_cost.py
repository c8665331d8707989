"""What a pass costs: no copies between convolutions, nothing kept that Conv3d would not keep, no graph breaks."""

import pytest
import torch
from models.small import clips, images, small
from torch.profiler import ProfilerActivity, profile

from unidual_zoo import for_inference

adds_without_a_copy = pytest.mark.skipif(
    torch.__version__ < (2, 15), reason="older torch (2.11) copies a shortcut before it adds it"
)


def copies(run, weights=()) -> int:
    """How many activations (4-D, or 5-D as clips) are copied; of tensors shaped like `weights` none is counted."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True) as profiled:
        run()
    events = profiled.key_averages(group_by_input_shape=True)
    shapes = {tuple(weight.shape) for weight in weights}
    return sum(
        event.count
        for event in events
        if event.key == "aten::clone" and len(event.input_shapes[0]) >= 4 and tuple(event.input_shapes[0]) not in shapes
    )


@pytest.mark.parametrize("served", [False, pytest.param(True, marks=adds_without_a_copy)])
@torch.inference_mode()
def test_activations_are_copied_where_frames_are_folded_alone(served):
    """Once at the input, unless its memory is what the network wants."""
    model = small("r2plus1d10").to(memory_format=torch.channels_last)
    model = for_inference(model) if served else model
    x = clips(2, 8)
    model(x)  # lays weights out
    assert copies(lambda: model(x)) == 1
    last = x.contiguous(memory_format=torch.channels_last_3d)
    assert copies(lambda: model(last)) == 0


def test_gradients_are_not_copied_into_another_layout():
    model = small("r2plus1d10").to(memory_format=torch.channels_last).train()
    x = clips(4, 8)
    assert copies(lambda: model(x).square().mean().backward(), model.parameters()) == 1


@pytest.mark.parametrize("name", ["r2plus1d10", "unidual152"])
def test_checkpointing_keeps_less(name):
    model = small(name).train()
    kept = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        kept.append(saved_bytes(model, clips()))
    assert kept[1] < kept[0] / 2


def saved_bytes(model, x) -> int:
    saved = {}

    def note(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x)
    return sum(size for place, size in saved.items() if place not in weights)


@pytest.mark.parametrize("kind", ["evaluation", "training", "served"])
@pytest.mark.parametrize("pathway", ["image", "video"])
def test_compiles_without_graph_breaks_for_any_batch(kind, pathway):
    torch._dynamo.reset()
    model = small("unidual10", depths=(1, 1)).train(kind == "training")
    model = for_inference(model) if kind == "served" else model
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for batch in (2, 3):  # torch itself chooses another convolution for tiny inputs, by their number of elements
        x = images(batch, 16) if pathway == "image" else clips(batch, 4, 16)
        torch._dynamo.mark_dynamic(x, 0)
        with torch.set_grad_enabled(kind == "training"):
            assert compiled(x, modality=pathway).shape[0] == batch
    assert len(graphs) == 1
    torch._dynamo.reset()
