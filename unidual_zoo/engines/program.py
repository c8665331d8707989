"""torch's own graphs, a model.pt2 of torch.export: for torch.compile, AOTInductor and other tools that read it.

Such a file may hold code: read only those that you trust.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram


def write(program: ExportedProgram, file: Path) -> None:
    """Writes the program."""
    torch.export.save(program, file)


def open_graph(file: Path, dtype: str, threads: int) -> Callable[[Tensor], Tensor]:
    """The graph as a function of a tensor on the CPU, with torch's own threads."""
    return torch.inference_mode()(torch.export.load(file).module())
