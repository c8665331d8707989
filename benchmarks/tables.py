"""What table2.py, table3.py, ablations.py and the like share: rows are trained, evaluated, set beside the paper's.

A run is one row with one seed: the command `unidual train …` in a process of its own, in the run directory
OUT/SCALE/[TABLE/]COLUMN/ROW/seedN. One that is finished is kept and not run again, one that was stopped goes on. The
table is drawn from all finished runs that are there.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Annotated, Any

import timm
import typer
from matplotlib.figure import Figure

from unidual.app import main as run_app
from unidual.options import HELP
from unidual_zoo.checks import check_known
from unidual_zoo.models.summary import multiply_adds
from unidual_zoo.progress import Progress
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.tabular import markdown_table, mean_and_deviation
from unidual_zoo.training.recipes import RENAMED
from unidual_zoo.training.rundir import LOG, read_log, write_whole
from unidual_zoo.weights import EXPORT

IMAGES, CLIPS, THIRD, FOURTH = "images", "clips", "third", "fourth"  # the roles of a table's tasks
MODALITY = {IMAGES: IMAGE, CLIPS: VIDEO, THIRD: VIDEO, FOURTH: VIDEO}
METRICS = {  # what is reported -> the role and its metric
    "clip@1": (CLIPS, "clip@1"),
    "video@1": (CLIPS, "video@1"),
    "video@5": (CLIPS, "video@5"),
    "top-1": (IMAGES, "top-1"),
    "top-5": (IMAGES, "top-5"),
    "third clip@1": (THIRD, "clip@1"),
    "third video@1": (THIRD, "video@1"),
    "fourth video@1": (FOURTH, "video@1"),
}
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, two-sided 95%, by n - 1
RESULT, CHILD_LOG, NOTE = "result.json", "output.txt", "settings.txt"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A system: its network, the roles of its tasks, and the row whose run of the same seed it starts from, or whose
    network labels its clips."""

    name: str
    model: str  # with {} in place of the size
    sources: tuple[str, ...]
    init: str | None = None
    teacher: str | None = None
    settings: tuple[str, ...] = ()  # of the recipe; $images, $clips, … are the tasks' names
    small: tuple[str, ...] = ()  # more of them, at scales that are run on one machine
    paper: Mapping[str, float] = field(default_factory=dict)  # the paper's figures in %
    reference: str | None = None  # the row to which this one is compared, if not the table's

    @property
    def base(self) -> str | None:
        """The row that must have run before."""
        return self.init or self.teacher

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in self.name)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a table is run: the recipe, the networks' size, and for each role the task and the options of its data.

    `data` gives these options, as `--data TASK=FOLDER`; it makes the data where they are made by a program.
    """

    recipe: str
    size: str
    tasks: Mapping[str, str]
    data: Callable[[Options, Mapping[str, str]], dict[str, list[str]]]
    settings: tuple[str, ...] = ()
    only_prints: bool = False  # the commands, unless --run is given


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper, or of ours about it."""

    title: str
    rows: tuple[Row, ...]
    scales: Mapping[str, Scale]
    metrics: tuple[str, ...]
    reference: str  # the row to which the others are compared
    paper: str = ""  # what the paper's figures are
    folder: str = ""  # of its run directories, where rows of these names are other runs than those of Table 2

    def row(self, name: str) -> Row:
        """The row of that name."""
        rows = {row.name: row for row in self.rows}
        check_known("row", name, rows)
        return rows[name]

    def chain(self, row: Row) -> list[Row]:
        """The rows that must have run before a row, the last first, and itself before them."""
        return [row, *(self.chain(self.row(row.base)) if row.base else ())]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says about all runs."""

    scale: str
    column: str
    cifar: Path
    download: bool
    images: int
    clips: int
    given: Mapping[str, str]  # --data: task -> folder
    settings: tuple[str, ...]
    out: Path
    jobs: int


class Runs:
    """The runs of a table at a scale: their commands, their directories, their results."""

    def __init__(self, table: Table, options: Options) -> None:
        check_known("scale", options.scale, table.scales)
        self.table, self.options, self.scale = table, options, table.scales[options.scale]
        self.tasks = {role: options.column if options.column and role == CLIPS else task
                      for role, task in self.scale.tasks.items()}  # fmt: skip
        self.data: dict[str, list[str]] | None = None

    def folder(self, row: Row, seed: int) -> Path:
        """The run directory."""
        column = self.tasks[CLIPS]
        return self.options.out / self.options.scale / self.table.folder / column / row.folder / f"seed{seed}"

    def command(self, row: Row, seed: int) -> list[str]:
        """The training and evaluation of a row as a command line, without the interpreter."""
        if self.data is None:
            used = {role for row in self.table.rows for role in row.sources}
            self.data = self.scale.data(self.options, {role: self.tasks[role] for role in self.tasks if role in used})
        arguments = [self.scale.recipe]
        for role in row.sources:
            arguments += self.data[role]
        for setting in self.settings(row, seed):
            arguments += ["--set", setting]
        return ["train", *arguments, "--out", str(self.folder(row, seed)), "--resume"]

    def settings(self, row: Row, seed: int) -> list[str]:
        """The settings of the recipe."""
        tasks = {self.tasks[role]: MODALITY[role] for role in row.sources}
        settings = [f"model={row.model.format(self.scale.size)}", f"seed={seed}"]
        settings += [f"tasks={','.join(f'{task}:{modality}' for task, modality in tasks.items())}"]
        settings += [f"init={self.folder(self.table.row(row.init), seed)}"] if row.init else []
        if row.teacher:
            teacher = f"local-dir:{self.folder(self.table.row(row.teacher), seed) / EXPORT}"
            settings += [f"teachers={json.dumps({self.tasks[CLIPS]: teacher})}"]
        own = (*row.settings, *(() if self.scale.only_prints else row.small))
        settings += [*self.scale.settings, *(Template(text).substitute(self.tasks) for text in own)]
        return [*settings, *self.options.settings]

    def result(self, row: Row, seed: int) -> dict[str, Any] | None:
        """What a finished run gave, None if it is not finished."""
        file = self.folder(row, seed) / RESULT
        try:
            return json.loads(file.read_bytes()) if file.exists() else None
        except ValueError as error:
            raise RuntimeError(f"{file} is damaged ({error}): remove it, and the run is evaluated again") from error

    def results(self) -> list[dict[str, Any]]:
        """The results of all finished runs, row by row."""
        found = []
        for row in self.table.rows:
            seeds = sorted(int(path.name[4:]) for path in self.folder(row, 0).parent.glob("seed[0-9]*"))
            found += [result for seed in seeds if (result := self.result(row, seed))]
        return found

    def run(self, row: Row, seed: int, base: Future | None = None) -> None:
        """Runs a row with a seed, unless it is finished; `base` is the run that it starts from.

        Raises:
            RuntimeError: the command failed, and it names the file that says why; or the directory holds another run.
        """
        if base is not None:
            base.result()
        folder = self.folder(row, seed)
        self._note(folder, [*self.settings(row, seed), f"{self.options.images} images, {self.options.clips} clips"])
        if self.result(row, seed) is not None:
            return
        begun = (folder / LOG).exists()
        environment = dict(os.environ, **({"OMP_NUM_THREADS": "1"} if self.options.jobs > 1 else {}))
        launcher = ["-m", "accelerate.commands.launch"] if self.scale.only_prints else []
        with (folder / CHILD_LOG).open("a") as output:
            command = [sys.executable, *launcher, "-m", "unidual", *self.command(row, seed)]
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
            _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise RuntimeError(f"{row.name}, seed {seed} failed, see {folder / CHILD_LOG}")
        minutes = None if begun else round((used.ru_utime + used.ru_stime) / 60, 2)  # a resumed run's are not known
        result = self._result(row, seed, folder, minutes)
        write_whole(folder / RESULT, lambda path: path.write_text(json.dumps(result) + "\n"))

    @staticmethod
    def _note(folder: Path, settings: Sequence[str]) -> None:
        """Notes what a run directory is for, and refuses one that was for something else."""
        file, text = folder / NOTE, "\n".join(settings) + "\n"
        if file.exists() and list(map(current_name, file.read_text().splitlines())) != list(
            map(current_name, settings)
        ):
            raise RuntimeError(f"{folder} holds a run with other settings ({NOTE} has them): choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def _result(self, row: Row, seed: int, folder: Path, minutes: float | None) -> dict[str, Any]:
        reports = next(line["reports"] for line in reversed(read_log(folder / LOG)) if line["event"] == "end")
        result: dict[str, Any] = {"row": row.name, "seed": seed}
        for name in self.table.metrics:
            role, metric = METRICS[name]
            report = reports.get(self.tasks.get(role, ""))
            result[name] = report.get(metric) if report else None
        return result | {"CPU minutes": minutes, **cost(folder / EXPORT)}


def current_name(setting: str) -> str:
    """A setting `name=value` under the name that it has now."""
    name, equals, value = setting.partition("=")
    return f"{RENAMED.get(name, name)}{equals}{value}"


def cost(export: Path) -> dict[str, Any]:
    """Parameters of a published network, and the multiply-adds in millions of an image and of a clip."""
    model: Any = timm.create_model(f"local-dir:{export}", pretrained=True)
    result: dict[str, Any] = {"parameters": sum(weight.numel() for weight in model.parameters())}
    for modality in {task.modality for task in model.tasks.values()}:
        result[f"{modality} MMAC"] = multiply_adds(model, model.default_pathway(modality), modality) / 1e6
    return result


# ---- the tables -----------------------------------------------------------------------------------------------------


def cell(results: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean ± standard deviation over the seeds; "-" where the row has no such figure."""
    return mean_and_deviation([result[name] for result in results if result.get(name) is not None])


def difference(results: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The mean of this row minus the reference over the seeds that both have, and its 95% confidence interval."""
    theirs = {result["seed"]: result[metric] for result in reference if result.get(metric) is not None}
    pairs = [r[metric] - theirs[r["seed"]] for r in results if r.get(metric) is not None and r["seed"] in theirs]
    if not pairs:
        return "-"
    mean = statistics.mean(pairs)
    if len(pairs) == 1:
        return f"{mean:+.1f}"
    half = T95[min(len(pairs) - 1, len(T95)) - 1] * statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def tables(table: Table, results: Sequence[Mapping[str, Any]]) -> str:
    """Two tables in markdown: accuracy with the paper's in brackets; differences from the reference row and cost."""
    by_row = {row.name: [result for result in results if result["row"] == row.name] for row in table.rows}
    accuracy, second = [], []
    for row in table.rows:
        runs = by_row[row.name]
        cells = []
        for metric in table.metrics:
            paper = f" ({row.paper[metric]})" if metric in row.paper else ""
            cells.append(cell(runs, metric) + paper)
        accuracy.append([row.name, str(len(runs)), *cells])
        reference = row.reference or table.reference
        differences = [difference(runs, by_row[reference], metric) for metric in table.metrics]
        costs = [cell(runs, name).split(" ± ")[0] for name in ("image MMAC", "video MMAC", "CPU minutes")]
        parameters = f"{runs[0]['parameters']:,}" if runs else "-"
        second.append([row.name, *(differences if row.name != reference else ["0"] * len(differences)),
                       parameters, *costs])  # fmt: skip
    references = " or ".join(dict.fromkeys(row.reference or table.reference for row in table.rows))
    names = [metric.replace("third", "3rd").replace("fourth", "4th") for metric in table.metrics]
    in_brackets = f"In brackets the paper's, {table.paper}." if table.paper else ""
    return "\n".join([
        f"{table.title}: % correct, mean ± standard deviation over the seeds. {in_brackets}", "",
        markdown_table(["row", "seeds", *names], accuracy),
        f"Minus {references} with the same seed, mean [95% confidence interval by Student's t]; million "
        "multiply-adds of an image and of a clip; CPU minutes of training and evaluation, all threads together.", "",
        markdown_table(["row", *names, "parameters", "image", "clip", "minutes"], second),
    ])  # fmt: skip


def plot(table: Table, results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Every seed of every row as a point, one panel for each metric."""
    names = [row.name for row in table.rows]
    figure = Figure(figsize=(3.2 * len(table.metrics) + 1.5, 0.34 * len(names) + 1.2), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(table.metrics), sharey=True, squeeze=False)[0], table.metrics,
                            strict=True):  # fmt: skip
        points = [(r[metric], names.index(r["row"])) for r in results if r.get(metric) is not None]
        axes.scatter([x for x, _ in points], [y for _, y in points], s=18, alpha=0.6)
        for number in range(len(names)):
            values = [x for x, y in points if y == number]
            if values:
                axes.plot([statistics.mean(values)] * 2, [number - 0.3, number + 0.3], color="black", linewidth=1.5)
        axes.set(title=f"{metric} (%)", yticks=range(len(names)), yticklabels=names)
        axes.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)


# ---- the command line -----------------------------------------------------------------------------------------------


def main(table: Table) -> None:
    """The command line of a table."""

    def run(
        scale: Annotated[str, typer.Option(help="toy; mini, real or paper, where the table has it.")] = "toy",
        rows: Annotated[str | None, typer.Option(help="Names of rows, with commas between [default: all].")] = None,
        seeds: Annotated[int, typer.Option(help="Runs a row: seeds 0, 1, …")] = 1,
        column: Annotated[
            str, typer.Option(help="Classes of the clips. mini: data/synthetic/cifar.py; real: digits[_direction].")
        ] = "",
        cifar: Annotated[Path, typer.Option(help="mini: the folder of CIFAR-10.")] = Path("cifar10"),
        download: Annotated[bool, typer.Option("--download", help="mini: fetch CIFAR-10 into that folder.")] = False,
        images: Annotated[int, typer.Option(help="mini: training images of CIFAR-10.")] = 10_000,
        clips: Annotated[int, typer.Option(help="mini: training clips of a video task.")] = 3_000,
        data: Annotated[list[str] | None, typer.Option(help="paper, real: TASK=FOLDER or a list; repeatable.")] = None,
        settings: Annotated[list[str] | None, typer.Option("--set", help="name=value of the recipe, all rows.")] = None,
        out: Annotated[Path, typer.Option(help="Where the run directories are.")] = Path("runs/tables"),
        jobs: Annotated[int, typer.Option(help="Runs at once, one thread each if more than one.")] = 1,
        go: Annotated[bool, typer.Option("--run", help="paper: run the commands instead of printing them.")] = False,
        output: Annotated[Path | None, typer.Option("--json", help="Write all finished runs there.")] = None,
        picture: Annotated[Path | None, typer.Option("--plot", help="Draw every seed of every row there.")] = None,
    ) -> None:
        chosen = [table.row(name.strip()) for name in rows.split(",")] if rows else list(table.rows)
        given = {task: place for task, _, place in (pair.partition("=") for pair in data or ())}
        options = Options(
            scale=scale, column=column, cifar=cifar, download=download, images=images, clips=clips, given=given,
            settings=tuple(settings or ()), out=out, jobs=jobs,
        )  # fmt: skip
        runs = Runs(table, options)
        if runs.scale.only_prints and not go:
            launch = ["accelerate", "launch", "-m", "unidual"]
            for row in chosen:
                typer.echo(f"# {row.name}\n{shlex.join([*launch, *runs.command(row, 0)])}")
            return
        failed = run_all(runs, chosen, seeds)
        results = runs.results()
        typer.echo(tables(table, results), nl=False)
        if picture is not None:
            plot(table, results, picture)
        if output is not None:
            text = json.dumps({"runs": results}, indent=1)
            write_whole(output, lambda path: path.write_text(text + "\n"))
        typer.echo(json.dumps({"scale": scale, "out": str(out), "runs": len(results), "failed": failed}))
        if failed:
            raise typer.Exit(1)

    run.__doc__ = f"{table.title}: train and evaluate its rows, and print them, beside the paper's where it has any."
    name = Path(sys.argv[0]).name
    app = typer.Typer(
        name=name, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP
    )
    app.command()(run)
    run_app(application=app)


def run_all(runs: Runs, rows: Sequence[Row], seeds: int) -> list[str]:
    """Runs the rows and those that they start from, seed after seed; what failed, in sentences."""
    chains = {row.name: runs.table.chain(row) for row in runs.table.rows}
    asked = {other.name for row in rows for other in chains[row.name]}
    needed = [row for row in runs.table.rows if row.name in asked]
    # Within a seed those that start from another row come last, so that they need not wait for it.
    wanted = [(row, seed) for seed in range(seeds) for row in sorted(needed, key=lambda row: len(chains[row.name]))]
    for row, seed in wanted:
        if runs.result(row, seed) is None:
            runs.command(row, seed)  # makes the data, and finds what is wrong before the first run
    futures: dict[tuple[str, int], Future] = {}
    failed = []
    with ThreadPoolExecutor(runs.options.jobs) as pool:
        for row, seed in wanted:
            base = futures[row.base, seed] if row.base else None
            futures[row.name, seed] = pool.submit(runs.run, row, seed, base)
        try:
            for future in Progress(futures.values(), unit="run"):
                if (error := future.exception()) is not None:
                    failed.append(str(error))
                    typer.echo(str(error), err=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return list(dict.fromkeys(failed))
