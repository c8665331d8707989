"""Which files `unidual evaluate` means: a named benchmark's, or those of folders and lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from unidual_zoo.data.datasets import MediaSet
    from unidual_zoo.data.media import PathLike

EMBEDDED_SPLIT = "test"


@dataclass(frozen=True)
class Benchmark:
    """A named benchmark of `unidual evaluate`: what it is called, its modality, and its task where a model has it."""

    title: str
    modality: str
    task: str
    embedded: bool  # whether the embedded data stand in for it, else they are only there to run something


BENCHMARKS = {
    "kinetics": Benchmark("Kinetics-400", "video", "k400", True),
    "imagenet": Benchmark("ImageNet-1k", "image", "in1k", True),
    "sports1m": Benchmark("Sports-1M", "video", "sports1m", False),
}


class Source(NamedTuple):
    """Files to be evaluated, their name for the report, and the benchmark that they are."""

    media: MediaSet
    name: str
    benchmark: str | None


def find_media(
    sources: Sequence[str],
    *,
    data: str | None,
    split: str | None,
    modality: str | None,
    layout: str | None = None,
    skip: PathLike | None = None,
) -> list[Source]:
    """The benchmark's files, or those of every source and modality, all of them in the layout if one is named, without
    those of the list `skip`.

    Raises:
        ValueError: a source is not there, or holds no files of the modality.
    """
    from unidual_zoo.checks import check_known
    from unidual_zoo.data.datasets import TESTS, find_split, modalities_in, read_media
    from unidual_zoo.data.layouts import LAYOUTS, find_layout, in_layout
    from unidual_zoo.spec import MODALITIES

    if layout is not None:
        check_known("layout", layout, LAYOUTS)
    named = [source for source in sources if source in BENCHMARKS]
    if named and (len(sources) > 1 or modality is not None):
        raise ValueError(f"benchmark {named[0]!r} stands alone, got {' '.join(sources)}; a folder is ./{named[0]}")
    if named:
        if data is None and layout is not None:
            raise ValueError(f"layout {layout!r} is that of files: say where they are with --data")
        place = data if data is None else in_layout(data, layout)
        return [Source(*_benchmark_data(BENCHMARKS[named[0]], place, split, skip), named[0])]
    if data is not None:
        check_known("benchmark", sources[0], BENCHMARKS)
    if modality is not None:
        check_known("modality", modality, MODALITIES)
    found = []
    for source in (in_layout(source, layout) for source in sources):
        if not os.path.exists(source) and find_layout(source) is None:
            known = ", ".join(BENCHMARKS)
            raise ValueError(f"there is no folder or list {source}, and no benchmark of that name (they are {known})")
        part = split or find_split(source, TESTS)
        kinds = (modality,) if modality else modalities_in(source, part)
        if not kinds:
            raise ValueError(f"{source}: no image or video files")
        name = source if part is None else f"{source}, {part}"
        read = partial(read_media, source, split=part, mixed=True, skip=skip)
        found += [Source(read(modality=kind), name, None) for kind in kinds]
    return found


def _benchmark_data(row: Benchmark, data: str | None, split: str | None, skip: PathLike | None) -> tuple[MediaSet, str]:
    """The files of a benchmark or the embedded ones in their place, and their name for the report."""
    from unidual_zoo.data.datasets import TESTS, find_split, read_media
    from unidual_zoo.data.synthetic import toy
    from unidual_zoo.spec import IMAGE

    if data is None and skip is not None:
        raise ValueError("a skip list is of your own files: give --data, too")
    if data is None:
        split = split or EMBEDDED_SPLIT
        media = toy.images(split) if row.modality == IMAGE else toy.videos(split)
        source = f"embedded {'images' if row.modality == IMAGE else 'videos'}, {split}"
        what = "in place of" if row.embedded else "only to show that it runs: nothing of"
        typer.echo(f"unidual: {source}, {what} {row.title}; --data takes the real files", err=True)
        return media, source
    split = split or find_split(data, TESTS)
    return read_media(
        data, modality=row.modality, split=split, skip=skip
    ), data if split is None else f"{data}, {split}"


def learnt_from(model: str, files: Sequence[str]) -> int:
    """How many of the files a saved network has learnt from, as far as it knows."""
    from unidual_zoo.data.learnt import count_learnt, learnt_place

    place = learnt_place(model)
    return count_learnt(files, place) if place else 0
