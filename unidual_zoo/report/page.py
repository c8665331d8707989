"""The page of a report: what it shows of each data set, put into the template.

Whatever a file or a class is called stands there as text: the template escapes everything, characters that would move
or hide others are written as escapes, and the page allows itself no script.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from unidual_zoo.data.learnt import learnt_line
from unidual_zoo.data.shards import name_before
from unidual_zoo.evaluation import MAIN, FileResult, Report
from unidual_zoo.names import counted, printable
from unidual_zoo.report import numbers
from unidual_zoo.report.pictures import data_address, preview
from unidual_zoo.spec import VIDEO

SUFFIXES = (".html", ".htm")
TEMPLATE = "page.html.jinja"
IN_TRAINING = "in_training"  # of a report's facts: how many of its files the network has learnt from
MOST_CELLS = 20  # classes of a confusion matrix
MOST_PAIRS = 20  # of classes, where the matrix would be too large
MOST_CLASSES = 60  # rows of the table of classes
MOST_PICTURES = 8  # of mistakes, and of doubtful right answers
MOST_FILES = 20  # named that failed, were warned of, or were slow


@dataclass(frozen=True, kw_only=True)
class Section:
    """A data set's results. `baselines` are accuracies in % by what they are of; `notes` are sentences before them."""

    title: str
    report: Report
    baselines: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report. `curves` are SVG pictures by their captions, `commands` shell commands by what they are for."""

    title: str
    sections: Sequence[Section]
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, bytes] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)  # files of the training -> reason
    commands: Mapping[str, str] = field(default_factory=dict)


def write_page(page: Page, path: Path) -> None:
    """Writes the page as one file of HTML, pictures included.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(render(page), encoding="utf-8")


def check_page(path: Path) -> None:
    """Raises a ValueError unless `write_page` can write a page of that name."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"the report's name must end in {', '.join(SUFFIXES)}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"no folder {path.parent} for the report {path}")


def evaluation_page(model: str, reports: Mapping[str, Report]) -> Page:
    """The page of what `unidual evaluate` measured, a section for each report by its title."""
    sections = []
    for title, report in reports.items():
        baselines = numbers.majority_baseline([result.label for result in report.results], report)
        notes = [line] if (line := in_training_line(report)) else []
        sections.append(Section(title=title, report=report, baselines=baselines, notes=notes))
    modalities = list(dict.fromkeys(report.modality for report in reports.values()))
    return Page(title=f"{model}, evaluated", sections=sections, commands=next_commands(model, modalities=modalities))


def in_training_line(report: Report) -> str | None:
    """That files of a report were in the training of its network; None if none is known to be."""
    count = report.facts.get(IN_TRAINING)
    return learnt_line(count, len(report.files)) if count else None


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "plain": _plain, "counted": counted}
    source = resources.files("unidual_zoo.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        page=page,
        curves={caption: data_address(svg, "image/svg+xml") for caption, svg in page.curves.items()},
        sections=[_contents(section) for section in page.sections],
        unreadable=list(page.unreadable.items())[:MOST_FILES],
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def next_commands(model: str, *, modalities: Sequence[str], run: str | None = None) -> dict[str, str]:
    """What to do with a model of that name ("local-dir:…" too), as shell commands; `run` is its run directory."""
    name = shlex.quote(model)
    commands = {
        "Predict": f"unidual predict FILES --model {name}",
        "Try it on a page (pip install 'unidual-zoo[demo]')": f"unidual demo --model {name}",
        "See where it looks": f"unidual explain FILE --model {name}",
    }
    if run is not None:
        commands["Evaluate on other files"] = f"unidual evaluate FOLDER --model {name} --report other.html"
    commands["Serve"] = f"unidual serve --model {name}"
    for modality in modalities:
        commands[f"Export its {modality} pathway"] = f"unidual export {name} --format onnx --modality {modality}"
    if run is not None:
        publish = f"python hub/publish.py {shlex.quote(run)} --repo YOU/NAME --license LICENCE --dry-run"
        commands["Publish on the Hub (in a checkout of the repository)"] = publish
    return commands


def _contents(section: Section) -> dict[str, Any]:
    """What the template shows of a section."""
    report = section.report
    rows = numbers.class_rows(report)
    error, bins = numbers.calibration(report)
    usual, slow = numbers.slow_files(report, MOST_FILES)
    guessing = numbers.guessing_line(report, section.baselines)
    worst = sorted(rows, key=lambda row: (row.recall is None, row.recall, -row.files))
    return {
        "title": section.title,
        "metrics": report.metrics(),
        "spreads": dict.fromkeys(report.metrics()) | {MAIN[report.modality]: report.spread()},
        "meaning": report.meaning(),
        "baselines": section.baselines,
        "notes": [*section.notes, *([guessing] if guessing else [])],
        "facts": {name: value for name, value in report.to_dict().items() if _is_fact(name, value, report)},
        "count": len(report.files),
        "rows": rows if len(rows) <= MOST_CLASSES else worst[:MOST_CLASSES],
        "num_classes": len(rows),
        "matrix": _matrix(report) if len(rows) <= MOST_CELLS else None,
        "pairs": _pairs(report),
        "calibration_error": error,
        "bins": bins,
        "mistakes": [_card(report, result) for result in numbers.confident_mistakes(report, MOST_PICTURES)],
        "doubtful": [_card(report, result) for result in numbers.doubtful_hits(report, MOST_PICTURES)],
        "usual_seconds": usual,
        "slow": [(report.files[result.index], result.seconds) for result in slow],
        "failed": len(report.failures),
        "warned": len(report.warnings),
        "failures": report.failures[:MOST_FILES],
        "warnings": report.warnings[:MOST_FILES],
        "is_video": report.modality == VIDEO,
    }


def _matrix(report: Report) -> dict[str, Any]:
    """The confusion matrix: a row for each class of files, a cell (count, share of the row) for each prediction."""
    counts = numbers.confusions(report)
    classes = sorted({number for pair in counts for number in pair} | {result.label for result in report.results})
    rows = []
    for label in classes:
        total = sum(counts[label, other] for other in classes)
        cells = [(counts[label, other], counts[label, other] / max(total, 1), label == other) for other in classes]
        rows.append((numbers.class_name(report, label), cells))
    return {"columns": [numbers.class_name(report, number) for number in classes], "rows": rows}


def _pairs(report: Report) -> list[tuple[str, str, int]]:
    """The most frequent confusions: (true, predicted, files)."""
    wrong = [(pair, count) for pair, count in numbers.confusions(report).most_common() if pair[0] != pair[1]]
    return [
        (numbers.class_name(report, label), numbers.class_name(report, other), count)
        for (label, other), count in wrong[:MOST_PAIRS]
    ]


def _card(report: Report, result: FileResult) -> dict[str, Any]:
    """A file with its picture, its class, and the best answers with their confidences."""
    answers = zip(result.top[:3], result.confidences, strict=False)
    file = report.files[result.index]
    return {
        "picture": preview(file, report.modality),
        "file": file,
        "short": "/".join(Path(name_before(file)).parts[-2:]),
        "label": numbers.class_name(report, result.label),
        "answers": [(numbers.class_name(report, number), share) for number, share in answers],
    }


def _is_fact(name: str, value: Any, report: Report) -> bool:
    """Whether an entry of the report's JSON line is for the table of facts: the rest has a place of its own."""
    elsewhere = {*report.metrics(), "standard_error", "baselines", "failures", "warnings", "failed", "warned"}
    return name not in elsewhere and value not in (None, {}, "")


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _plain(value: Any) -> str:
    """A fact for a reader: pairs and lists on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry)}" for name, entry in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    return "–" if value is None else str(value)
