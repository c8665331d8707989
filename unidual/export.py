"""`unidual export`: a model as a graph of an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unidual.options import DEFAULT_MODEL, json_lines
from unidual.sources import learnt_from

if TYPE_CHECKING:
    from unidual_zoo.calibration import Calibration

FORMATS = ("onnx", "openvino", "torch")


def export(
    model: Annotated[
        str, typer.Argument(help="A name of `unidual models` with or without its tag, hf-hub:… or local-dir:….")
    ] = DEFAULT_MODEL,
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)} (a program of torch.export).")] = "onnx",
    modality: Annotated[str, typer.Option(help="What comes in: image or video.")] = "image",
    task: Annotated[str | None, typer.Option(help="The head [default: the model's first for the modality].")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder [default: the model, modality and format in one name].")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A file of weights in place of the published ones.")] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            help="Eight bits, calibrated on this folder or list of files; `embedded` takes the packaged examples. The "
            "accuracy before and after is printed."
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="The graph takes uint8 and normalises it itself.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--json", help="Also write the result there, as a line of JSON.")
    ] = None,
) -> None:
    """Write a model as a graph for ONNX Runtime, OpenVINO or torch, with its preprocessing and classes beside it.

    The graph is checked against the model. `unidual predict --model FOLDER` runs it.
    """
    from unidual_zoo.calibration import EMBEDDED, embedded_calibration, folder_calibration
    from unidual_zoo.checks import check_known
    from unidual_zoo.export import export as write_graph
    from unidual_zoo.inference import load_network

    check_known("format", format, FORMATS)
    check_known("modality", modality, ("image", "video"))
    name = Path(model.rpartition(":")[2]).name
    folder = out or Path(f"{name}-{modality}-{format}{'-int8' if int8 else ''}")
    with json_lines(output) as write:
        network = load_network(model, checkpoint=checkpoint)
        calibration = None
        if int8 is not None:
            calibration = embedded_calibration(modality) if int8 == EMBEDDED else folder_calibration(int8, modality)
        made = write_graph(
            network, folder, format=format, modality=modality, task=task, normalize=normalize,
            dtype="float32" if int8 is None else "int8", calibration=calibration,
        )  # fmt: skip
        result = {"out": str(folder), **made.to_dict()}
        write(result)
    near = f"logits within {made.difference:.1e} of the model's, relative to the largest"
    typer.echo(f"{folder}: {made.call}, {made.dtype}, {near}")
    if made.accuracy:
        typer.echo(_accuracy(dict(made.accuracy)))
        if calibration is not None and (caution := _caution(calibration, learnt_from(model, calibration.measured))):
            typer.echo(f"unidual: {caution}", err=True)
    shown = {key: value for key, value in result.items() if key not in ("classes", "spec")}
    typer.echo(json.dumps(shown))


def _caution(calibration: Calibration, learnt: int) -> str | None:
    """Why both accuracies may be too good, if they may: the network knows `learnt` files, or int8 all of them."""
    from unidual_zoo.data.learnt import learnt_line

    if learnt:
        return learnt_line(learnt, len(calibration.measured), figures="accuracies")
    if set(calibration.measured) <= set(calibration.files):
        return "int8 was calibrated on the files that the accuracies are of: there are no others"
    return None


def _accuracy(found: dict) -> str:
    from unidual_zoo.names import counted

    of = f"of {counted(found['files'], 'file')}"
    changed = f"int8 has another answer to {found['changed']} {of}, the same to {found['agreement']:.1f}%"
    if found["float32"] is None:
        return f"no labels that the task knows; {changed}"
    return f"{found['metric']} {found['float32']:.2f}% in float32, {found['int8']:.2f}% in int8; {changed}"
