"""The command `unidual check-data`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unidual.options import json_lines

FAULTS_FOUND = 1  # exit status


def check_data(
    source: Annotated[
        str,
        typer.Argument(
            help="What evaluate takes: a folder class/file or split/class/file, a CSV of path,label[,split], "
            "LAYOUT:FOLDER or shards; also any folder of images and videos."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes, and where a check goes on [default: check/NAME].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode [default: one a core].")] = None,
    file_seconds: Annotated[float, typer.Option(help="That one file may take before it is given up; 0: any.")] = 60.0,
    file_memory: Annotated[
        float | None, typer.Option(help="GiB that reading one file may take [default: 4, or UNIDUAL_FILE_MEMORY].")
    ] = None,
    min_frames: Annotated[int, typer.Option(help="A video of fewer frames is too short.")] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the last line there.")] = None,
) -> None:
    """Decode every file of a data set: which are unreadable, cut short, damaged, too short, blank, or there twice.

    Writes report.html, report.json and skip.txt, which `--skip` of the other commands takes. Stopped and started again,
    it goes on. Exit status 1 if there are files that are better skipped.
    """
    from unidual_zoo.data.checking import CheckSettings
    from unidual_zoo.data.checking import check_data as check
    from unidual_zoo.data.checking.check import PAGE, SKIP_LIST
    from unidual_zoo.names import printable

    given = {} if file_memory is None else {"file_memory": int(file_memory * 2**30)}
    given |= {} if workers is None else {"workers": workers}
    settings = CheckSettings(
        file_seconds=file_seconds,
        min_frames=min_frames,
        **given,
    )
    place = out or Path("check") / (Path(source).resolve().stem or "root")
    with json_lines(output) as write:
        report = check(source, place, settings=settings, progress=True)
        summary = report["summary"]
        result = {"source": source, "out": str(place), **summary}
        write(result)
    for row in report["faults"][:10]:
        typer.echo(printable(f"{row['file']}: {row['kind']}: {row['reason']}"))
    typer.echo(", ".join(_told(name, value) for name, value in summary.items() if value))
    typer.echo(printable(f"report: {place / PAGE}; to leave out: --skip {place / SKIP_LIST}"))
    typer.echo(json.dumps(result))
    if summary["skipped"]:
        raise typer.Exit(FAULTS_FOUND)


def _told(name: str, value: float) -> str:
    """A number of the summary for a reader; duplicates are counted in groups."""
    from unidual_zoo.names import counted

    if "duplicates" in name:
        return f"{counted(value, 'group')} of {name}"
    return counted(value, name.removesuffix("s")) if name.endswith("s") else f"{value:,} {name}"
