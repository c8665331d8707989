"""Graphs of eight bits, by nncf."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

from unidual_zoo.extras import require

EXTRA = "openvino"
NEEDS = {"nncf": EXTRA}


def quantized(model: Any, samples: Sequence[Any], *, kept: Sequence[str]) -> Any:
    """A graph of OpenVINO or ONNX in int8: ranges of activations from the samples, layers named `kept` in float."""
    nncf = require("nncf", EXTRA)
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # it draws bars
        return nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
        )
