"""One thread for every process of the tests: tiny networks gain nothing from more, and processes side by side lose.

The tests run on the CPU, also where there is a GPU; `pytest -m gpu` runs those that need one.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start inherit it

import pytest
import torch

from unidual.app import main

pytest.register_assert_rewrite("media", "said")  # what frames must equal shows where they do not

if torch.backends.cpu.get_cpu_capability() == "AVX2":
    # oneDNN 3.13 (torch 2.15) writes past its buffers in the backward pass of a strided 1×1 convolution of fewer than 8
    # channels in channels_last memory on processors without AVX-512. Only the tests' networks are as narrow as that.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX")


def pytest_configure(config):
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for devices; processes that tests start inherit it


@pytest.fixture(autouse=True)
def one_thread():
    """A program that was called with more threads leaves them to no other test."""
    yield
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture
def run(capsys):
    """Runs a command line -> (exit status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run
