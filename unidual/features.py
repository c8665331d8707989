"""The commands `unidual features` and `unidual search`: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unidual.devices import device_of, workers_of
from unidual.options import DEFAULT_MODEL, NETWORK_HELP, PROTOCOL_HELP, json_lines
from unidual.ways import Actors, Address, Engine, engine_of

FAILED_FILES = 1  # exit status

JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result there, as lines of JSON.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … [default: cuda if it is there].")]


def features(
    files: Annotated[list[str], typer.Argument(help="Files, folders and patterns such as 'clips/*.mp4'.")],
    out: Annotated[Path, typer.Option(help="The table, a .parquet (extra scale), .npz or .safetensors.")],
    model: Annotated[str, typer.Option(help=NETWORK_HELP)] = DEFAULT_MODEL,
    checkpoint: Annotated[Path | None, typer.Option(help="A file of weights in place of the published ones.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="A number, from the end if negative, or a name [default: what heads see].")
    ] = None,
    pooled: Annotated[
        bool, typer.Option("--pooled/--unpooled", help="One vector a file, or the maps of each of its views.")
    ] = True,
    modality: Annotated[str | None, typer.Option(help="image or video files alone.")] = None,
    pathway: Annotated[str | None, typer.Option(help="image or video [default: the file's modality].")] = None,
    protocol: Annotated[str, typer.Option(help=PROTOCOL_HELP)] = "unidual34",
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = 1,
    batch_size: Annotated[int, typer.Option(help="Views that go through the network together.")] = 16,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode ahead [default: 0 on a CPU, else up to 8].")
    ] = None,
    device: Device = None,
    dtype: Annotated[str, typer.Option(help="What the network computes in: float32, bfloat16, float16.")] = "float32",
    output: JsonFile = None,
) -> None:
    """Feature vectors of images and videos, one row a file: path, modality, vector, error.

    The same command goes on with a run that was killed. Exit status 1 if a file failed; its row says why.
    """
    from unidual_zoo.features import Extractor, check_table, load_reproducibly, weights_digest, write_features
    from unidual_zoo.names import counted, printable
    from unidual_zoo.progress import Progress

    check_table(out)
    paths = _files(files, modality)
    facts: dict[str, Any] = {
        "model": model, "checkpoint": checkpoint and str(checkpoint), "layer": layer, "pooled": pooled,
        "pathway": pathway, "protocol": protocol, "dtype": dtype,
    }  # fmt: skip
    made, failed = 0, 0
    with json_lines(output) as write:
        network = load_reproducibly(model, checkpoint=checkpoint)
        place = _place(device, workers)
        score = engine_of(engine, address=address, actors=actors, device=place["device"])
        extractor = Extractor(network, **_options(facts), **place, batch_size=batch_size, score=score)
        rows = write_features(paths, out, extractor, facts=facts | {"weights": weights_digest(network)})
        for row in Progress(rows, unit="file"):
            made += 1
            if row.error is not None:
                failed += 1
                Progress.write(f"unidual: {printable(f'{row.path}: {row.error}')}", file=sys.stderr)
        result = {"out": str(out), "files": len(dict.fromkeys(paths)), "made": made, "failed": failed}
        write(result)
    now = f"{made:,} read now, of which {failed:,} failed"
    typer.echo(printable(f"{out}: {counted(result['files'], 'file')}, {now}"))
    typer.echo(json.dumps(result))
    if failed:
        raise typer.Exit(FAILED_FILES)


def search(
    index: Annotated[Path, typer.Argument(help="A table that `unidual features` wrote.")],
    queries: Annotated[list[str], typer.Argument(help="Files, folders and patterns: images and videos.")],
    top: Annotated[int, typer.Option(help="Files for each query.")] = 5,
    device: Device = None,
    output: JsonFile = None,
) -> None:
    """The files of a table that are nearest to others, by the cosine of their vectors.

    Queries go through the model that made the table. Exit status 1 if one of them failed.
    """
    from unidual_zoo.features import Extractor, Index, load_reproducibly, read_table, weights_digest
    from unidual_zoo.names import printable

    rows, facts = read_table(index)
    found, paths = Index(rows), _files(queries, None)
    with json_lines(output) as write:
        network = load_reproducibly(facts["model"], checkpoint=facts["checkpoint"])
        if weights_digest(network) != facts["weights"]:
            raise ValueError(f"the weights of {facts['model']} are others now than those that made {index}")
        answers = []
        for row in Extractor(network, **_options(facts), **_place(device, None))(paths):
            if row.vector is None:
                answers.append({"query": row.path, "error": row.error})
                typer.echo(f"{printable(row.path)}: error: {printable(row.error or '')}")
            else:
                nearest = found.nearest(row.vector, top)
                plain = [vars(near) | {"score": round(near.score, 6)} for near in nearest]
                answers.append({"query": row.path, "modality": row.modality, "nearest": plain})
                typer.echo(printable(row.path))
                for near in nearest:
                    typer.echo(f"  {near.score:.4f}  {printable(near.file)}")
            write(answers[-1])
    typer.echo(json.dumps({"index": str(index), "queries": answers}))
    if any("error" in answer for answer in answers):
        raise typer.Exit(FAILED_FILES)


def _files(arguments: list[str], modality: str | None) -> list[str]:
    """The files meant, of one modality or of both."""
    from unidual_zoo.checks import check_known
    from unidual_zoo.inference import find_files, of_modality
    from unidual_zoo.names import counted
    from unidual_zoo.spec import MODALITIES

    paths = find_files(arguments)
    if modality is None:
        return paths
    check_known("modality", modality, MODALITIES)
    if not (kept := of_modality(paths, modality)):
        raise ValueError(f"none of {counted(len(paths), 'file')} is of the modality {modality}")
    return kept


def _options(facts: dict[str, Any]) -> dict[str, Any]:
    """An Extractor's arguments from a table's facts."""
    from unidual_zoo.dtypes import as_dtype

    return {name: facts[name] for name in ("layer", "pooled", "pathway", "protocol")} | {
        "dtype": as_dtype(facts["dtype"])
    }


def _place(device: str | None, workers: int | None) -> dict[str, Any]:
    """Where an Extractor works, and how many processes decode for it."""
    place = device_of(device)
    return {"device": place, "workers": workers_of(workers, place)}
