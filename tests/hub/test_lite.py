"""EfficientNet-Lite as EfficientNet-PyTorch lays it out becomes timm's, and a file to ship."""

import convert
import package
import pytest
import timm
import torch
from models.small import close, randomise_norms
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from unidual_zoo.weights import CheckpointError

NAME = "unidual_efficientnet_lite0.in1k"
# Kernel, stride, expansion, channels and repeats of the stages (EfficientNet-B0's, without squeeze and excitation).
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
          (3, 1, 6, 320, 1)]  # fmt: skip


class Same(nn.Conv2d):
    """Convolution padded as TensorFlow pads."""

    def forward(self, x):
        pad = []
        for side in reversed(x.shape[-2:]):
            more = max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            pad += [more // 2, more - more // 2]
        return super().forward(F.pad(x, pad))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class MBConv(nn.Module):
    def __init__(self, chans: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = chans * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = Same(chans, inner, 1, bias=False), norm(inner)
        self._depthwise_conv = Same(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = norm(inner)
        self._project_conv, self._bn2 = Same(inner, out, 1, bias=False), norm(out)
        self.residual = stride == 1 and chans == out

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.residual else y


class Lite(nn.Module):
    """EfficientNet-Lite0 by the paper, with the names of EfficientNet-PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2, bias=False), norm(32)
        self._blocks, chans = nn.ModuleList(), 32
        for kernel, stride, expansion, out, repeats in STAGES:
            for index in range(repeats):
                one = stride if index == 0 else 1
                self._blocks.append(MBConv(chans, out, kernel=kernel, stride=one, expansion=expansion))
                chans = out
        self._conv_head, self._bn1 = Same(chans, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


@pytest.fixture
def lite(tmp_path):
    torch.manual_seed(0)
    network = randomise_norms(Lite()).eval()
    torch.save(network.state_dict(), tmp_path / "lite.pth")
    return network


@torch.no_grad()
def test_a_lite_network_becomes_a_file_to_ship(lite, tmp_path):
    out, x = tmp_path / f"{NAME}.safetensors", torch.randn(2, 3, 75, 64)
    convert.convert(NAME, out=out, file=tmp_path / "lite.pth")
    weights = load_file(out)
    assert weights.keys() == timm.create_model("tf_efficientnet_lite0").state_dict().keys()
    kinds = {key.rpartition(".")[2]: value.dtype for key, value in weights.items()}
    assert (kinds["weight"], kinds["bias"]) == (torch.float16, torch.float16)
    assert (kinds["running_mean"], kinds["running_var"]) == (torch.float32, torch.float32)
    assert out.stat().st_size < package.LARGEST
    assert oct(out.stat().st_mode & 0o444) == oct(0o444)
    shipped = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(out)}).eval()
    close(shipped(x), lite(x), 0.02)
    clip = x[:, :, None].expand(-1, -1, 3, -1, -1)
    close(shipped(clip), shipped(x), 1e-5)


@torch.no_grad()
def test_a_lite_network_becomes_a_folder(lite, tmp_path):
    convert.convert(NAME, out=tmp_path / "converted", file=tmp_path / "lite.pth")
    x = torch.randn(2, 3, 64, 64)
    close(timm.create_model(f"local-dir:{tmp_path / 'converted'}", pretrained=True).eval()(x), lite(x), 1e-5)


def test_other_networks_are_refused(lite, tmp_path):
    with pytest.raises(CheckpointError, match=r"lite.pth holds an EfficientNet-Lite, r2d10.cifar10 is none"):
        convert.convert("r2d10.cifar10", out=tmp_path / "a", file=tmp_path / "lite.pth")
    torch.save(lite.state_dict() | {"_blocks.16._bn1.weight": torch.zeros(1)}, tmp_path / "deeper.pth")
    with pytest.raises(CheckpointError, match=r"does not fit DualTrunk: unknown: trunk._blocks.16._bn1.weight"):
        convert.convert(NAME, out=tmp_path / "a", file=tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match="only the weights of a trunk are shipped as timm's"):
        convert.convert("unidual10_aux.toy", out=tmp_path / "a.safetensors")
