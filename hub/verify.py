"""Checks a published network: hash, parameters, spec, golden answers and card; exit status 1 if something is wrong.

uv run hub/verify.py FOLDER
uv run hub/verify.py hf-hub:org/name
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from repository import NEEDED, RESULTS, check_repository

from unidual.options import run_script
from unidual_zoo.names import printable
from unidual_zoo.weights import CheckpointError, fetch_from_hub


def verify(where: str) -> list[str]:
    """What is wrong with a folder or a repository "hf-hub:org/name", a sentence each.

    Raises:
        CheckpointError: a file of the repository cannot be had. OSError: there is no such folder.
    """
    if not where.startswith("hf-hub:"):
        return check_repository(Path(where))
    repository = where.removeprefix("hf-hub:")
    paths = [fetch_from_hub(repository, name) for name in NEEDED]
    with contextlib.suppress(CheckpointError):  # a repository without metrics has no results
        fetch_from_hub(repository, RESULTS)
    return check_repository(paths[0].parent)


def main(where: Annotated[str, typer.Argument(help="A folder, or hf-hub:organisation/name.")]) -> None:
    try:
        problems = verify(where)
    except (RuntimeError, OSError) as error:
        problems = [" ".join(str(error).split())]
    for problem in problems:
        print(printable(f"{where}: {problem}"))  # it may cite what a stranger wrote
    if problems:
        sys.exit(1)
    print(f"{where} is in order")


if __name__ == "__main__":
    run_script(main)
