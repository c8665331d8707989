"""Files packed in tar files, each of which is addressed like a file: `train-000003.tar/000003000017.jpg`.

`unidual pack` makes such shards, and beside each an index: where its files begin, how long they are, their labels and
their SHA-256. So they need not be streamed: a file is one read of its very bytes, or one request for them where the
shards lie at an address http(s)://…, and whatever draws files by number draws from shards as it draws from folders. The
sampler's division among processes, its exact number of examples and its way of going on in the middle of an epoch hold
unchanged, with no buffer of files that wait to be mixed. The tars are WebDataset's all the same, and other programs
stream them.

What comes from an address is kept in the folder UNIDUAL_SHARD_CACHE, if that is set: an epoch asks for every file once.

A shard that is not there or has another length than its index says is one MediaError that names the shard, whichever
of its files is asked for; a file with other bytes is one that names the file in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unidual_zoo.data.addresses import fetch
from unidual_zoo.data.media import MediaError, PathLike
from unidual_zoo.files import partial_name
from unidual_zoo.names import counted

SUFFIX, INDEX_SUFFIX = ".tar", ".json"
MANIFEST, PLAN = "shards.json", "packing.json"  # the plan comes first, the manifest last
FORMAT = "unidual-shards-1"
KEY_DIGITS, PLACE_DIGITS = 12, 6  # of a file's name; the last ones are its number in the shard
MEMBER = {"name": str, "place": int, "offset": int, "size": int, "sha256": str, "labels": list, "group": str}
SHARD = {"bytes": int, "encoded": int, "source_bytes": int, "failures": list, "warnings": list}
FRAMES = "frames"  # of a member, if it has one: its index of frames
_SHARD = re.compile(rf".+-\d{{6}}{re.escape(SUFFIX)}")  # train-000003.tar
BLOCK = 512  # bytes of a tar's header
CACHE = "UNIDUAL_SHARD_CACHE"  # the variable of the environment
REMOTE = ("http://", "https://")


def is_remote(place: PathLike) -> bool:
    """Whether a folder or a file is at an address and not on a disk."""
    return os.fspath(place).startswith(REMOTE)


def is_packed(path: PathLike) -> bool:
    """Whether the path is that of a file in a shard: its name is a number in a tar."""
    folder, name = os.path.split(os.fspath(path))
    key = os.path.splitext(name)[0]
    return folder.endswith(SUFFIX) and len(key) == KEY_DIGITS and key.isdecimal()


def read_manifest(place: PathLike) -> Mapping[str, Any] | None:
    """What `unidual pack` says of all shards in a folder or at an address; None for a folder of something else.

    Raises:
        ValueError: there is nothing at the address, the packing is not finished, or the manifest is not what it should
            be.
    """
    if not is_remote(place) and not (Path(place) / MANIFEST).is_file():
        if (Path(place) / PLAN).is_file():
            raise ValueError(
                f"{place} is an unfinished `unidual pack`: the same command that began it goes on with it, and ends "
                f"with {MANIFEST}"
            )
        return None
    manifest = read_json(join(place, MANIFEST))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{join(place, MANIFEST)}: needs the format {FORMAT!r}, got {manifest.get('format')!r}")
    splits = manifest.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"{join(place, MANIFEST)}: it names no splits, got {splits!r:.80}")
    for split, about in splits.items():
        if not isinstance(about, dict) or not (_are_texts(about.get("classes")) and _are_texts(about.get("shards"))):
            raise ValueError(f"{join(place, MANIFEST)}: split {split!r} needs lists of texts, classes and shards")
        if wrong := [name for name in about["shards"] if os.path.basename(name) != name or not name.endswith(SUFFIX)]:
            raise ValueError(f"{join(place, MANIFEST)}: {wrong[0]!r:.80} is no shard in its folder")
    return manifest


def holds_shards(names: Iterable[str]) -> bool:
    """Whether files of these names are of a packing, finished or not, or are named as its shards are."""
    return any(name in (MANIFEST, PLAN) or _SHARD.fullmatch(name) for name in names)


def check_no_shards(folder: Path) -> None:
    """Raises a ValueError if what there is in a folder without a manifest, and without other folders, are shards."""
    try:
        with os.scandir(folder) as entries:
            is_folder = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except OSError:  # whoever lists the folder says so
        return
    shards = sorted(filter(_SHARD.fullmatch, is_folder))
    if shards and not any(is_folder.values()):
        raise ValueError(
            f"{folder} holds shards ({shards[0]}) and no {MANIFEST}, which tells what is in them: `unidual pack` "
            "writes it last, beside them and the index of each, so copy all of its folder; shards that another program "
            "made are to be unpacked"
        )


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def join(place: PathLike, name: str) -> str:
    """The path or address of a file in a folder or at an address."""
    return f"{os.fspath(place).rstrip('/')}/{name}" if is_remote(place) else os.path.join(place, name)


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file. Raises a ValueError if there is none."""
    try:
        found = json.loads(fetch(path) if is_remote(path) else Path(path).read_bytes())
    except (ValueError, OSError, http.client.HTTPException) as error:
        raise ValueError(f"{path}: no JSON that can be read ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: needs an object, got a {type(found).__name__}")
    return found


@dataclass(frozen=True)
class Index:
    """Where the files of a shard lie: offset and size (N, 2), SHA-256 of each, and the length of the whole; and, of
    videos that were encoded anew, where their frames lie, as `frame_text` says it."""

    spans: np.ndarray
    digests: Sequence[bytes]
    length: int
    frames: Sequence[str | None]


def index_path(shard: str) -> str:
    """The path or address of a shard's index."""
    return shard.removesuffix(SUFFIX) + INDEX_SUFFIX


def index_of(found: Mapping[str, Any], path: str) -> Index:
    """What reads need of an index, once all of it has been found to be what it should be.

    Raises:
        ValueError: it is not, which names the index by its path.
    """
    try:
        members = found["members"]
        for number, member in enumerate(members):
            _check_member(member, number)
        spans = np.array([(member["offset"], member["size"]) for member in members], np.int64).reshape(-1, 2)
        complete = {"encoded": 0, "source_bytes": 0, "warnings": [], **found}  # older ones lack them
        for field, kind in SHARD.items():
            _check_kind(complete, field, kind)
        digests = [bytes.fromhex(member["sha256"]) for member in members]
        return Index(spans, digests, found["bytes"], [member.get(FRAMES) for member in members])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: not the index of a shard ({error!r})") from None


def _check_member(member: Mapping[str, Any], number: int) -> None:
    for field, kind in MEMBER.items():
        _check_kind(member, field, kind)
    name, labels = member["name"], member["labels"]
    if "/" in name or not is_packed(f"{SUFFIX}/{name}") or _number_of(name) != number:
        raise ValueError(f"file {number} cannot be called {name!r:.80}")
    if FRAMES in member:
        _check_kind(member, FRAMES, str)
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"the labels of {name} must be texts, got {labels!r:.80}")


def _check_kind(found: Mapping[str, Any], field: str, kind: type) -> None:
    if type(found[field]) is not kind:
        raise TypeError(f"{field} must be of type {kind.__name__}, got {found[field]!r:.80}")


_indices: dict[str, Index] = {}  # by shard; loader processes that are forked have those of their parent


def read_index(shard: str) -> dict[str, Any]:
    """All that the index of a shard says, kept for the reads to come. Raises a ValueError if there is none."""
    found = read_json(index_path(shard))
    _indices[shard] = index_of(found, index_path(shard))
    return found


class Span(NamedTuple):
    """Where in a shard a file lies, in bytes, its SHA-256, and its index of frames as a text, if there is one."""

    offset: int
    size: int
    digest: bytes
    frames: str | None


def find_packed(path: PathLike) -> Span:
    """Where the index says that a file in a shard lies.

    Raises:
        MediaError: of the shard, if it has no index that can be right; of the file, if there is no such file.
    """
    shard, name = os.path.split(os.fspath(path))
    try:
        if shard not in _indices:
            read_index(shard)
        index = _indices[shard]
    except ValueError as error:
        raise MediaError(shard, f"the shard cannot be read ({error})") from None
    number = _number_of(name)
    if number is None or number >= len(index.spans):
        raise MediaError(path, f"the shard has {counted(len(index.spans), 'file')}")
    offset, size = index.spans[number].tolist()
    if min(offset, size) < 0 or offset + size > index.length:
        raise MediaError(shard, f"its index points outside of it: {size:,} bytes from {offset:,} of {index.length:,}")
    return Span(offset, size, index.digests[number], index.frames[number])


def name_before(path: PathLike) -> str:
    """What a file was called before it was packed, with the last folders; the path itself where that is not known."""
    shard, name = os.path.split(os.fspath(path))
    number = _number_of(name) if is_packed(path) else None
    if number is None:
        return os.fspath(path)
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(read_json(index_path(shard))["members"][number]["file"])
    return os.fspath(path)


def _number_of(name: str) -> int | None:
    """The number of a file in its shard, None if its name has none."""
    digits = os.path.splitext(name)[0][-PLACE_DIGITS:]
    return int(digits) if digits.isdecimal() else None


def read_packed(path: PathLike) -> bytes:
    """The bytes of a file in a shard, checked.

    Raises:
        MediaError: of the shard, if it is not there, cut, or without an index; of the file, if it has other bytes.
    """
    shard = os.path.dirname(os.fspath(path))
    offset, size, digest, _ = find_packed(path)
    kept = _kept(digest) if is_remote(shard) else None
    if kept is not None and kept.is_file() and _is_of(digest, data := kept.read_bytes()):
        return data
    data = _requested(shard, offset, size) if is_remote(shard) else _part(shard, offset, size)
    if not _is_of(digest, data):
        raise MediaError(path, "its checksum is wrong: the shard is damaged")
    if kept is not None:
        with contextlib.suppress(OSError):  # a full disk keeps no more, and harms nobody
            kept.parent.mkdir(parents=True, exist_ok=True)
            unfinished = partial_name(kept)
            unfinished.write_bytes(data)
            os.replace(unfinished, kept)
    return data


def _is_of(digest: bytes, data: bytes) -> bool:
    return hashlib.sha256(data).digest() == digest


def _kept(digest: bytes) -> Path | None:
    """Where a file from an address is kept, None if it is not to be."""
    folder = os.environ.get(CACHE)
    return Path(folder, digest.hex()[:2], digest.hex()) if folder else None


def _part(shard: str, offset: int, size: int) -> bytes:
    length = _indices[shard].length
    parts: list[bytes] = []
    try:
        with open(shard, "rb", buffering=0) as file:
            have = os.fstat(file.fileno()).st_size
            if have != length:
                raise MediaError(shard, f"the shard has {have:,} bytes, its index says {length:,}")
            file.seek(offset)
            while size and (part := file.read(size)):  # one read has at most 2 GiB
                parts.append(part)
                size -= len(part)
    except OSError as error:
        raise MediaError(shard, f"the shard cannot be read ({error.strerror or error})") from None
    return b"".join(parts)


def _requested(shard: str, offset: int, size: int) -> bytes:
    try:
        return fetch(shard, span=(offset, size))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MediaError(shard, f"the shard cannot be read ({error})") from None
