"""ONNX graphs, run by ONNX Runtime: model.onnx, and model.onnx.data where the weights are too large for one file."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from unidual_zoo.engines.quantizing import quantized
from unidual_zoo.extras import require

EXTRA = "onnx"
NEEDS: dict[str, str] = dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), EXTRA)
_LARGEST = 1 << 30  # bytes of weights in one file, of which a graph may be at most two gigabytes


def write(program: ExportedProgram, file: Path) -> None:
    """Writes a program's graph, its weights in float32."""
    size = sum(value.nbytes for value in program.state_dict.values())
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter tells of its steps
        warnings.simplefilter("ignore")  # of torch's own use of what it deprecates
        torch.onnx.export(
            program, (), file, dynamo=True, input_names=["input"], output_names=["logits"], verbose=False,
            external_data=size > _LARGEST,
        )  # fmt: skip


def quantize(source: Path, target: Path, samples: Sequence[np.ndarray]) -> None:
    """Writes an int8 graph of a float32 one, calibrated on inputs (1, ...)."""
    onnx = require("onnx", EXTRA)
    model = onnx.load(source)
    inputs = [{"input": sample} for sample in samples]
    # Layer by layer nncf 3.4 cuts residual blocks into parts that ONNX Runtime refuses: "Duplicate definition-site".
    onnx.save(quantized(model, inputs, kept=_head(model), layerwise=False), target)


def open_graph(file: Path, dtype: str, threads: int) -> Callable[[Tensor], Tensor]:
    """The graph as a function of a tensor on the CPU; it computes in what it was written in."""
    runtime = require("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": x.contiguous().numpy()})[0])

    return run


def _head(model: Any) -> list[str]:
    """The name of the last matrix product."""
    return [node.name for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1:]
