"""The command `unidual demo`: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from unidual.options import DEFAULT_MODEL, NETWORK_HELP, json_lines


def demo(
    model: Annotated[str, typer.Option(help=NETWORK_HELP)] = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="The address to answer at: the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="The largest file that may be dropped.")] = 50.0,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="The longest video.")] = 120.0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … [default: the CPU].")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the line of JSON there.")] = None,
) -> None:
    """A page to try a model in: drop a photo or a video (extra demo). It serves until it is interrupted."""
    from unidual_zoo.demo import Limits, served
    from unidual_zoo.extras import require
    from unidual_zoo.inference import load_network

    require("gradio", "demo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what was uploaded is removed then, too
    limits = Limits(megabytes=max_megabytes, seconds=max_seconds)
    with (
        json_lines(output) as write,
        served(load_network(model), name=model, limits=limits, device=device, host=host, port=port or None) as page,
    ):
        result = {"address": page.local_url, "model": model}
        write(result)
        typer.echo(json.dumps(result))
        page.block_thread()
