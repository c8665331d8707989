"""The command line `unidual`: parse, call, print."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from unidual_zoo.checks import check_known
from unidual_zoo.data import MediaError
from unidual_zoo.data.datasets import TESTS, MediaSet, find_split, read_media
from unidual_zoo.data.synthetic import toy
from unidual_zoo.evaluation import evaluate as measure
from unidual_zoo.inference import Predictor, find_files, for_inference, load_model, modality_of
from unidual_zoo.models.summary import registered_names, summarise
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.tabular import aligned_table, markdown_table
from unidual_zoo.training.commands import finetune, train

FAILED_FILES, BAD_INPUT = 1, 2  # exit status
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_MODEL = "unidual10_aux"
EMBEDDED_MODEL = "unidual10_aux.toy"  # what is evaluated on the embedded data
EMBEDDED_SPLIT = "test"
MOST_WORKERS = 8

app = typer.Typer(
    name="unidual",
    help="One network for images and videos: classify files, evaluate, train, list the models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True)
class Benchmark:
    """A row of `unidual evaluate`: what it is called, its modality, and its task where a model has it."""

    title: str
    modality: str
    task: str
    embedded: bool  # whether the embedded data stand in for it, else they are only there to run something


BENCHMARKS = {
    "kinetics": Benchmark("Kinetics-400", VIDEO, "k400", True),
    "imagenet": Benchmark("ImageNet-1k", IMAGE, "in1k", True),
    "sports1m": Benchmark("Sports-1M", VIDEO, "sports1m", False),
}

Model = Annotated[
    str, typer.Option(help="A name of `unidual models` with or without its tag, hf-hub:… or local-dir:….")
]
Checkpoint = Annotated[Path | None, typer.Option(help="A file of weights in place of the published ones.")]
TaskName = Annotated[str | None, typer.Option("--task", help="The head [default: the model's first for the modality].")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="The views of a video, see unidual_zoo.evaluation.")]
BatchSize = Annotated[int, typer.Option(help="Views that go through the network together.")]
Workers = Annotated[int | None, typer.Option(help="Processes that decode ahead [default: 0 on a CPU, else up to 8].")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … [default: cuda if it is there].")]
Dtype = Annotated[str, typer.Option(help=f"What the network computes in: {', '.join(DTYPES)}.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result there, as lines of JSON.")]


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Let errors show where they come from.")] = False,
) -> None:
    """Options before the command; `main` reads them."""


@app.command()
def predict(
    files: Annotated[list[str], typer.Argument(help="Files, folders and patterns such as 'clips/*.mp4'.")],
    model: Model = DEFAULT_MODEL,
    checkpoint: Checkpoint = None,
    task: TaskName = None,
    top: Annotated[int, typer.Option(help="Labels for each file.")] = 5,
    protocol: ProtocolName = "unidual34",
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = None,
    dtype: Dtype = "float32",
    output: JsonFile = None,
) -> None:
    """Labels of images and videos, each modality by its own pathway.

    Exit status 1 if a file failed; the others are done all the same.
    """
    paths = find_files(files)
    with _lines(output) as write:
        place = _device(device)
        predictor = Predictor(
            load_model(model, checkpoint=checkpoint), task=task, top=top, protocol=protocol, batch_size=batch_size,
            workers=_workers(workers, place), device=place, dtype=_dtype(dtype),
        )  # fmt: skip
        width, num_failed = max(map(len, paths)), 0
        for result in tqdm(predictor(paths), total=len(paths), unit="file", disable=None):
            write(result)
            num_failed += "error" in result
            tqdm.write(f"{result['file']:<{width}}  {_labels(result)}", file=sys.stdout)
    if num_failed:
        typer.echo(f"unidual: {num_failed} of {len(paths)} files failed", err=True)
        raise typer.Exit(FAILED_FILES)


@app.command()
def evaluate(
    benchmark: Annotated[str, typer.Argument(help=f"What is measured: {', '.join(BENCHMARKS)}.")],
    model: Model = EMBEDDED_MODEL,
    checkpoint: Checkpoint = None,
    data: Annotated[
        str | None, typer.Option(help="Folders split/class/file or a CSV of path,label [default: the embedded data].")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help=f"A split of DATA [default: the first there of {', '.join(TESTS)}, else all of it]."),
    ] = None,
    protocol: ProtocolName = "unidual34",
    task: TaskName = None,
    pathway: Annotated[str | None, typer.Option(help="image or video [default: the data's modality].")] = None,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = None,
    dtype: Dtype = "float32",
    output: JsonFile = None,
) -> None:
    """The accuracy of a model on a data set; the last line is one JSON object. Without --data on the embedded data.

    A file that cannot be read counts as wrong and is named; exit status 1 if none can.
    """
    check_known("benchmark", benchmark, BENCHMARKS)
    row = BENCHMARKS[benchmark]
    with _lines(output) as write:
        place = _device(device)
        network = load_model(model, checkpoint=checkpoint)
        media, source = _benchmark_data(row, data, split)
        pathway = pathway or network.default_pathway(row.modality)
        report = measure(
            for_inference(network, dtype=_dtype(dtype), modality=pathway),
            media,
            protocol=protocol,
            task=task or (row.task if row.task in network.tasks else None),
            pathway=pathway,
            batch_size=batch_size,
            workers=_workers(workers, place),
            device=place,
            facts={"benchmark": benchmark, "data": source, **_origin(model, checkpoint)},
        )
        write(report.to_dict())
    typer.echo(report.table())
    typer.echo(json.dumps(report.to_dict()))
    if len(report.failures) == len(report.files):
        typer.echo("unidual: not one file could be read", err=True)
        raise typer.Exit(FAILED_FILES)


@app.command()
def explain(
    clip: Annotated[str, typer.Argument(help="A video, of which the clip in the centre is taken, or an image.")],
    model: Model = DEFAULT_MODEL,
    checkpoint: Checkpoint = None,
    layer: Annotated[
        str, typer.Option(help="An index over the residual blocks, or a unit's name such as stages.3.0.conv2.")
    ] = "-1",
    top: Annotated[int, typer.Option(help="Feature maps of each pathway.")] = 3,
    label: Annotated[
        str | None, typer.Option("--class", help="The class of Grad-CAM [default: each pathway's most likely one].")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture, a .png, .pdf or .svg.")] = Path("explain.png"),
    device: Device = None,
    output: JsonFile = None,
) -> None:
    """Draw what each pathway sees in a clip: its most activated feature maps, the other's, and Grad-CAM."""
    from unidual_zoo.explain import check_picture, draw, read_clip
    from unidual_zoo.explain import explain as respond

    check_picture(out)
    with _lines(output) as write:
        network = load_model(model, checkpoint=checkpoint).to(_device(device)).eval()
        seen = read_clip(clip, network, modality=modality_of(clip))
        explanation = respond(network, seen, layer=layer, top=top, label=label)
        draw(explanation, out)
        result = {"file": clip, "model": model, "out": str(out), **explanation.to_dict()}
        write(result)
    typer.echo(json.dumps(result))


@app.command()
def models(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a pattern such as '*152*'.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a markdown table.")] = False,
    output: JsonFile = None,
) -> None:
    """The models: tasks, parameters, multiply-adds of one image or clip, where weights come from, licence."""
    names = registered_names(pattern)
    with _lines(output) as write:
        rows = list(tqdm(summarise(names), total=len(names), unit="model", disable=None, leave=False))
        for row in rows:
            write(row.to_dict())
    header = ("name", "tag", "tasks", "parameters", "multiply-adds", "weights", "licence")
    table = markdown_table if markdown else aligned_table
    typer.echo(table(header, [row.cells() for row in rows]), nl=False)


app.command()(train)
app.command()(finetune)


def main(arguments: Sequence[str] | None = None, application: typer.Typer = app) -> None:
    """Runs a command line (default: that of the process) and ends the process with its exit status.

    0: done; 1: some files failed; 2: bad input, which is one sentence on standard error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        with warnings.catch_warnings():
            if "--traceback" not in arguments:
                warnings.showwarning = _show_warning
            application(arguments, prog_name=application.info.name)
    except (MediaError, ValueError, RuntimeError, OSError) as error:
        if "--traceback" in arguments:
            raise
        typer.echo(f"unidual: {' '.join(str(error).split())}", err=True)
        sys.exit(BAD_INPUT)


def _show_warning(message: Warning | str, *_: Any) -> None:
    tqdm.write(f"unidual: {' '.join(str(message).split())}", file=sys.stderr)


def _benchmark_data(row: Benchmark, data: str | None, split: str | None) -> tuple[MediaSet, str]:
    """The data set, and its name for the report."""
    if data is None:
        split = split or EMBEDDED_SPLIT
        media = toy.images(split) if row.modality == IMAGE else toy.videos(split)
        source = f"embedded {'images' if row.modality == IMAGE else 'videos'}, {split}"
        what = "in place of" if row.embedded else "only to show that it runs: nothing of"
        typer.echo(f"unidual: {source}, {what} {row.title}; --data takes the real files", err=True)
        return media, source
    split = split or find_split(data, TESTS)
    return read_media(data, modality=row.modality, split=split), data if split is None else f"{data}, {split}"


def _origin(model: str, checkpoint: Path | None) -> dict[str, str]:
    """Facts for the report where the weights are not those of a registered name."""
    saved = {"saved_as": model} if ":" in model else {}
    return saved | ({"checkpoint": str(checkpoint)} if checkpoint else {})


@contextlib.contextmanager
def _lines(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Writes lines of JSON to a file, which is opened before the work begins and emptied by the first line."""
    if path is None:
        yield lambda row: None
        return
    with path.open("a", encoding="utf-8") as file:
        begun = False

        def write(row: dict[str, Any]) -> None:
            nonlocal begun
            if not begun and path.is_file():  # /dev/stdout is none
                file.truncate(0)
            begun = True
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield write


def _device(name: str | None) -> torch.device:
    """A torch device that can be used; the first GPU, else the CPU, for None."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _dtype(name: str) -> torch.dtype:
    check_known("dtype", name, DTYPES)
    return getattr(torch, name)


def _workers(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return workers
    return 0 if device.type == "cpu" else min(MOST_WORKERS, os.cpu_count() or 1)


def _labels(result: dict[str, Any]) -> str:
    """A result for a reader."""
    if "error" in result:
        return f"error: {result['error']}"
    return ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in result["top"])


if __name__ == "__main__":  # accelerate launch -m unidual_zoo.cli train ...
    main()
