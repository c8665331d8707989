"""What is done over time, by hand and against upstreams' formulas."""

import math

import pytest
import torch
from models.on_trunks import SIDE, stir, stirred
from models.small import clips, close
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from unidual_zoo.models.csn import ClipConv
from unidual_zoo.models.temporal import Adapter, GlobalBlock, centred, cosine_terms, temporal_projection
from unidual_zoo.models.trunks import Frames


def test_cosine_terms_by_hand():
    """Of two frames their mean, and √2·cos(π/4) = 1 times half their difference; there is no third term."""
    x = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]])
    close(cosine_terms(x, 3), torch.tensor([[2.0, 20.0, -1.0, -10.0, 0.0, 0.0]]), 1e-6)
    whole = cosine_terms(torch.eye(4)[None], 4).unflatten(1, (4, 4))[0]
    close(whole @ whole.T, torch.eye(4) / 4, 1e-6)  # nothing of four frames is lost in four terms


@torch.no_grad()
def test_an_adapter_by_hand():
    adapter = Adapter(2, reduction=2)
    adapter.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
    adapter.down.bias.fill_(1)
    adapter.conv.weight.copy_(torch.tensor([10.0, 100.0, 1000.0]).view(1, 1, 3, 1))
    adapter.conv.bias.fill_(0.5)
    x = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]], [[2.0, 0.0]]])  # two clips of two frames, one position
    assert torch.equal(adapter(x, 2), x)
    adapter.up.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    adapter.up.bias.copy_(torch.tensor([0.0, 7.0]))
    inner = torch.tensor([100 * 2 + 1000 * 3, 10 * 2 + 100 * 3, 100 * 4 + 1000 * 3, 10 * 4 + 100 * 3]) + 0.5
    close(adapter(x, 2), x + torch.stack([inner, 7 - inner], 1)[:, None], 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(3, 5, 1), nn.Linear(3, 5)])
def test_a_temporal_projection_starts_as_the_projection(layer):
    conv, x = temporal_projection(layer), torch.randn(8, 3, 4, 4)
    expected = layer(x) if isinstance(layer, nn.Conv2d) else layer(x.movedim(1, -1)).movedim(-1, 1)
    close(conv(x, 2), expected, 1e-6)
    assert torch.equal(conv.weight[:, :, [0, 2]], torch.zeros(5, 3, 2, 1))
    conv.weight[:, :, 0] = conv.weight[:, :, 1]
    conv.weight[:, :, 1] = 0
    shifted = conv(x, 2).unflatten(0, (2, 4))
    bias = 0 if layer.bias is None else layer.bias.view(-1, 1, 1)
    close(shifted[:, 1:], expected.unflatten(0, (2, 4))[:, :-1], 1e-6)
    close(shifted[:, 0], torch.zeros(2, 5, 4, 4) + bias, 1e-6)


@torch.no_grad()
def test_local_mhra_is_uniformerv2s():
    ours = Adapter(6, reduction=1.5, norm=True).eval()
    depthwise = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), groups=4)
    theirs = nn.Sequential(nn.BatchNorm3d(6), nn.Conv3d(6, 4, 1), depthwise, nn.Conv3d(4, 6, 1)).eval()
    stir(theirs[0])
    theirs[0].running_mean.normal_()
    theirs[0].running_var.uniform_(0.5, 2)
    ours.norm.load_state_dict(theirs[0].state_dict())
    for a, b in zip((ours.down, ours.conv, ours.up), theirs[1:], strict=True):
        a.load_state_dict({key: value.reshape(a.state_dict()[key].shape) for key, value in b.state_dict().items()})
    x = torch.randn(2, 6, 4, 3, 5)  # (B, C, T, H, W)
    tokens = x.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    expected = (x + theirs(x)).permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)
    close(ours(tokens, 2), expected, 1e-5)
    ours.fold()
    assert ours.norm is None
    close(ours(tokens, 2), expected, 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("frame_mean", ["before_norm", "after_norm"])
def test_global_blocks_are_uniformerv2s(frame_mean):
    """Against upstream's formulas, written with plain matrices."""
    model = stirred("test_vit", global_blocks=2, frame_mean=frame_mean, norms="shared", operator="none", num_frames=3)
    x, network, own = clips(frames=3, size=SIDE), model.trunk, model.global_blocks["video"]
    assert list(own.blocks) == ["4", "5"]
    y, _ = model.kind.stem(network, x.transpose(1, 2).flatten(0, 1), 2)
    query = own.query.expand(2, -1, -1)
    for number, block in enumerate(network.blocks):
        y = block(y)
        if str(number) in own.blocks:
            query = upstream(own.blocks[str(number)], query, y, frames=3, heads=block.attn.num_heads)
    share = 1 / (1 + (-own.balance).exp())
    if frame_mean == "before_norm":
        pooled = network.norm((1 - share) * query[:, 0] + share * y[:, 0].unflatten(0, (2, 3)).mean(1))
    else:
        pooled = 2 * (1 - share) * query[:, 0] + 2 * share * network.norm(y)[:, 0].unflatten(0, (2, 3)).mean(1)
    close(model(x), model.heads["video"]["k400"](pooled), 1e-5)
    own.balance.fill_(-100)  # the query alone, as upstream's frozen networks have it
    if frame_mean == "before_norm":
        close(model(x), model.heads["video"]["k400"](network.norm(query[:, 0])), 1e-5)
    assert model.forward_features(x).shape == (2, 3, 1 + 16 + 1, 64)  # class token, patches, query


def upstream(block: nn.Module, query: torch.Tensor, y: torch.Tensor, *, frames: int, heads: int) -> torch.Tensor:
    """UniFormerV2's dpe and Extractor."""
    side = math.isqrt(y.shape[1] - 1)
    tokens = y.unflatten(0, (-1, frames)).clone()  # (B, T, 1 + N, C)
    maps = tokens[:, :, 1:].unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    tokens[:, :, 1:] += block.dpe(maps).permute(0, 2, 3, 4, 1).flatten(2, 3)
    tokens = block.norm_tokens(tokens.flatten(1, 2))
    weight, bias = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
    inputs = (block.norm1(query), tokens, tokens)
    q, k, v = (
        (of @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2) for of, w, b in zip(inputs, weight, bias, strict=True)
    )
    attended = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    query = query + block.attn.out_proj(attended.transpose(1, 2).flatten(2))
    inner = block.mlp.fc1(block.norm2(query))
    return query + block.mlp.fc2(inner * (1.702 * inner).sigmoid())


def test_centred_filters():
    assert centred(torch.tensor([[[[3.0]]]])).flatten().tolist() == [0, 3, 0]


class ConvolvedClips(TorchFunctionMode):
    """Whether the clips that 3-D convolutions were given were contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.contiguous: list[bool] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.conv3d:
            self.contiguous.append(args[0].is_contiguous())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "contiguous"), [("cuda", True), ("cpu", False)])
def test_depthwise_convolutions_get_clips_as_the_device_takes_them_fastest(device, contiguous):
    """No GPU is needed: tensors that know their device and memory, but hold nothing."""
    with FakeTensorMode(), ConvolvedClips() as convolved, torch.device(device):
        frames = torch.randn(2 * 4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
        ClipConv(8, 8, 3, 1, 1, groups=8)(frames, 2)
        patches, query = torch.randn(2 * 4, 1 + 9, 8), torch.randn(2, 1, 8)
        GlobalBlock(8, 2)(query, patches, Frames(batch=2, grid=(3, 3), prefix=1))
        ClipConv(8, 4, 3, 1, 1)(frames, 2)
    assert convolved.contiguous == [contiguous, contiguous, False]  # the last mixes channels
