"""The command `unidual pack`: parse, call, print."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unidual.options import json_lines

if TYPE_CHECKING:
    from unidual_zoo.data.packing import Packed, Packing

FAILED_FILES = 1  # exit status


def pack(
    source: Annotated[str, typer.Argument(help="A folder, a CSV list or LAYOUT:FOLDER of labelled files.")],
    folder: Annotated[Path, typer.Argument(help="The folder of the shards, a new one or one to go on with.")],
    modality: Annotated[str | None, typer.Option(help="image or video, of a source with both.")] = None,
    short_side: Annotated[int | None, typer.Option(help="Scale larger files down to it and encode them anew.")] = None,
    gop: Annotated[int | None, typer.Option(help="Encode videos anew, a key frame every so many frames.")] = None,
    per_shard: Annotated[int, typer.Option(help="Files in a shard.")] = 1000,
    workers: Annotated[int, typer.Option(help="Processes that write shards.")] = 1,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the result there.")] = None,
) -> None:
    """Pack labelled files in WebDataset shards with an index, which every command then reads in place of the folder.

    Stopped and called again, it goes on. Exit status 1 if a file cannot be read; the others are packed all the same.
    Without --short-side or --gop files are copied without being decoded: check-data finds damaged ones.
    """
    from unidual_zoo.data.datasets import read_splits
    from unidual_zoo.data.packing import Packing, check_outside
    from unidual_zoo.data.packing import pack as write
    from unidual_zoo.names import printable

    with json_lines(output) as write_line:
        packing = Packing(per_shard=per_shard, short_side=short_side, gop=gop)
        check_outside(source, folder)
        media = read_splits(source, modality=modality)
        packed = deque(write(media, folder, packing, workers=workers, progress=True), maxlen=1).pop()
        result = {"out": str(folder), **packed.to_dict()}
        write_line(result)
    for warning in packed.warnings:
        typer.echo(
            f"unidual: {printable(warning['file'])}: packed all the same: {printable(warning['warning'])}", err=True
        )
    for failure in packed.failures:
        typer.echo(f"unidual: left out {printable(failure['file'])}: {printable(failure['error'])}", err=True)
    for line in _summary(packed, packing, folder):
        typer.echo(printable(line))
    typer.echo(json.dumps(result))
    if packed.failures:
        raise typer.Exit(FAILED_FILES)


def _summary(packed: Packed, packing: Packing, folder: Path) -> Iterator[str]:
    """The result for a reader: a line for each split, what is amiss, and where the shards are."""
    from unidual_zoo.data.packing import WHOLE
    from unidual_zoo.names import counted

    unchanged = "copied unchanged" if packing.short_side else "copied unchanged, not decoded"
    for split, about in packed.splits.items():
        kinds = {"encoded anew": about["encoded"], unchanged: about["files"] - about["encoded"]}
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        there = f"{counted(about['files'], 'file')} in {counted(about['shards'], 'shard')}{told and f' ({told})'}"
        before, after = about["source_bytes"] / 1e6, about["bytes"] / 1e6
        yield f"{split or WHOLE}: {there}, {before:,.1f} MB before, {after:,.1f} MB packed"
    if packed.failures:
        yield f"left out: {counted(len(packed.failures), 'file')} that cannot be read"
    if packed.warnings:
        yield f"packed although reading warned: {counted(len(packed.warnings), 'file')}"
    yield f"shards: {folder}" + (f" ({packed.kept:,} of them there before)" if packed.kept else "")
