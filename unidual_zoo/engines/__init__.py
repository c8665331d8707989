"""Engines: programs made to serve, which run a network's graph in place of torch's modules.

Each is a module of the same functions: `write` a graph, `quantize` it, `open_graph` it as a call. What they need is
an extra, imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.export import ExportedProgram

from unidual_zoo.dtypes import FLOATS, INT8
from unidual_zoo.engines import onnx, openvino, program, quantizing
from unidual_zoo.engines.graph import Call, Graph, GraphModel
from unidual_zoo.extras import require

FLOAT32 = FLOATS[0]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a format of graphs is written and run.

    `file` is the graph's name in its folder. `open_graph(file, dtype, threads)` gives the call of a graph that was
    written in float32 or int8; a `dtype` of `runs_in` makes it compute in that type. `quantize(source, target,
    samples)` makes an int8 graph of a float32 one, calibrated on inputs (1, ...). `needs` are modules, and the
    extra that brings each.
    """

    file: str
    runs_in: Sequence[str]
    write: Callable[[ExportedProgram, Path], None]
    open_graph: Callable[[Path, str, int], Callable[[Tensor], Tensor]]
    quantize: Callable[[Path, Path, Sequence[np.ndarray]], None] | None = None
    needs: Mapping[str, str] = field(default_factory=dict)

    def check(self, *, int8: bool = False) -> None:
        """Raises a RuntimeError that names the extra if something is not installed that writing a graph needs."""
        for module, extra in {**self.needs, **(quantizing.NEEDS if int8 else {})}.items():
            require(module, extra)


ENGINES: Mapping[str, Engine] = {
    "onnx": Engine(
        file="model.onnx", runs_in=(FLOAT32, INT8), write=onnx.write, open_graph=onnx.open_graph,
        quantize=onnx.quantize, needs=onnx.NEEDS,
    ),
    "openvino": Engine(
        file="model.xml", runs_in=(FLOAT32, "bfloat16", INT8), write=openvino.write, open_graph=openvino.open_graph,
        quantize=openvino.quantize, needs=openvino.NEEDS,
    ),
    "torch": Engine(file="model.pt2", runs_in=(FLOAT32,), write=program.write, open_graph=program.open_graph),
}  # fmt: skip

__all__ = ["ENGINES", "FLOAT32", "Call", "Engine", "Graph", "GraphModel"]
