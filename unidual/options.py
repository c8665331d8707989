"""What the commands have in common: the default model, help, the limit of a file, the results of `--json FILE`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_MODEL = "unidual_efficientnet_lite0"  # it ships with the package and knows ImageNet's classes

PROTOCOL_HELP = (  # all of unidual_zoo.scoring.PROTOCOLS, which help does without: it would have to import torch
    "The views of a video: unidual34 (10 clips), one_clip, unidual152, torchvision, vmz, nonlocal, timesformer, csn, "
    "uniformerv2_4x3, uniformerv2_2x3, uniformerv2_1x3, uniformerv2_10x3, uniformerv2_3x1, st_adapter_3x1."
)

NETWORK_HELP = "A name of `unidual models` with or without its tag, hf-hub:… or local-dir:…."  # no graph of `export`
MODEL_HELP = "A name of `unidual models` with or without its tag, hf-hub:…, local-dir:… or a folder of `export`."

HELP = {"help_option_names": ["-h", "--help"]}


def run_script(function: Callable[..., None]) -> None:
    """A script whose command line is the function's arguments."""
    application = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=HELP)
    application.command()(function)
    application()


FileSeconds = Annotated[
    float | None,
    typer.Option(
        help="That reading one file may take before it is given up [default: UNIDUAL_FILE_SECONDS, else any]."
    ),
]


@contextlib.contextmanager
def json_lines(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes lines of JSON to a file, which is opened before the work begins and emptied by the first line.

    Raises:
        ValueError: the file is `-`, which elsewhere means standard output; here it would be a file of that name.
    """
    if path is None:
        yield lambda row: None
        return
    if str(path) == "-":
        raise ValueError(
            "--json takes a file, not -: name one, or /dev/stdout for lines of JSON among what else is printed"
        )
    file = path.open("a", encoding="utf-8")
    begun = False

    def write(row: dict[str, Any]) -> None:
        nonlocal begun
        with _named(path):
            if not begun and path.is_file():  # /dev/stdout is none
                file.truncate(0)
            begun = True
            file.write(json.dumps(row) + "\n")
            file.flush()

    try:
        yield write
    except BaseException:
        with contextlib.suppress(OSError):  # what could not be written is tried again
            file.close()
        raise
    with _named(path):
        file.close()


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing, such as of a full disk, with the file's name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
