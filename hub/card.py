"""Model cards: of one repository, and MODEL_CARD.md, the index of all checkpoints.

uv run hub/card.py      writes MODEL_CARD.md anew from the table of checkpoints; a test says when that is due
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from unidual_zoo import models
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.family import find_family
from unidual_zoo.names import counted
from unidual_zoo.spec import DENSE, IMAGE, KINETICS_MEAN, KINETICS_STD, VIDEO, InputSpec
from unidual_zoo.tabular import markdown_table, mean_and_deviation
from unidual_zoo.weights import Checkpoint, Metric

ROOT = Path(__file__).parent.parent
README, INDEX, TABLE2 = "README.md", ROOT / "MODEL_CARD.md", ROOT / "docs/results/table2_mini.json"
LIBRARY = "unidual-zoo"
METRICS = {IMAGE: ("top-1", "top-5"), VIDEO: ("clip@1", "video@1", "video@5")}
SOURCE = ("task", "modality", "protocol", "listed", "decoded", "resize", "crop", "decoder", "torch")  # of a metric
DATASETS = {"in1k": ("imagenet-1k", "ImageNet-1k"), "k400": ("kinetics-400", "Kinetics-400")}  # id on the Hub, name

SNIPPET = """\
import timm, unidual_zoo                      # the import registers the models

model = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
model.spec                                    # preprocessing, frames, class names
"""
CALLS = {
    IMAGE: "model(images)                                 # (B, 3, H, W)    -> logits of {task}\n",
    VIDEO: "model(clips)                                  # (B, 3, T, H, W) -> logits of {task}\n",
}


def metrics_of(report: Mapping[str, Any]) -> list[Metric]:
    """The metrics of a report as `unidual evaluate --json` writes it, each with where it comes from.

    Raises:
        ValueError: the report does not say how they came about, so that they have no source.
    """
    if missing := [fact for fact in SOURCE if report.get(fact) in (None, "")]:
        raise ValueError(f"metrics without a source: the report of {report.get('task')} lacks {', '.join(missing)}")
    data = report.get("data") or f"test files of {report['task']}"
    source = f"{data}: {report['decoded']} of {counted(report['listed'], 'file')} decoded by {report['decoder']}"
    found = [name for name in METRICS[report["modality"]] if name in report]
    return [
        Metric(task=report["task"], metric=name, value=report[name], protocol=report["protocol"], source=source)
        for name in found
    ]


def make_card(
    model: TaskModel,
    *,
    repo: str,
    config: Mapping[str, Any],
    reports: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> str:
    """README.md of a model's repository. Metrics are our own alone, and their names hold the protocol.

    `facts`: license, source and about (what the weights were trained on), the last two may be None.

    Raises:
        ValueError: there is no licence.
    """
    if not facts.get("license"):
        raise ValueError(f"the weights of {repo} have no licence: say which one they are under")
    measured = [metric for report in reports for metric in metrics_of(report)]
    modalities = {task.modality for task in model.tasks.values()}
    metadata = ModelCardData(
        model_name=repo.split("/")[-1],
        library_name=LIBRARY,
        license=facts["license"],
        pipeline_tag=f"{VIDEO if VIDEO in modalities else IMAGE}-classification",
        tags=["timm", *sorted(f"{modality}-classification" for modality in modalities)],
        datasets=[DATASETS[task][0] for task in model.tasks if task in DATASETS] or None,
        eval_results=[_eval_result(metric, model) for metric in measured] or None,
    )
    lines = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {repo.split('/')[-1]}\n",
        f"`{config['architecture']}` of unidual-zoo: {find_family(config['architecture']).about}.\n",
        _facts(model, config, facts),
        "## Use\n\n```python\n" + SNIPPET.format(repo=repo) + _calls(model) + "```\n",
        "## Metrics\n",
        _metric_table(measured) if measured else "Nothing was measured by us yet.\n",
        *dict.fromkeys(f"`{report['protocol']}`: {report['views']}\n" for report in reports if report.get("views")),
    ]
    return "\n".join(lines)


def check_card(text: str, *, config: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with a card, a sentence each: metadata, snippet, and metrics that no report is the source of."""
    card, problems = ModelCard(text), []
    data: Any = card.data
    for name, value in (
        ("library_name", data.library_name),
        ("license", data.license),
        ("pipeline", data.pipeline_tag),
    ):
        if not value:
            problems.append(f"the card has no {name}")
    if data.library_name not in (None, LIBRARY) or "timm" not in (data.tags or []):
        problems.append(f"the card must have library_name {LIBRARY} and the tag timm")
    if data.license != config["pretrained_cfg"].get("license"):
        problems.append(
            f"the card's licence is {data.license}, config.json's {config['pretrained_cfg'].get('license')}"
        )
    if "import timm, unidual_zoo" not in card.content:
        problems.append("the card's snippet does not import unidual_zoo")
    known = {(m.task, _metric_name(m), m.value) for report in reports for m in metrics_of(report)}
    shown = {(r.dataset_config, r.metric_name, r.metric_value) for r in data.eval_results or []}
    problems += [f"the metric {name} {value} of {task} has no source" for task, name, value in sorted(shown - known)]
    problems += [f"the card lacks the metric {name} {value} of {task}" for task, name, value in sorted(known - shown)]
    return problems


def _eval_result(metric: Metric, model: TaskModel) -> EvalResult:
    dataset, name = DATASETS.get(metric.task, (metric.task, metric.task))
    return EvalResult(
        task_type=f"{model.tasks[metric.task].modality}-classification",
        dataset_type=dataset,
        dataset_name=name,
        dataset_config=metric.task,
        metric_type="accuracy",
        metric_name=_metric_name(metric),
        metric_value=metric.value,
    )


def _metric_name(metric: Metric) -> str:
    return f"{metric.metric} ({metric.protocol})"


def _facts(model: TaskModel, config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    heads = "; ".join(f"{pathway}: {', '.join(model.pathway_tasks(pathway)) or 'none'}" for pathway in model.pathways)
    rows = {
        "tasks": ", ".join(f"{t.name} ({t.modality}, {counted(t.num_classes, 'class')})" for t in model.tasks.values()),
        "heads on the pathways": heads,
        "parameters": f"{config['parameters']:,}",
        "input": describe_input(model.spec),
        "trained on": facts.get("about"),
        "licence": facts["license"],
        "weights from": facts.get("source"),
        "sha256": config["sha256"],
    }
    return markdown_table(("", ""), [(name, value) for name, value in rows.items() if value])


def _calls(model: TaskModel) -> str:
    defaults = {modality: model.default_task(modality, model.default_pathway(modality)) for modality in (IMAGE, VIDEO)}
    return "".join(CALLS[modality].format(task=task) for modality, task in defaults.items() if task)


def _metric_table(measured: Sequence[Metric]) -> str:
    rows = [(m.task, m.metric, f"{m.value:g}", m.protocol, m.source) for m in measured]
    return markdown_table(("task", "metric", "%", "protocol", "measured by us on"), rows)


# ---- the index ------------------------------------------------------------------------------------------------------


INDEX_TEXT = """\
# Checkpoints

Written by `uv run hub/card.py` from the tables of checkpoints in `unidual_zoo/models`: change those, not this page.
`timm.create_model(name, pretrained=True)` fetches the weights; a name without its tag takes the first of its rows.

{published}
*Theirs* is what the weights' authors report, for clips by this protocol (docs/evaluation.md says what each
looks at) or one much like it, for images at the side of so many pixels; *ours* is what this project measured, see
docs/results.md. Inputs are RGB in 0..1, less the mean
({mean}), divided by ({std}), or by the mean and deviation that another code base
trained with: `model.spec` says which.

IG-65M is 65 million Instagram videos with hashtags as labels; the classes have no public names. Its two sets of classes
belong to clips of 8 and of 32 frames.

The image pathway of `…_deflated` is the video pathway with every temporal filter summed (paper §3.1), and nothing is
trained: it names actions from a single frame, and is where training on images and videos starts from. A head that the
weights do not have, such as ImageNet's, is fresh, and a warning says so.

Files whose name carries a hash are checked against it. All are read as plain tensors, and must fit in every name and
shape. They come from
{sources}.

## How the systems compare

Small networks of every system of the paper's Table 2, trained on CIFAR-10 and on clips made from it: % correct, mean ±
standard deviation over the seeds. Drawn from docs/results/table2_mini.json; docs/results/tables.md says how they were
made.

{miniature}
## Without weights

The systems of the paper, whose authors published no weights. The command trains them:

{recipes}"""


def make_index() -> str:
    """MODEL_CARD.md: every row of the tables of checkpoints of the package's families."""
    tables = [getattr(models, name).FAMILY.checkpoints for name in models.__all__]
    rows = {name.rstrip("*"): row for table in tables for name, row in table.items()}
    published = {name: row for name, row in rows.items() if row.has_weights}
    networks = _networks(published)
    cells = [_index_row(name, row, networks[name]) for name, row in published.items()]
    header = ("name", "trained on", "tasks", "input", "parameters", "licence", "theirs", "ours")
    recipes = [(f"`{name}`", f"`unidual train {row.recipe}`") for name, row in rows.items() if not row.has_weights]
    return INDEX_TEXT.format(
        published=markdown_table(header, cells),
        mean=_numbers(KINETICS_MEAN),
        std=_numbers(KINETICS_STD),
        sources=",\n".join(dict.fromkeys(f"<{row.source}>" for row in published.values() if row.source)),
        miniature=_miniature(json.loads(TABLE2.read_text())["runs"]),
        recipes=markdown_table(("name", "recipe"), recipes),
    )


def _networks(rows: Mapping[str, Checkpoint]) -> dict[str, TaskModel]:
    """The network of each row, without memory; those that differ in the input alone are made once."""
    made: dict[tuple[str, str], TaskModel] = {}
    networks = {}
    for name, row in rows.items():
        what = (name.partition(".")[0], repr(row.arguments))
        if what not in made:
            with torch.device("meta"):
                made[what] = create_model(name)
        networks[name] = made[what]
    return networks


def find_row(architecture: str, tag: str | None) -> Checkpoint | None:
    """The row of a tag in the table of its family."""
    return find_family(architecture).tags(architecture).get(tag or "")


def _index_row(name: str, row: Checkpoint, model: TaskModel) -> tuple[str, ...]:
    return (
        f"`{name}`",
        row.about,
        ", ".join(f"{task.name} {task.num_classes}" for task in model.tasks.values()),
        describe_input(row.spec),
        f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        row.license or "",
        _short(row.upstream) or "-",
        _short(row.metrics) or "-",
    )


def _miniature(runs: Sequence[Mapping[str, Any]]) -> str:
    metrics = ("clip@1", "video@1", "top-1", "top-5")
    rows = []
    for name in dict.fromkeys(run["row"] for run in runs):
        seeds = [run for run in runs if run["row"] == name]
        columns = [[run[metric] for run in seeds if run[metric] is not None] for metric in metrics]
        rows.append((name, str(len(seeds)), *(mean_and_deviation(values) for values in columns)))
    return markdown_table(("system", "seeds", *metrics), rows)


def _short(measured: Sequence[Metric]) -> str:
    by_protocol: dict[str, list[str]] = {}
    for metric in measured:
        by_protocol.setdefault(metric.protocol, []).append(f"{metric.metric} {metric.value:g}")
    return "; ".join(f"{', '.join(values)} ({protocol})" for protocol, values in by_protocol.items())


def describe_input(spec: InputSpec) -> str:
    """The spec in words: frames, stride and rate of a clip, resize and crop."""
    clip = spec.clip
    stride = f", stride {clip.stride}" if clip.stride > 1 else ""
    rate = f" at {clip.rate:g}/s" if clip.rate else ""
    resize = f"short side {spec.resize}" if isinstance(spec.resize, int) else "×".join(map(str, spec.resize))
    frames = counted(clip.length, "frame")
    sampled = f"{frames}{stride}{rate}" if clip.sampling == DENSE else f"{frames} of the whole"
    return f"{sampled}, {resize}, crop {'×'.join(map(str, spec.crop))}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


if __name__ == "__main__":
    INDEX.write_text(make_index())
    print(f"{INDEX.name} is written")
