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
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unidual_zoo.data.media import MediaError, PathLike
from unidual_zoo.files import partial_name

SUFFIX, INDEX_SUFFIX = ".tar", ".json"
MANIFEST = "shards.json"
FORMAT = "unidual-shards-1"
KEY_DIGITS, PLACE_DIGITS = 12, 6  # of a file's name; the last ones are its number in the shard
BLOCK = 512  # bytes of a tar's header
ATTEMPTS, FIRST_WAIT, TIMEOUT = 4, 0.5, 60.0  # of a request; seconds, the wait doubles
PARTIAL_CONTENT, SERVER_ERROR = 206, 500
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
        ValueError: there is nothing at the address, or the manifest is not what it should be.
    """
    if not is_remote(place) and not (Path(place) / MANIFEST).is_file():
        return None
    manifest = read_json(join(place, MANIFEST))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{join(place, MANIFEST)}: needs the format {FORMAT!r}, got {manifest.get('format')!r}")
    return manifest


def join(place: PathLike, name: str) -> str:
    """The path or address of a file in a folder or at an address."""
    return f"{os.fspath(place).rstrip('/')}/{name}" if is_remote(place) else os.path.join(place, name)


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file. Raises a ValueError if there is none."""
    try:
        found = json.loads(_request(path) if is_remote(path) else Path(path).read_bytes())
    except (ValueError, OSError, http.client.HTTPException) as error:
        raise ValueError(f"{path}: no JSON that can be read ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: needs an object, got a {type(found).__name__}")
    return found


@dataclass(frozen=True)
class Index:
    """Where the files of a shard lie: offset and size (N, 2), SHA-256 of each, and the length of the whole."""

    spans: np.ndarray
    digests: Sequence[bytes]
    length: int


def index_path(shard: str) -> str:
    """The path or address of a shard's index."""
    return shard.removesuffix(SUFFIX) + INDEX_SUFFIX


def _index(found: Mapping[str, Any], path: str) -> Index:
    try:
        spans = np.array([(member["offset"], member["size"]) for member in found["members"]], np.int64).reshape(-1, 2)
        return Index(spans, [bytes.fromhex(member["sha256"]) for member in found["members"]], int(found["bytes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the index of a shard ({error!r})") from None


_indices: dict[str, Index] = {}  # by shard; loader processes that are forked have those of their parent


def read_index(shard: str) -> dict[str, Any]:
    """All that the index of a shard says, kept for the reads to come. Raises a ValueError if there is none."""
    found = read_json(index_path(shard))
    _indices[shard] = _index(found, index_path(shard))
    return found


def read_packed(path: PathLike) -> bytes:
    """The bytes of a file in a shard, checked.

    Raises:
        MediaError: of the shard, if it is not there, cut, or without an index; of the file, if it has other bytes.
    """
    shard, name = os.path.split(os.fspath(path))
    try:
        if shard not in _indices:
            read_index(shard)
        index = _indices[shard]
    except ValueError as error:
        raise MediaError(shard, f"the shard cannot be read ({error})") from None
    number = os.path.splitext(name)[0][-PLACE_DIGITS:]
    if not number.isdecimal() or int(number) >= len(index.spans):
        raise MediaError(path, f"the shard has {len(index.spans):,} files")
    offset, size = index.spans[int(number)].tolist()
    digest = index.digests[int(number)]
    kept = _kept(digest) if is_remote(shard) else None
    if kept is not None and kept.is_file() and _is_of(digest, data := kept.read_bytes()):
        return data
    data = _requested(shard, offset, size) if is_remote(shard) else _part(shard, offset, size, length=index.length)
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


def _part(shard: str, offset: int, size: int, *, length: int) -> bytes:
    try:
        with open(shard, "rb", buffering=0) as file:
            have = os.fstat(file.fileno()).st_size
            if have != length:
                raise MediaError(shard, f"the shard has {have:,} bytes, its index says {length:,}")
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise MediaError(shard, f"the shard cannot be read ({error.strerror or error})") from None


def _requested(shard: str, offset: int, size: int) -> bytes:
    try:
        return _request(shard, span=(offset, size))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise MediaError(shard, f"the shard cannot be read ({error})") from None


def _request(address: str, *, span: tuple[int, int] | None = None) -> bytes:
    """What is at an address, or its bytes (offset, size); what may be a passing fault is tried again.

    Raises:
        OSError, http.client.HTTPException: it cannot be had.
        ValueError: the server gives no parts of files.
    """
    header = {} if span is None else {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(urllib.request.Request(address, headers=header), timeout=TIMEOUT) as answer:
                if span is not None and answer.status != PARTIAL_CONTENT:
                    raise ValueError("the server gives no parts of files (no answer to Range): copy the shards")
                return answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < SERVER_ERROR or attempt == ATTEMPTS - 1:
                raise OSError(f"HTTP {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(FIRST_WAIT * 2**attempt)
    raise AssertionError("a request ends in an answer or an error")
