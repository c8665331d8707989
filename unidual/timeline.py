"""`unidual predict --timeline`: the labels of videos over time, as files in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from unidual.options import json_lines

FAILED_FILES = 1  # exit status
ROUTE = "video"


def write_timelines(
    files: Sequence[str],
    folder: Path,
    *,
    model: str,
    checkpoint: Path | None,
    windowing: tuple[float | None, float | None, float | None],
    options: dict[str, Any],
    output: Path | None,
) -> None:
    """Labels each video over time: NAME.json, .vtt, .csv and .png in the folder, and a line of JSON with its segments.

    `windowing` is (seconds, stride, smooth), `options` go to the Predictor. Exit status 1 if a file failed.

    Raises:
        ValueError: every file is there, and none is a video.
    """
    from unidual_zoo.data import MediaError
    from unidual_zoo.inference import Predictor, find_files, load_model, of_modality
    from unidual_zoo.names import counted, printable
    from unidual_zoo.progress import Progress
    from unidual_zoo.spec import VIDEO
    from unidual_zoo.timeline import PROTOCOL, Timeline, Windowing, moments

    seconds, stride, smooth = windowing
    cut = Windowing(seconds=seconds, stride=stride, smooth=smooth)
    found = find_files(files)
    if not (paths := of_modality(found, VIDEO)):
        raise ValueError(f"a timeline is of videos, and none of {counted(len(found), 'file')} is one")
    folder.mkdir(parents=True, exist_ok=True)
    failed, name = 0, ""
    with json_lines(output) as write:
        predictor = Predictor(load_model(model, checkpoint=checkpoint), protocol=PROTOCOL, **options)
        if VIDEO in predictor.refused:
            raise ValueError(predictor.refused[VIDEO])
        route = predictor.routes[VIDEO]
        for path, name in zip(paths, _names(paths), strict=True):
            bar = Progress(unit="moment", desc=printable(name), leave=False)
            try:
                seen = moments(path, {ROUTE: route}, cut, top=predictor.top, batch_size=predictor.batch_size)
                timeline = Timeline(path, {ROUTE: route.task}, [moment for moment in seen if bar.update() or True])
            except MediaError as error:
                failed += 1
                result = {"file": path, "error": error.reason}
            else:
                result = timeline.to_dict(with_moments=False) | {"out": _write(timeline, folder / name)}
            bar.close()
            write(result)
            typer.echo(json.dumps(result))
    if failed:
        typer.echo(f"unidual: {failed} of {counted(len(paths), 'file')} failed", err=True)
        raise typer.Exit(FAILED_FILES)


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each file's results: its own, with a number where several are called so."""
    names: list[str] = []
    for path in paths:
        stem = name = os.path.splitext(os.path.basename(path))[0]
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _write(timeline: Any, stem: Path) -> list[str]:
    """Writes a timeline in all its forms; the files."""
    contents = {
        ".json": (json.dumps(timeline.to_dict()) + "\n").encode(),
        ".vtt": timeline.vtt(ROUTE).encode(),
        ".csv": timeline.csv(ROUTE).encode(),
        ".png": timeline.png(),
    }
    files = [stem.with_name(stem.name + ending) for ending in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_bytes(content)
    return [str(file) for file in files]
