"""The commands `unidual train` and `unidual finetune`: parse, call, print."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from unidual.options import DEFAULT_MODEL, FileSeconds

if TYPE_CHECKING:
    from unidual_zoo.evaluation import Report
    from unidual_zoo.training.plan import Plan
    from unidual_zoo.training.recipes import Recipe

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="name=value of a setting of the recipe, such as lr=0.02; repeatable.")
]


def list_settings(context: typer.Context, wanted: bool) -> None:
    """Prints all settings in the width of the terminal, with the values that a command starts from."""
    if not wanted:
        return
    from unidual_zoo.training.recipes import RECIPES, Recipe, explained_settings

    name = context.info_name or ""
    given = RECIPES[name].recipe if name in RECIPES else Recipe()
    wrap = partial(textwrap.fill, width=shutil.get_terminal_size().columns, break_on_hyphens=False)
    for group, settings in explained_settings(given).items():
        typer.echo(f"{wrap(group)}\n")
        for setting in settings:
            value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value)
            example = f" Such as --set {setting.name}={setting.example}." if setting.example else ""
            typer.echo(
                wrap(f"{setting.name}={value}: {setting.allowed}", initial_indent="  ", subsequent_indent="    ")
            )
            typer.echo(wrap(f"{setting.meaning}{example}", initial_indent="    ", subsequent_indent="    "))
        typer.echo()
    raise typer.Exit()


ListSettings = Annotated[
    bool,
    typer.Option("--settings", callback=list_settings, is_eager=True, help="Explain all settings that --set takes."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in that directory, if there is one.")]
FreezeNorms = Annotated[
    bool, typer.Option("--freeze-norms", help="BatchNorms keep their statistics, for batches of a few examples.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, mps … [default: the fastest that torch has]. Of GPUs CUDA_VISIBLE_DEVICES chooses one, "
        "accelerate launch takes all."
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        help="A folder class/file or split/class/file, a CSV of path,label[,split,group], LAYOUT:FOLDER or shards."
    ),
]


class TrainCommand(TyperCommand):
    """`unidual train`, whose help lists the recipes, which are imported for it alone."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        self.epilog = experiments()
        super().format_epilog(ctx, formatter)


def train(
    recipe: Annotated[str, typer.Argument(help="One of those below.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="TASK=FOLDER (class/file or train/class/file), TASK=LIST.csv (path,label) or TASK=LAYOUT:FOLDER; "
            "repeatable."
        ),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="TASK=FOLDER or LIST.csv of test files, if not beside the others.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="TASK=LIST of files to leave out, such as check-data writes; repeatable.")
    ] = None,
    file_seconds: FileSeconds = None,
    freeze_norms: FreezeNorms = False,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="The run directory [default: runs/RECIPE].")] = None,
    resume: Resume = False,
    settings: Settings = None,
    listed: ListSettings = False,
) -> None:
    """Train a recipe, here or on many processes (accelerate launch -m unidual train RECIPE …)."""
    from unidual_zoo.training.recipes import find_recipe

    given = [*(["freeze_norms=true"] if freeze_norms else []), *_given_seconds(file_seconds), *(settings or ())]
    found = find_recipe(recipe, given)
    place = _place(out, recipe, resume=resume)
    _use(device)
    trained, tested, skipped = (_by_task(given, found.data.tasks) for given in (data or (), test or (), skip or ()))
    found = found.changed(
        data={**found.data.data, **trained},
        test_data={**found.data.test_data, **tested},
        skip={**found.data.skip, **skipped},
    )
    _run(found, out=place, resume=resume)


def finetune(
    images: Source = None,
    videos: Source = None,
    model: Annotated[str, typer.Option(help="A name of `unidual models` or local-dir:FOLDER.")] = DEFAULT_MODEL,
    test_images: Source = None,
    test_videos: Source = None,
    freeze: Annotated[
        str,
        typer.Option(
            help="Layers that stay as they are: 1 the stem, 2 also stage 1, …; trunk: all but the heads "
            "and a trunk's operators over time."
        ),
    ] = "0",
    skip: Annotated[
        str | None, typer.Option(help="A list of images and videos to leave out, such as check-data writes.")
    ] = None,
    file_seconds: FileSeconds = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; 0 fits heads alone.")] = None,
    freeze_norms: Annotated[
        bool | None,
        typer.Option(
            "--freeze-norms/--train-norms",
            help="BatchNorms use and keep their running statistics [default: they do, but those of random weights].",
        ),
    ] = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="The run directory [default: runs/finetune].")] = None,
    resume: Resume = False,
    settings: Settings = None,
    listed: ListSettings = False,
) -> None:
    """Fit a network to your own labelled images, videos, or both; ends with a folder that timm and `predict` load.

    Says first what there is to learn from, and chooses by its size what is evaluated between epochs, when training ends
    and whether classes are weighted, unless --set does.
    """
    from unidual_zoo.training.finetune import finetune_recipe
    from unidual_zoo.training.recipes import current_names

    place = _place(out, "finetune", resume=resume)
    _use(device)
    given = [
        f"freeze={freeze}",
        *([] if freeze_norms is None else [f"freeze_norms={json.dumps(freeze_norms)}"]),
        *([] if epochs is None else [f"epochs={epochs}"]),
        *_given_seconds(file_seconds),
        *(settings or ()),
    ]
    recipe = finetune_recipe(
        model,
        images=images,
        videos=videos,
        test_images=test_images,
        test_videos=test_videos,
        skip=skip,
        settings=given,
    )
    names = current_names(dict.fromkeys(setting.partition("=")[0] for setting in given))
    recipe, plan, lines = _planned(recipe, chosen=names)
    _run(recipe, out=place, resume=resume, plan=plan, lines=lines)


def _planned(recipe: Recipe, *, chosen: Collection[str]) -> tuple[Recipe, Plan | None, list[str]]:
    """The recipe with what the size of the data asks for where nothing is `chosen`, and what is going to happen, for a
    reader."""
    from unidual_zoo.training.engine import on_cpu
    from unidual_zoo.training.finetune import practice_line, scalable_network
    from unidual_zoo.training.plan import (
        fitting_line,
        make_plan,
        settings_by_size,
        settings_for_cpu,
        settings_for_few_steps,
    )

    lines = [f"{recipe.model.model} starts from random weights"] if recipe.model.is_random else []
    plan, steadier = None, {}
    if not recipe.data.teachers:
        plan = make_plan(recipe.data, seed=recipe.run.seed)
        changes, reasons = settings_by_size(plan.tasks, recipe, chosen)
        recipe = recipe.changed(**changes)
        if on_cpu():
            cheaper, why = settings_for_cpu(plan.tasks, recipe, chosen, scalable_network(recipe))
            recipe, reasons = recipe.changed(**cheaper), [*reasons, *why]
        steadier, why = settings_for_few_steps(plan.tasks, recipe, chosen)
        recipe, reasons = recipe.changed(**steadier), [*reasons, *why]
        lines = [*(line for task in plan.tasks for line in task.lines()), *lines, *reasons]
    lines += [line for line in (practice_line(recipe, {*chosen, *steadier}), fitting_line(recipe)) if line]
    return recipe, plan, lines


def _place(out: Path | None, recipe: str, *, resume: bool) -> Path:
    """The run directory.

    Raises:
        RunError: it is to be a new run's, and holds one. Nothing has been printed or read by then.
    """
    from unidual_zoo.training.rundir import check_unused

    place = out or Path("runs") / recipe
    if not resume:
        check_unused(place)
    return place


def _use(device: str | None) -> None:
    if device is not None:
        from unidual_zoo.training.engine import use_device

        use_device(device)


def _given_seconds(file_seconds: float | None) -> list[str]:
    return [] if file_seconds is None else [f"file_seconds={file_seconds}"]


def experiments() -> str:
    """What `unidual train --help` says of the recipes, for click: a paragraph each, whose lines stay as they are."""
    from unidual_zoo.training.recipes import RECIPES

    paragraphs = []
    for name, experiment in RECIPES.items():
        lines = (
            f"{name}: {experiment.about}", f"  {experiment.command}",
            f"  cost: {experiment.cost}", f"  to expect: {experiment.figures}",
        )  # fmt: skip
        paragraphs.append("\n".join(("\b", *lines)))
    return "\n\n".join(("The recipes:", *paragraphs))


def _by_task(given: Sequence[str], tasks: Iterable[str]) -> dict[str, str]:
    """`["in1k=FOLDER"]` -> `{"in1k": "FOLDER"}`."""
    from unidual_zoo.checks import check_known

    sources = {}
    for text in given:
        task, equals, source = text.partition("=")
        if not equals:
            raise ValueError(f"needs TASK=FOLDER, got {text!r}")
        check_known("task", task, tasks)
        sources[task] = source
    return sources


def _run(recipe: Recipe, *, out: Path, resume: bool, plan: Plan | None = None, lines: Sequence[str] = ()) -> None:
    """Says in `lines` and more what is going to happen, does it, and says what came of it; of a finished run that it is
    one. Where a run goes on from a checkpoint, the training says from which step, and `lines` have been said before."""
    from accelerate import PartialState

    from unidual_zoo.names import printable
    from unidual_zoo.training.page import REPORT
    from unidual_zoo.training.rundir import RunDirectory
    from unidual_zoo.training.trainer import finished
    from unidual_zoo.training.trainer import train as run
    from unidual_zoo.weights import EXPORT

    end = finished(recipe, out=out) if resume else None
    told = [*lines, *_taught_lines(recipe)] if end is None else [_finished_line(recipe, out, end["epochs"])]
    goes_on = end is None and resume and RunDirectory(out).has_checkpoint()
    if PartialState().is_main_process and not goes_on:
        for line in told:
            typer.echo(f"unidual: {printable(line)}", err=True)
    if end is None:
        try:
            reports = run(recipe, out=out, resume=resume, plan=plan)
        except KeyboardInterrupt:
            if PartialState().is_main_process:
                typer.echo(printable(f"unidual: {_stopped_line(out)}"), err=True)
            raise
        scores = {task: report.metrics() for task, report in reports.items()}
        end = {"scores": scores, "reports": {task: report.to_dict() for task, report in reports.items()}}
        if PartialState().is_main_process:
            _tell(reports, out)
    if PartialState().is_main_process:
        result = {"out": str(out), "export": str(out / EXPORT), "report": str(out / REPORT), "scores": end["scores"]}
        baselines = {task: report["baselines"] for task, report in end["reports"].items()}
        typer.echo(json.dumps({**result, "baselines": baselines}))
    PartialState().destroy_process_group()


def _taught_lines(recipe: Recipe) -> list[str]:
    return [
        f"{task} is learnt from {teacher}: labels and folder names of its files are not used, nor are any tested"
        for task, teacher in recipe.data.teachers.items()
    ]


def _stopped_line(out: Path) -> str:
    """How a run that was stopped goes on."""
    from unidual_zoo.training.rundir import is_fresh

    if not is_fresh(out):
        return f"stopped: the same command with --resume goes on in {out}, another --out begins anew"
    return f"stopped before the first checkpoint: this command or a corrected one may begin in {out}"


def _finished_line(recipe: Recipe, out: Path, epochs: int) -> str:
    """That nothing is left to do in a run directory, and where what came of it is."""
    from unidual_zoo.names import counted
    from unidual_zoo.training.page import REPORT
    from unidual_zoo.weights import EXPORT

    trained = f"{epochs} of {counted(recipe.optim.epochs, 'epoch')}" if recipe.optim.epochs else "its heads are fitted"
    found = f"its network is local-dir:{out / EXPORT}, its report {out / REPORT}"
    return f"{out} is finished ({trained}): {found}; to learn from files added since, take another --out"


def _tell(reports: Mapping[str, Report], out: Path) -> None:
    """Prints what came of a run."""
    from unidual_zoo.names import counted, printable
    from unidual_zoo.report.numbers import guessing_line
    from unidual_zoo.report.page import next_commands
    from unidual_zoo.training.page import REPORT
    from unidual_zoo.weights import EXPORT

    for task, report in reports.items():
        if report.failures:
            first = report.failures[0]
            count = f"{len(report.failures)} of {counted(len(report.files), 'test file')} of {task}"
            first = printable(f"{first['file']}: {first['error']}")
            typer.echo(f"unidual: {count} failed, which counts as wrong, the first: {first}", err=True)
    for task, report in reports.items():
        baselines = report.facts["baselines"]
        scores = [f"{name} {score}" for name, score in report.scores().items()]
        beside = [f"{name} {value:.2f}%" for name, value in baselines.items()]
        of = f"of {counted(len(report.files), 'file')}"
        typer.echo(printable(f"{task}: {', '.join(scores)} {of} (beside it: {', '.join(beside)})"))
        if line := guessing_line(report, baselines):
            typer.echo(printable(f"{task}: {line}"))
    if meaning := next(filter(None, (report.meaning() for report in reports.values())), None):
        typer.echo(meaning)
    commands = next_commands(f"local-dir:{out / EXPORT}", modalities=())
    typer.echo(printable(f"report, curves, confusion matrices, predictions and log: {out / REPORT} and beside it"))
    typer.echo(printable(f"network: local-dir:{out / EXPORT}; to use it: {next(iter(commands.values()))}"))
