"""Tiny networks of timm, and UniDual on them."""

import timm
import torch
from models.small import TASKS, randomise_norms
from torch import nn

from unidual_zoo.models.dual_trunk import DualTrunk

MAPS = ["test_efficientnet", "test_resnet", "test_convnext"]
TOKENS = ["test_vit", "test_vit2", "eva02_tiny_patch14_224"]  # the class token counts, the mean of the patches, both
TRUNKS = MAPS + TOKENS
SMALLER = {"eva02_tiny_patch14_224": dict(patch_size=16, embed_dim=48, depth=3, num_heads=3)}
IN1K = {"in1k": ("image", 7)}
EVERYWHERE = dict(tasks=IN1K, heads={"image": ["in1k"], "video": ["in1k"]})
SIDE = 64


def theirs(trunk: str, **kwargs) -> nn.Module:
    """timm's network with norms that are not those of a fresh one, and 7 classes."""
    any_size = dict(dynamic_img_size=True) if trunk in TOKENS else {}
    network = timm.create_model(trunk, **{"num_classes": 7} | any_size | SMALLER.get(trunk, {}) | kwargs)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
        nn.init.normal_(network.get_classifier().weight)
    return randomise_norms(network).eval()


def started(network: nn.Module, trunk: str, **kwargs) -> DualTrunk:
    """Our network on the trunk, started from the weights of timm's."""
    overlay = dict(state_dict=network.state_dict())
    arguments = dict(trunk=trunk, trunk_args=SMALLER.get(trunk, {}), num_frames=4) | EVERYWHERE | kwargs
    return timm.create_model("unidual_trunk", pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()


def stirred(trunk: str, **kwargs) -> DualTrunk:
    """Our network with weights in which nothing is zero or equal between the pathways."""
    arguments = dict(trunk=trunk, trunk_args=SMALLER.get(trunk, {}), num_frames=4, tasks=TASKS) | kwargs
    return stir(timm.create_model("unidual_trunk", **arguments)).eval()


def stir(model: nn.Module) -> nn.Module:
    randomise_norms(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            elif not weight.any() or name.startswith("heads."):
                nn.init.normal_(weight, std=0.1)
    return model
