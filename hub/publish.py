"""Publishes a trained or converted network on the Hub, or builds the folder of its repository alone.

    uv run hub/publish.py runs/toy --repo org/unidual10-toy --license apache-2.0 --dry-run
    uv run hub/publish.py converted/r2plus1d18 --repo org/r2plus1d18.tv_k400 --results k400.jsonl

FOLDER is a run directory of `unidual train` (its export and final reports are taken) or what `hub/convert.py` wrote.
Nothing is published that does not reload to its golden answers, whose hash or parameters disagree, that has no licence,
or with a metric that has no source. A push needs a token of a writer (`hf auth login` or HF_TOKEN).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from card import find_row
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id
from repository import FILES, check_repository, make_repository, strange_files

from unidual.options import run_script
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model, local_dir
from unidual_zoo.training.rundir import LOG, read_log


def publish(
    folder: Path,
    *,
    repo: str,
    out: Path | None = None,
    results: Sequence[Path] = (),
    license: str | None = None,
    about: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Path:
    """Builds the repository of a run or converted network in `out` (default: FOLDER/repository), checks and pushes it.

    Raises:
        ValueError: it may not be published; the message lists why.
        RuntimeError: the network cannot be loaded.
    """
    validate_repo_id(repo)
    if repo.count("/") != 1:
        raise ValueError(f"--repo must be organisation/name, got {repo!r}")
    model = create_model(local_dir(str(folder)), pretrained=True).eval()
    cfg = model.pretrained_cfg
    row = find_row(cfg["architecture"], cfg.get("tag"))
    facts = {
        "license": license or cfg.get("license"),
        "source": cfg.get("origin_url"),
        "about": about or (row.about if row else None),
    }
    reports = _reports(folder, results)
    for report in reports:
        _check_is_of(model, report)
    out = out or folder / "repository"
    if out.exists() and (strange := strange_files(out)):
        raise ValueError(f"{out} is no repository to be replaced, it holds {', '.join(strange)}")
    with TemporaryDirectory(dir=folder) as temporary:
        made = Path(temporary) / "repository"
        make_repository(model, made, repo=repo, reports=reports, facts=facts)
        if problems := check_repository(made):
            raise ValueError(f"{repo} may not be published: {'; '.join(problems)}")
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)
    if not dry_run:
        api = HfApi(library_name="unidual-zoo")
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=out, allow_patterns=list(FILES), commit_message="Publish the model")
    return out


def _reports(folder: Path, results: Sequence[Path]) -> list[dict[str, Any]]:
    """The reports at the end of a run's log and in files of JSON lines."""
    ends = [line["reports"] for line in read_log(folder / LOG) if line["event"] == "end"]
    reports = list(ends[-1].values()) if ends else []
    return reports + [json.loads(line) for file in results for line in file.read_text().splitlines() if line.strip()]


def _check_is_of(model: TaskModel, report: dict[str, Any]) -> None:
    """Raises a ValueError if a report is of another network, or of a task that this one has not."""
    architecture = model.pretrained_cfg["architecture"]
    of = str(report.get("model", "")).split(".")[0]
    if of != architecture or report.get("task") not in model.tasks:
        own = f"{architecture} with {', '.join(model.tasks)}"
        raise ValueError(f"a report is of {of or 'no model'} on {report.get('task')}, the network is {own}")


def main(
    folder: Annotated[Path, typer.Argument(help="A run directory, or a folder of hub/convert.py.")],
    repo: Annotated[str, typer.Option(help="organisation/name on the Hub.")],
    out: Annotated[Path | None, typer.Option(help="The repository's folder [default: FOLDER/repository].")] = None,
    results: Annotated[
        list[Path] | None, typer.Option(help="Reports of `unidual evaluate --json`; repeatable.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="The weights' licence, by the Hub's id.")] = None,
    about: Annotated[str | None, typer.Option(help="What the weights were trained on.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and check the folder, push nothing.")] = False,
) -> None:
    try:
        made = publish(
            folder, repo=repo, out=out, results=results or (), license=license, about=about, private=private,
            dry_run=dry_run,
        )  # fmt: skip
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"publish: {' '.join(str(error).split())}")
    print(f"{made} is {'ready' if dry_run else f'published as {repo}'}")


if __name__ == "__main__":
    run_script(main)
