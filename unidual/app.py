"""The command line `unidual`: parse, call, print.

Only what declares the commands is imported at the top; a command imports what it needs when it runs, torch above all.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unidual.check_data import check_data
from unidual.demo import demo
from unidual.devices import device_of, workers_of
from unidual.export import export
from unidual.features import features, search
from unidual.options import DEFAULT_MODEL, HELP, MODEL_HELP, NETWORK_HELP, PROTOCOL_HELP, FileSeconds, json_lines
from unidual.packing import pack
from unidual.serve import serve
from unidual.sources import BENCHMARKS, find_media, learnt_from
from unidual.training import TrainCommand, finetune, train
from unidual.ways import Actors, Address, Clips, Engine, Sampler, engine_of, salient_of

FAILED_FILES, BAD_INPUT = 1, 2  # exit status
DTYPES = ("float32", "bfloat16", "float16")
EMBEDDED_MODEL = "unidual10_aux.toy"  # what is evaluated on the embedded data

app = typer.Typer(
    name="unidual",
    help="One network for images and videos: classify files, evaluate, train, list the models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Checkpoint = Annotated[Path | None, typer.Option(help="A file of weights in place of the published ones.")]
TaskName = Annotated[str | None, typer.Option("--task", help="The head [default: the model's first for the modality].")]
ProtocolName = Annotated[str, typer.Option("--protocol", help=PROTOCOL_HELP)]
BatchSize = Annotated[int, typer.Option(help="Views that go through the network together.")]
Workers = Annotated[int | None, typer.Option(help="Processes that decode ahead [default: 0 on a CPU, else up to 8].")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … [default: cuda if it is there].")]
Dtype = Annotated[
    str | None, typer.Option(help=f"What the network computes in: {', '.join(DTYPES)} [default: its weights' own].")
]
Skip = Annotated[Path | None, typer.Option(help="A list of files to leave out, such as check-data writes.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result there, as lines of JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unidual-zoo {importlib.metadata.version('unidual-zoo')}")
        raise typer.Exit()


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Let errors show where they come from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
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
    clips: Clips = None,
    sampler: Sampler = None,
    timeline: Annotated[
        Path | None, typer.Option(help="A folder for the labels of each video over time: .json, .vtt, .csv and .png.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of a window of --timeline [default: a clip's, at least 1].")
    ] = None,
    stride: Annotated[
        float | None, typer.Option(help="Seconds from a window of --timeline to the next [default: half a window].")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="Seconds over which labels of --timeline are means [default: a window].")
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = 1,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    device: Device = None,
    dtype: Dtype = None,
    output: JsonFile = None,
) -> None:
    """Labels of images and videos, each modality by its own pathway.

    Exit status 1 if a file failed; the others are done all the same.
    """
    if timeline is None and not (window is stride is smooth is None):
        raise ValueError("--window, --stride and --smooth are of --timeline FOLDER")
    from unidual_zoo.dtypes import as_dtype

    if timeline is not None:
        from unidual.timeline import write_timelines

        if (clips, sampler, protocol, engine) != (None, None, "unidual34", "local"):
            raise ValueError(
                "--timeline sees every window, here: --clips, --sampler, --protocol and --engine go without"
            )
        options = dict(task=task, top=top, batch_size=batch_size, dtype=as_dtype(dtype), device=device_of(device))
        write_timelines(
            files, timeline, model=model, checkpoint=checkpoint, windowing=(window, stride, smooth), options=options,
            output=output,
        )  # fmt: skip
        return
    from unidual_zoo.inference import Predictor, find_files, load_model
    from unidual_zoo.names import counted, printable
    from unidual_zoo.progress import Progress

    paths = find_files(files)
    with json_lines(output) as write:
        place = device_of(device)
        score = engine_of(engine, address=address, actors=actors, device=place)
        if clips is not None and engine != "local":
            raise ValueError(f"--clips chooses on this machine, and --engine {engine} works on others: one of them")
        network = load_model(model, checkpoint=checkpoint)
        salient = salient_of(clips, sampler, model=network, device=place)
        predictor = Predictor(
            network, task=task, top=top, protocol=salient.protocol(protocol) if salient else protocol,
            batch_size=batch_size, workers=workers_of(workers, place), device=place, dtype=as_dtype(dtype),
            score=salient or score,
        )  # fmt: skip
        width, num_failed = max(len(printable(path)) for path in paths), 0
        with predictor.deaths_explained():
            for result in Progress(predictor(paths), total=len(paths), unit="file"):
                write(result)
                num_failed += "error" in result
                Progress.write(f"{printable(result['file']):<{width}}  {printable(_labels(result))}", file=sys.stdout)
    if num_failed:
        typer.echo(f"unidual: {num_failed} of {counted(len(paths), 'file')} failed", err=True)
        raise typer.Exit(FAILED_FILES)


@app.command()
def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Labelled files: folders class/file or split/class/file, CSV lists of path,label, LAYOUT:FOLDER, "
            "shards in a folder or at an address; or one of the "
            f"benchmarks {', '.join(BENCHMARKS)}, whose files --data gives."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help=f"As in predict [default: {DEFAULT_MODEL}, of a benchmark {EMBEDDED_MODEL}].")
    ] = None,
    checkpoint: Checkpoint = None,
    data: Annotated[
        str | None, typer.Option(help="The benchmark's folder or list [default: the embedded data in its place].")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="A split of the files [default: the first there of val, validation, test, else all of them]."
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="The layout of the files, such as kinetics [default: found by their lists].")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="image or video alone, of folders with both.")] = None,
    protocol: ProtocolName = "unidual34",
    clips: Clips = None,
    sampler: Sampler = None,
    task: Annotated[
        str | None, typer.Option(help="The head [default: the first for the modality that has the data's classes].")
    ] = None,
    pathway: Annotated[str | None, typer.Option(help="image or video [default: the data's modality].")] = None,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    file_seconds: FileSeconds = None,
    skip: Skip = None,
    device: Device = None,
    dtype: Dtype = None,
    page: Annotated[
        Path | None, typer.Option("--report", help="Also write what there is to see as one page of HTML.")
    ] = None,
    output: JsonFile = None,
) -> None:
    """The accuracy of a model on labelled images and videos: a report for each source and modality, the last of its
    lines one JSON object.

    A file that cannot be read counts as wrong and is named; exit status 1 if none can.
    """
    from unidual_zoo.dtypes import as_dtype
    from unidual_zoo.evaluation import evaluate as measure
    from unidual_zoo.evaluation import head_for, map_labels
    from unidual_zoo.inference import for_inference, load_model
    from unidual_zoo.names import printable
    from unidual_zoo.report.page import check_page, evaluation_page, in_training_line, write_page
    from unidual_zoo.scoring import score_files

    if page is not None:
        check_page(page)
    reports, unreadable = {}, None
    with json_lines(output) as write:
        place = device_of(device)
        found = find_media(sources, data=data, split=split, modality=modality, layout=layout, skip=skip)
        default = EMBEDDED_MODEL if found[0].benchmark else DEFAULT_MODEL
        network = load_model(model or default, checkpoint=checkpoint)
        salient = salient_of(clips, sampler, model=network, device=place)
        heads = []
        for media, _, benchmark in found:
            branch = pathway or network.default_pathway(media.modality)
            usual = BENCHMARKS[benchmark].task if benchmark else None
            named = task or (usual if usual in network.tasks else None)
            head = head_for(network, media, task=named, pathway=branch)
            if head in network.tasks:  # what cannot be tested is refused before the first is
                map_labels(media.classes, network, head)
            heads.append((branch, head))
        for (media, source, benchmark), (branch, head) in zip(found, heads, strict=True):
            report = measure(
                for_inference(network, dtype=as_dtype(dtype), modality=branch),
                media,
                protocol=salient.protocol(protocol) if salient else protocol,
                score=salient or score_files,
                task=head,
                pathway=branch,
                batch_size=batch_size,
                workers=workers_of(workers, place),
                file_seconds=file_seconds,
                device=place,
                facts={
                    **({"benchmark": benchmark} if benchmark else {}),
                    "data": source,
                    **({"skip": str(skip)} if skip else {}),
                    **_in_training(model or default, media.files),
                    **_origin(model or default, checkpoint),
                },
            )
            reports[f"{source}: {media.modality}s"] = report
            write(report.to_dict())
            typer.echo(report.table())
            if line := in_training_line(report):
                typer.echo(f"unidual: {line}", err=True)
            typer.echo(json.dumps(report.to_dict()))
            if len(report.failures) == len(report.files):
                unreadable = report.failures[0]["error"]
        if page is not None:
            write_page(evaluation_page(model or default, reports), page)
            typer.echo(printable(f"unidual: the report is {page}"), err=True)
    if unreadable:
        typer.echo(f"unidual: not one file could be read and scored: {printable(unreadable)}", err=True)
        raise typer.Exit(FAILED_FILES)


@app.command()
def explain(
    clip: Annotated[str, typer.Argument(help="A video, of which the clip in the centre is taken, or an image.")],
    model: Annotated[str, typer.Option(help=NETWORK_HELP)] = DEFAULT_MODEL,
    checkpoint: Checkpoint = None,
    layer: Annotated[
        str, typer.Option(help="An index over the residual blocks, or a unit's name such as units.blocks.6.0.")
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
    from unidual_zoo.inference import load_network, modality_of

    check_picture(out)
    with json_lines(output) as write:
        network = load_network(model, checkpoint=checkpoint).to(device_of(device)).eval()
        seen = read_clip(clip, network, modality=modality_of(clip))
        explanation = respond(network, seen, layer=layer, top=top, label=label)
        draw(explanation, out)
        if explanation.pathways_agree:
            note = "both pathways give the same maps, as they do while the operators over time are untrained"
            typer.echo(f"unidual: {note}", err=True)
        result = {"file": clip, "model": model, "out": str(out), **explanation.to_dict()}
        write(result)
    typer.echo(json.dumps(result))


@app.command()
def models(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a pattern such as '*152*'.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a markdown table.")] = False,
    output: JsonFile = None,
) -> None:
    """The models: tasks, parameters, multiply-adds of one image or clip, where weights come from, licence.

    Every network is built to be counted, which takes a while for all of them: give a pattern where you can. The table
    is cut to the terminal; --json and --markdown have everything.
    """
    from unidual_zoo.models.summary import registered_names, summarise
    from unidual_zoo.progress import Progress
    from unidual_zoo.tabular import aligned_table, markdown_table

    names, rows = registered_names(pattern), []
    with json_lines(output) as write:
        for row in Progress(summarise(names), total=len(names), unit="model", leave=False):
            write(row.to_dict())
            rows.append(row)
    if markdown:
        header = ("name", "tag", "tasks", "parameters", "multiply-adds", "weights", "licence")
        typer.echo(markdown_table(header, [row.cells() for row in rows]), nl=False)
        return
    header = ("name", "tasks", "M weights", "G image", "G clip", "weights", "licence")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(aligned_table(header, [row.short_cells() for row in rows], width=width), nl=False)


app.command(cls=TrainCommand)(train)
app.command()(finetune)
app.command()(pack)
app.command()(export)
app.command("check-data")(check_data)
app.command()(demo)
app.command()(serve)
app.command()(features)
app.command()(search)


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
    except Exception as error:
        if "--traceback" in arguments or not _is_told(error):
            raise
        typer.echo(f"unidual: {_sentence(error)}", err=True)
        sys.exit(BAD_INPUT)


def run_benchmark(name: str, about: str | None) -> None:
    """`benchmarks/<name>.py` of the process's arguments: `unidual evaluate <name>`, whose help begins with `about`."""
    arguments = sys.argv[1:]
    if set(arguments).isdisjoint(HELP["help_option_names"]):
        main(["evaluate", name, *arguments])
    command = typer.main.get_group(app).commands["evaluate"]
    command.params = [parameter for parameter in command.params if parameter.name != "sources"]
    command.help = command.epilog = None
    usage = typer.Context(command, info_name=f"benchmarks/{name}.py")
    typer.echo(f"{about}\n{command.get_help(usage)}")
    sys.exit(0)


def _is_told(error: Exception) -> bool:
    """Whether an error's own sentence is all that there is to say, else it is a fault of ours."""
    from unidual_zoo.data import MediaError

    return isinstance(error, (MediaError, ValueError, RuntimeError, OSError))


def _show_warning(message: Warning | str, *_: Any) -> None:
    from tqdm import tqdm

    tqdm.write(f"unidual: {_sentence(message)}", file=sys.stderr)


def _sentence(message: object) -> str:
    """A message on one line of a terminal."""
    from unidual_zoo.names import printable

    return printable(" ".join(str(message).split()))


def _origin(model: str, checkpoint: Path | None) -> dict[str, str]:
    """Facts for the report where the weights are not those of a registered name."""
    from unidual_zoo.export import is_exported

    saved = {"saved_as": model} if ":" in model or is_exported(model) else {}
    return saved | ({"checkpoint": str(checkpoint)} if checkpoint else {})


def _in_training(model: str, files: Sequence[str]) -> dict[str, int]:
    """A fact for the report where a saved network has learnt from some of the files, as far as it knows."""
    from unidual_zoo.report.page import IN_TRAINING

    count = learnt_from(model, files)
    return {IN_TRAINING: count} if count else {}


def _labels(result: dict[str, Any]) -> str:
    """A result for a reader."""
    if "error" in result:
        return f"error: {result['error']}"
    return ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in result["top"])
