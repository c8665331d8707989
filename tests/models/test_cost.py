"""What a pass of UniDual costs: no copies between convolutions, forward and backward."""

import pytest
import torch
from models.small import clips, small
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


@pytest.mark.parametrize(("capability", "copied"), [("AVX512", 0), ("AVX2", 5)])
def test_gradients_are_not_copied_into_another_layout(monkeypatch, capability, copied):
    """With AVX2 every second frame is gathered for the filters over time of stride 2, where a product takes them."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = small("r2plus1d10").to(memory_format=torch.channels_last).train()
    x = clips(4, 8)
    assert copies(lambda: model(x).square().mean().backward(), model.parameters()) == 1 + copied
