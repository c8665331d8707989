"""Shortcuts of residual networks."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from unidual_zoo.models.residual import StridedPixelConv

LEARNS = """
import torch
from unidual_zoo.models.residual import StridedPixelConv
for side in (5, 6, 7, 8, 9, 16) * 40:
    x = torch.randn(side, 4, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    StridedPixelConv(4, 8, stride=2)(x).square().mean().backward()
"""


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_it_is_a_strided_convolution(channels, stride):
    conv = StridedPixelConv(channels, 8, stride=stride)
    plain = nn.Conv2d(channels, 8, 1, stride, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, channels, 7, 10)
    torch.testing.assert_close(conv(x), plain(x))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX2", reason="the processor has not AVX2 alone")
def test_narrow_ones_learn_with_avx2():
    """The tests run without AVX2, for this reason: see conftest.py."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    child = subprocess.run([sys.executable, "-c", LEARNS], env=environment, capture_output=True, check=False)
    assert child.returncode == 0, child.stderr
