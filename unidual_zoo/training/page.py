"""The report of a run: what was trained on what, how it went, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unidual_zoo.evaluation import Report
from unidual_zoo.names import counted
from unidual_zoo.report.page import Page, Section, next_commands
from unidual_zoo.training.plan import TaskPlan
from unidual_zoo.training.plots import curve_pictures
from unidual_zoo.training.recipes import Recipe
from unidual_zoo.training.rundir import LOG
from unidual_zoo.training.sources import share_line
from unidual_zoo.weights import EXPORT

REPORT = "report.html"


def run_page(
    run: Path,
    recipe: Recipe,
    reports: Mapping[str, Report],
    *,
    plan: Sequence[TaskPlan],
    unreadable: Mapping[str, str],
) -> Page:
    """The page of the run in that directory, of its final reports. `unreadable` are training files and why."""
    notes = {task.task: task.notes() for task in plan}
    return Page(
        title=f"{recipe.model.model}, trained on {' and '.join(recipe.data.tasks)}",
        facts=_facts(recipe, plan),
        settings=recipe.to_dict(),
        curves=curve_pictures(run / LOG),
        unreadable=unreadable,
        sections=[
            Section(
                title=task,
                report=report,
                baselines=report.facts.get("baselines", {}),
                notes=notes.get(task, []),
            )
            for task, report in reports.items()
        ],
        commands=next_commands(
            f"local-dir:{run / EXPORT}",
            modalities=list(dict.fromkeys(recipe.data.tasks.values())),
            run=str(run),
        ),
    )


def _facts(recipe: Recipe, plan: Sequence[TaskPlan]) -> dict[str, Any]:
    """What was trained on what."""
    model, optim = recipe.model, recipe.optim
    fitted = model.fit_heads and recipe.data.labelled_tasks
    start = model.init or ("its published weights" if model.pretrained else "random weights")
    frozen = {"frozen": "the trunk" if model.freeze == "trunk" else f"the first {counted(model.freeze, 'part')}"}
    return {
        "network": model.model,
        "started from": start,
        **(frozen if model.freeze else {}),
        **{task.task: task.line() for task in plan},
        **({"heads": "fitted by least squares before the first step"} if fitted else {}),
        "training": f"{counted(optim.epochs, 'epoch')}, {optim.optimizer}, lr {optim.lr:g}, schedule {optim.schedule}, "
        f"batches of {recipe.data.batch_size}"
        if optim.epochs
        else "no step was made",
        "losses": "every class weighs alike" if optim.class_weights == "balanced" else "every file weighs alike",
        "between epochs": _watched(recipe),
    }


def _watched(recipe: Recipe) -> str:
    """What was evaluated between epochs, and what that decided."""
    if not (recipe.run.eval_every and recipe.optim.epochs):
        return "nothing was evaluated: the test files were seen once, at the end"
    kept = f"training files that were kept back ({share_line(recipe.data.validation)})"
    files = kept if recipe.data.validation else "the test files"
    used = [
        *([f"training ended after {recipe.run.patience} without a better score"] if recipe.run.patience else []),
        *(["the best network was chosen by them"] if recipe.run.publish == "best" else []),
    ]
    flatters = ", which flatters the figures" if used and not recipe.data.validation else ""
    return f"{files} were evaluated; {' and '.join(used) or 'nothing was decided by them'}{flatters}"
