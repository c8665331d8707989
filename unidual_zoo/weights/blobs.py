"""Pickles of numpy arrays, as Caffe2's model zoos are: read as plain tensors, and without numpy's own reading.

Such a file is a dict of names and arrays that Python 2 pickled, mostly within another one as its "blobs". A pickle says
which functions make its values, and numpy's believe whatever sizes and types they are told. Here stand-ins for them
only note what they are told; the tensors are made of that, as far as the file holds their values.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.checks import short_repr

_BLOBS, _DEPTH = "blobs", 2  # tables within each other
_OF_TRAINING, _MOMENTUM = ("lr", "model_iter", "epoch"), "_momentum"  # what the solver keeps beside the weights
_BEGINNINGS = (b"\x80", b"(", b"}")  # of pickles of dicts: those that name their protocol, and older ones
_BY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch wrote first before it had archives
_LONGEST_BEGINNING = 32
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
_MOST_PARTS = 500_000  # of a pickle; an array has some fifty
_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_ORDERS = ("<", ">", "|", "=")


def is_pickle(path: Path) -> bool:
    """Whether a file may be a pickle of a dict that torch did not write."""
    with path.open("rb") as file:
        beginning = file.read(_LONGEST_BEGINNING)
    return beginning.startswith(_BEGINNINGS) and _BY_TORCH not in beginning


def read_blobs(path: Path, *, tables: Sequence[str] = ()) -> dict[str, Tensor | Any]:
    """The arrays of a pickle as tensors by their names, without what belongs to the training; other values as they are.

    They may lie in a dict within the dict, called "blobs" or one of `tables`, of which the first counts; there in
    another one, perhaps.

    Raises:
        UnpicklingError: it would call anything else than numpy's makers of arrays ("GLOBAL module.name").
        ValueError: it is damaged, claims more values than it holds, or has more parts than any file of weights.
        AttributeError: it is no dict by names.
        Other errors are those of pickle on damaged files.
    """
    content = path.read_bytes()
    _check_memo(content)
    blobs = _Reader(io.BytesIO(content)).load()
    for _ in range(_DEPTH):
        inner = (blobs[name] for name in (_BLOBS, *tables) if name in blobs.keys())  # noqa: SIM118  (or it is none)
        blobs = next((table for table in inner if not isinstance(table, _Array)), blobs)
    blobs = {key: value for key, value in blobs.items() if not key.endswith(_MOMENTUM) and key not in _OF_TRAINING}
    held = sum(len(value.raw) for value in blobs.values() if isinstance(value, _Array))
    if held > len(content):  # the same bytes again and again
        raise ValueError(f"its arrays have {held:,} bytes, and the file {len(content):,}")
    return {key: value.tensor() if isinstance(value, _Array) else value for key, value in blobs.items()}


def _check_memo(content: bytes) -> None:
    """Raises a ValueError for a number of a remembered value beyond those so far: there would be memory up to it.

    Also for more parts than any file of weights has, which would take as long as they are many.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= _MOST_PARTS:
            raise ValueError(f"it has more than {_MOST_PARTS:,} parts")
        if opcode.name in _MEMO and (argument or 0) > number:
            raise ValueError(f"its value number {argument:,} comes after {number:,} others")


class _Reader(pickle.Unpickler):
    """Unpickles plain data and stand-ins for arrays, their types and their bytes; calls nothing else."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2's strings are bytes

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        # Functions made anew for each name: what a pickle may do to them ends with it.
        name = f"{module_name}.{global_name}".replace("numpy._core.", "numpy.core.")
        if name in ("numpy.core.multiarray._reconstruct", "numpy.ndarray"):
            return lambda *_: _Array()
        if name == "numpy.core.multiarray.scalar":
            return lambda dtype, raw: _Array(dtype, (), raw)
        if name == "numpy.core.numeric._frombuffer":  # since protocol 5
            return lambda raw, dtype, shape, order: _Array(dtype, shape, raw, columns_first=order == "F")
        if name == "numpy.dtype":
            return lambda code, *_: _Type(code)
        if name == "_codecs.encode":  # how Python 3 pickles bytes for Python 2
            return lambda text, _: text  # encoded when a tensor is made: here each call would hold the bytes anew
        raise pickle.UnpicklingError(f"GLOBAL {name}")


class _Type:
    """What a pickle says of a type of numbers."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def known(self) -> np.dtype[Any]:
        """The type of numbers, else a ValueError."""
        if self.code not in _TYPES or self.order not in _ORDERS:
            raise ValueError(f"an array in it is of type {short_repr(self.code)}, allowed: {', '.join(_TYPES)}")
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """What a pickle says of an array."""

    def __init__(self, dtype: Any = None, shape: Any = (), raw: Any = b"", *, columns_first: bool = False) -> None:
        self.dtype, self.shape, self.raw, self.columns_first = dtype, shape, raw, columns_first

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.columns_first, self.raw = state

    def tensor(self) -> Tensor:
        """The array in memory of its own, else a ValueError."""
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        if not (isinstance(self.dtype, _Type) and isinstance(raw, bytes | bytearray) and _is_shape(self.shape)):
            raise ValueError("an array in it is described by something else than shape, type and bytes")
        dtype = self.dtype.known()
        if len(raw) != math.prod(self.shape) * dtype.itemsize:
            raise ValueError(f"an array in it of shape {short_repr(self.shape)} has {len(raw):,} bytes")
        array = np.frombuffer(raw, dtype).reshape(self.shape, order="F" if self.columns_first else "C")
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C"))


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(size, int) and size >= 0 for size in value)
