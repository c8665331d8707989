"""One thread for every process of the tests: tiny networks gain nothing from more, and processes side by side lose."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start inherit it
