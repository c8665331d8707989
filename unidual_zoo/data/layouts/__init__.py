"""Data sets as their makers hand them out: which layout a folder has, and its labelled files.

    kinetics   train.csv, val.csv of label, youtube_id, time_start, time_end; the videos ID_000010_000020.mp4
    imagenet   train/n01440764/…; val/ likewise, or flat beside its ground-truth file
    ssv2       labels.json, train.json, validation.json; the videos ID.webm
    moments    trainingSet.csv, validationSet.csv, moments_categories.txt; training/, validation/
    sports1m   train_partition.txt, test_partition.txt of URL and labels, labels.txt; the videos ID.mp4
    ucf101     trainlist01.txt, testlist01.txt; Class/v_Class_g01_c01.avi; ucf101-2 and ucf101-3 by the other lists
    hmdb51     CLASS_test_split1.txt; class/file.avi; hmdb51-2 and hmdb51-3 by the other lists
    hf         Hugging Face `datasets`: metadata.csv or .jsonl of file_name and label, or Parquet with the files in it
    shards     what `unidual pack` makes, in a folder or at an address http(s)://…

A folder is known by its lists, which may lie in a folder `labels` or `annotations` of it; `kinetics:FOLDER` in place of
a folder names its layout. Where lists name a video by an identifier it may lie anywhere in the folder, and have any
ending of a video. Files that are listed and not there are counted: of Kinetics nobody has all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from unidual_zoo.data.layouts import hf, imagenet, kinetics, moments, recognition, shards, sports1m, ssv2
from unidual_zoo.data.layouts.reading import Format, Labelled, Layout, Place, Row
from unidual_zoo.data.media import PathLike
from unidual_zoo.data.shards import check_no_shards, is_remote

__all__ = ["LAYOUTS", "Format", "Labelled", "Layout", "Row", "find_layout", "in_layout"]

LAYOUTS: Mapping[str, Format] = {
    "shards": shards.FORMAT,
    "ssv2": ssv2.FORMAT,
    "moments": moments.FORMAT,
    "kinetics": kinetics.FORMAT,
    "sports1m": sports1m.FORMAT,
    "ucf101": recognition.ucf101(1),
    "hmdb51": recognition.hmdb51(1),
    "hf": hf.FORMAT,
    "imagenet": imagenet.FORMAT,
    "ucf101-2": recognition.ucf101(2),
    "ucf101-3": recognition.ucf101(3),
    "hmdb51-2": recognition.hmdb51(2),
    "hmdb51-3": recognition.hmdb51(3),
}


def in_layout(source: PathLike, layout: str | None) -> str:
    """The source with the name of its layout before it, as `find_layout` understands it."""
    return os.fspath(source) if layout is None else f"{layout}:{os.fspath(source)}"


def find_layout(source: PathLike) -> Layout | None:
    """The layout of a folder, or at an address: the one before it, `kinetics:/data/k400`, or the first whose lists are
    there; None for other folders and for lists.

    Raises:
        ValueError: the layout that is named is not the folder's, nothing is packed at the address, or the folder holds
            shards without the list of them.
    """
    text = os.fspath(source)
    name, colon, place = text.partition(":")
    if colon and name in LAYOUTS and not os.path.exists(text):
        return _named(LAYOUTS[name], place)
    if is_remote(text):
        return Layout(shards.FORMAT, text, shards.find(text))
    if not os.path.isdir(text):
        return None
    layouts = (Layout(format, Path(text), format.lists(Path(text))) for format in LAYOUTS.values())
    found = next((layout for layout in layouts if layout.lists), None)
    if found is None:
        check_no_shards(Path(text))
    return found


def _named(format: Format, place: str) -> Layout:
    folder: Place = place if is_remote(place) else Path(place)
    if isinstance(folder, Path) and not folder.is_dir():
        raise ValueError(f"{place}: no such folder, which is to have the layout of {format.title}")
    lists = format.lists(folder, named=True)
    if not lists:
        raise ValueError(f"{place} has not the layout of {format.title}: {format.needs or 'its lists are not there'}")
    return Layout(format, folder, lists)
