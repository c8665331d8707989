"""Graphs of eight bits, by nncf."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from unidual_zoo.extras import require
from unidual_zoo.progress import Progress

EXTRA = "openvino"
NEEDS = {"nncf": EXTRA}


class _Samples:
    """Samples whose readers see how far they are: nncf runs through them more than once, with one progress for all."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self.samples, self.passes = samples, 0
        self.progress = Progress(total=len(samples), unit="view", leave=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        self.progress.reset()
        self.progress.set_description(f"calibrating int8, pass {self.passes}", refresh=False)
        for sample in self.samples:
            yield sample
            self.progress.update()


def quantized(model: Any, samples: Sequence[Any], *, kept: Sequence[str], layerwise: bool) -> Any:
    """A graph of OpenVINO or ONNX in int8: ranges of activations from the samples, layers named `kept` in float.

    Biases make up for what rounding moves on average: all at once on float inputs or, `layerwise`, each on what the
    corrected layers before it give. That takes longer and keeps answers nearer. Weights use half of their range: a
    processor without VNNI adds two products in 16 bits, which full ones overflow.
    """
    nncf = require("nncf", EXTRA)
    nncf.set_log_level(logging.ERROR)
    read = _Samples(samples)
    with _without_bars(), read.progress:
        return nncf.quantize(
            model,
            nncf.Dataset(read),
            subset_size=len(samples),
            fast_bias_correction=not layerwise,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
        )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """nncf draws its bars with rich, wherever standard output leads and whether or not it is asked to; here rich's
    console, which is one for all, says nothing."""
    console = require("rich", EXTRA).get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before
