"""What `unidual pack` makes: shards.json, which names the shards of each split, and an index beside each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from unidual_zoo.data.layouts.reading import Format, Labelled, Lists, Place, Row
from unidual_zoo.data.shards import MANIFEST, join, read_index, read_manifest

READERS = 8  # indices are read side by side, which counts at an address


def find(folder: Place) -> Lists:
    """The splits of a folder or an address; "" is that of a set without splits."""
    manifest = read_manifest(folder)
    return {} if manifest is None else {split: join(folder, MANIFEST) for split in manifest["splits"]}


def read(folder: Place, split: str, path: str) -> Labelled:
    """The files of a split, in the order in which they were before they were packed."""
    manifest = read_manifest(folder)
    if manifest is None or split not in manifest["splits"]:  # it was there when it was looked for
        raise ValueError(f"{path}: it has no split {split!r} any more")
    about = manifest["splits"][split]
    shards = [join(folder, name) for name in about["shards"]]
    with ThreadPoolExecutor(READERS) as pool:
        indices = list(pool.map(read_index, shards))
    members = [
        (member["place"], _row(shard, member))
        for shard, index in zip(shards, indices, strict=True)
        for member in index["members"]
    ]
    return Labelled([row for _, row in sorted(members)], tuple(about["classes"]))


def _row(shard: str, member: dict[str, Any]) -> Row:
    first, *others = member["labels"]
    return Row(f"{shard}/{member['name']}", first, member["group"], tuple(others))


FORMAT = Format("packed in shards", find, read, needs=f"there is no {MANIFEST}")
