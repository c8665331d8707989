"""Which files a data set has, with their labels and splits."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unidual_zoo.data.datasets import TESTS, TRAIN, modalities_in, read_media, splits
from unidual_zoo.data.layouts import find_layout
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import MediaError, PathLike, is_image, is_media
from unidual_zoo.data.members import is_member
from unidual_zoo.data.shards import find_packed, is_packed
from unidual_zoo.data.skipping import base_folder, relative_name
from unidual_zoo.data.stacks import is_stacked
from unidual_zoo.spec import IMAGE, VIDEO


@dataclass(frozen=True)
class Entry:
    """One labelled image or video. `name` tells it from others, in reports and skip lists; `path` is where it lies.

    A medium that lies within another file overrides `stamp`, and `file` with one that unpacks it.
    """

    name: str
    path: str
    modality: str
    label: str = ""
    split: str = ""

    def stamp(self) -> tuple[int, int]:
        """(size in bytes, time of change in ns), by which a changed file is known; -1 for what cannot be seen.

        A file within another changes with that one. Its own size is seen only if it is in a shard.
        """
        size = changed = -1
        within = is_stacked(self.path) or is_member(self.path)
        with contextlib.suppress(OSError, ValueError):
            facts = os.stat(os.path.dirname(self.path) if within else self.path)
            size, changed = (-1 if is_member(self.path) else facts.st_size), facts.st_mtime_ns
        if is_packed(self.path):
            with contextlib.suppress(MediaError):
                size = find_packed(self.path).size
        return size, changed

    @contextlib.contextmanager
    def file(self) -> Iterator[str]:
        """A path from which the medium can be read within the block."""
        yield self.path


def find_entries(source: PathLike) -> list[Entry]:
    """The files of a source as `read_media` knows them, of all splits and both modalities.

    A folder that is no labelled data set is taken as it is: every image and video in it, labelled by the folder in
    which it lies.

    Raises:
        ValueError: there is no such folder or list, the list is malformed, or there are no images or videos.
    """
    layout = find_layout(source)
    base = base_folder(layout.folder if layout else source)
    there = splits(source)
    known = [split for split in (*TRAIN, *TESTS) if split in there]
    try:
        entries = [entry for split in known or [None] for entry in _entries_of(source, split, base)]
    except ValueError as error:
        entries = _plain_entries(Path(source), known) if os.path.isdir(source) else []
        if not entries:
            raise
        warnings.warn(
            f"{source} is checked as a plain folder, each file labelled by the folder in which it lies; as a data set "
            f"it would be refused ({error})",
            stacklevel=2,
        )
    if not entries:
        raise ValueError(f"{source}: no images or videos")
    return list({entry.name: entry for entry in entries}.values())


def _entries_of(source: PathLike, split: str | None, base: Path) -> Iterator[Entry]:
    for modality in modalities_in(source, split):
        media = read_media(source, modality=modality, split=split, mixed=True)
        for file, label in zip(media.files, media.labels, strict=True):
            yield Entry(relative_name(file, base), file, modality, media.classes[label], split or "")


def _plain_entries(source: Path, known: list[str]) -> list[Entry]:
    entries = []
    for name in filter(is_media, files_below(source).files):
        *folders, _ = Path(name).parts
        split = folders[0] if folders and folders[0] in known else ""
        label = folders[-1] if folders and folders[-1] != split else ""
        modality = IMAGE if is_image(name) else VIDEO
        entries.append(Entry(name, str(source / name), modality, label, split))
    return entries
