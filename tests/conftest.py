"""One thread for every process of the tests: tiny networks gain nothing from more, and processes side by side lose.

The tests run on the CPU, also where there is a GPU; `pytest -m gpu` runs those that need one.
"""

import os


def pytest_configure(config):
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for devices; processes that tests start inherit it


os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start inherit it
