"""The command `unidual serve`: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from unidual.devices import device_of
from unidual.options import DEFAULT_MODEL, MODEL_HELP, PROTOCOL_HELP, json_lines

MEGABYTE = 2**20


def serve(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = DEFAULT_MODEL,
    checkpoint: Annotated[Path | None, typer.Option(help="A file of weights in place of the published ones.")] = None,
    task: Annotated[str | None, typer.Option(help="The head [default: the model's first for the modality].")] = None,
    top: Annotated[int, typer.Option(help="Labels for each file.")] = 5,
    protocol: Annotated[str, typer.Option(help=PROTOCOL_HELP)] = "unidual34",
    batch_size: Annotated[int, typer.Option(help="Views that go through the network together.")] = 16,
    device: Annotated[str | None, typer.Option(help="As in predict [default: cuda if it is there].")] = None,
    dtype: Annotated[str | None, typer.Option(help="As in predict.")] = None,
    host: Annotated[
        str, typer.Option(help="The address to answer at: the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    allow_url: Annotated[
        list[str] | None,
        typer.Option(help="Files below this URL may be fetched, https://host/path; repeatable [default: none]."),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="The largest upload or download.")] = 100.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="The largest image, or frame of a video.")] = 60_000_000,
    max_frames: Annotated[int, typer.Option(min=1, help="The longest video.")] = 20_000,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests in hand; others get 503.")] = 32,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="That an upload or download may take.")] = 60.0,
    gather_milliseconds: Annotated[float, typer.Option(min=0, help="That a file waits for others.")] = 5.0,
    readers: Annotated[int | None, typer.Option(min=1, help="Threads that read files [default: processors].")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the line of JSON there.")] = None,
) -> None:
    """Answer over HTTP what predict answers (extra serve): POST /predict, GET /healthz, GET /metrics.

    It serves until it is told to end, and then finishes what it has in hand. Exit status 0 if that was by SIGTERM.
    """
    # uvicorn, when it has ended, raises the signal once more for whoever had it before: the status would be 143. And a
    # container's first process, which signals do not end by default, could not be stopped while it loads the model.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from unidual_zoo.dtypes import as_dtype
    from unidual_zoo.inference import Predictor, load_model
    from unidual_zoo.ports import listen
    from unidual_zoo.serving.app import Service, make_app, make_server
    from unidual_zoo.serving.fetching import AllowList
    from unidual_zoo.serving.limits import Limits

    limits = Limits(
        request_bytes=int(max_megabytes * MEGABYTE), pixels=max_pixels, frames=max_frames, requests=max_requests,
        receive_seconds=max_seconds,
    )  # fmt: skip
    allowed = AllowList(allow_url or ())
    with json_lines(output) as write, listen(host, port) as listening:
        predictor = Predictor(
            load_model(model, checkpoint=checkpoint), task=task, top=top, protocol=protocol, batch_size=batch_size,
            device=device_of(device), dtype=as_dtype(dtype),
        )  # fmt: skip
        service = Service(
            predictor, limits=limits, allowed=allowed, gather_seconds=gather_milliseconds / 1000, readers=readers
        )
        tasks = {modality: route.task for modality, route in predictor.routes.items()}
        about = {"model": model, "tasks": tasks}
        address, free = listening.getsockname()[:2]
        result = {"address": f"http://{f'[{address}]' if ':' in address else address}:{free}", **about}
        write(result)
        typer.echo(json.dumps(result))
        make_server(make_app(service, about=about)).run(sockets=[listening])
