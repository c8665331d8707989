"""Networks on trunks in training: rates, a frozen trunk, gradients of every weight."""

import copy

import pytest
import timm
import torch
from models.on_trunks import SIDE, SMALLER, TOKENS, TRUNKS, stirred
from models.small import clips, images
from timm.models import group_parameters
from timm.models._hub import save_for_hf

from unidual_zoo.training.objective import JointObjective


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_what_is_at_a_block_learns_at_its_rate(trunk, coarse):
    model = stirred(trunk, pixelwise=True, global_blocks=1 if trunk in TOKENS else 0)
    layers = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    network = timm.create_model(trunk, num_classes=7, **SMALLER.get(trunk, {}))
    expected = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    assert {name.removeprefix("trunk."): layer for name, layer in layers.items() if name.startswith("trunk.")} == {
        name: layer for name, layer in expected.items() if not name.startswith(network.default_cfg["classifier"])
    }
    assert layers.keys() == {name for name, _ in model.named_parameters()}
    for name, layer in layers.items():
        if name.startswith("norms."):
            assert layer == layers[name.removeprefix("norms.video.")], name
        if name.startswith("units."):
            block = next(of for of in model.block_names if name.startswith(f"units.{of}."))
            assert layer == layers[next(key for key in layers if key.startswith(f"trunk.{block}."))], name
        if name.startswith("heads."):
            assert layer == max(layers.values())
        if name.startswith("global_blocks."):
            assert layer == layers[f"trunk.{model.block_names[-1]}.norm1.weight"]


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_frozen_trunk_keeps_the_logits_of_images_to_the_bit(trunk, norms):
    model = stirred(trunk, freeze_trunk=True, norms=norms, drop_path_rate=0.5)
    still, x = images(size=SIDE), clips(batch=4, size=SIDE)
    with torch.no_grad():
        before, clip_before = model(still), model(x)
    objective = JointObjective(model, {"in1k.image": 0.0})
    learning = [weight for name, weight in model.named_parameters() if not name.startswith("heads.image.")]
    optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        objective.train()
        optimizer.zero_grad()
        objective({"in1k": (still, torch.tensor([0, 1])), "k400": (x, torch.tensor([0, 1, 2, 3]))})["total"].backward()
        optimizer.step()
        model.train()
        model(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(model.eval()(x), clip_before, rtol=1e-2)
        assert torch.equal(model(still), before)
    model.freeze_trunk(False)
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.train().trunk.training


def test_a_frozen_trunk_stays_frozen_in_a_saved_network_unless_it_is_asked_not_to(tmp_path):
    save_for_hf(stirred("test_efficientnet", freeze_trunk=True), str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert {name.split(".")[0] for name, weight in again.named_parameters() if not weight.requires_grad} == {"trunk"}
    assert again.training
    assert not again.trunk.training
    free = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, freeze_trunk=False)
    assert all(weight.requires_grad for weight in free.parameters())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_joint_training_reaches_every_weight(trunk):
    model = stirred(trunk, auxiliary=True, pixelwise=True)
    batch = {
        "in1k": (images(size=SIDE), torch.tensor([0, 1])),
        "k400": (clips(size=SIDE), torch.tensor([2, 3])),
    }
    losses = JointObjective(model).train()(batch)
    assert losses.keys() == {"in1k.image", "in1k.video", "k400.image", "k400.video", "total"}
    losses["total"].backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradient_checkpointing_changes_nothing(trunk, norms):
    plain = stirred(trunk, norms=norms, pixelwise=True, auxiliary=True).train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    for x in (images(size=SIDE), clips(size=SIDE)):
        for model in (plain, again):
            model(x).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)  # a batch is counted once
