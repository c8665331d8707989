"""Pickles of numpy arrays byte for byte as Python 2 and its numpy wrote them, which nothing here can do."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RECONSTRUCT, NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"


def string(text: bytes) -> bytes:
    """Python 2's str."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def whole(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def array(value: np.ndarray[Any, Any], *, shape: tuple[int, ...] | None = None, code: str | None = None) -> bytes:
    """An array, or what claims to be one of another shape and type."""
    columns_first = value.ndim > 1 and value.flags.f_contiguous
    order = value.dtype.str[0].encode()
    dtype = DTYPE + string((code or value.dtype.str[1:]).encode()) + b"K\0K\1\x87R"
    dtype += b"(K\3" + string(order) + b"NNN" + whole(-1) * 2 + b"K\0tb"
    state = b"(K\1(" + b"".join(map(whole, value.shape if shape is None else shape)) + b"t" + dtype
    state += (b"\x88" if columns_first else b"\x89") + string(value.tobytes(order="A")) + b"tb"
    return RECONSTRUCT + NDARRAY + b"K\0\x85" + string(b"b") + b"\x87R" + state


def table(items: Mapping[str, bytes]) -> bytes:
    """A dict of strings and pickled values."""
    return b"}(" + b"".join(string(name.encode()) + value for name, value in items.items()) + b"u"


def write_blobs(path: Path, blobs: Mapping[str, Any], **others: bytes) -> None:
    """A file of Caffe2's: arrays (or tensors) by name as its "blobs", and other values, pickled, among them."""
    arrays = {name: array(np.asarray(value)) for name, value in blobs.items()}
    path.write_bytes(b"\x80\2" + table({"blobs": table(arrays | others)}) + b".")
