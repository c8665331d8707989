"""OpenVINO's graphs: model.xml and model.bin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from unidual_zoo.engines.quantizing import quantized
from unidual_zoo.extras import require

EXTRA = "openvino"
NEEDS = {"openvino": EXTRA}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # of what is no int8 in the graph


def write(program: ExportedProgram, file: Path) -> None:
    """Writes a program's graph, its weights in float32."""
    openvino = require("openvino", EXTRA)
    (example,) = program.example_inputs[0]  # pyright: ignore[reportOptionalSubscript]
    model = openvino.convert_model(program)
    model.reshape(openvino.PartialShape([-1, *example.shape[1:]]))
    model.input().get_tensor().set_names({"input"})
    model.output().get_tensor().set_names({"logits"})
    openvino.save_model(model, file, compress_to_fp16=False)


def quantize(source: Path, target: Path, samples: Sequence[np.ndarray]) -> None:
    """Writes an int8 graph of a float32 one, calibrated on inputs (1, ...)."""
    openvino = require("openvino", EXTRA)
    model = openvino.Core().read_model(source)
    smaller = quantized(model, samples, kept=_head(model), layerwise=True)
    openvino.save_model(smaller, target, compress_to_fp16=False)


def open_graph(file: Path, dtype: str, threads: int) -> Callable[[Tensor], Tensor]:
    """The graph as a function of a tensor on the CPU."""
    openvino = require("openvino", EXTRA)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
    }
    compiled = openvino.Core().compile_model(file, "CPU", settings)

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(compiled(x.contiguous().numpy(), share_inputs=True)[0])

    return run


def _head(model: Any) -> list[str]:
    """The name of the last matrix product."""
    names = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    return names[-1:]
