"""Pickles of numpy arrays are taken down and never run."""

import pickle
from pathlib import Path

import caffe2
import numpy as np
import pytest
import torch

from unidual_zoo.weights import CheckpointError, blobs, read_weights

ARRAYS = {
    "conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 11.5,
    "half_w": np.array([0.5, -2, 65504], np.float16),
    "columns_w": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big_endian_b": np.array([1, -2, 3], ">f4"),
    "counts": np.array([-(2**62), 7], np.int64),
    "unsigned": np.array([7, 65535], np.uint16),
    "more_unsigned": np.array([7, 2**32 - 1], ">u4"),
    "most_unsigned": np.array([7, 2**64 - 1], np.uint64),
    "bytes": np.arange(256, dtype=np.uint8),  # every one of them, as text and back
    "one": np.array(2.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
}
OF_TRAINING = {"lr": caffe2.array(np.array([0.1], np.float32)), "model_iter": caffe2.whole(400_000)}


def check(path: Path, *, without: str = "") -> None:
    weights, arrays = read_weights(path), {name: value for name, value in ARRAYS.items() if name != without}
    assert weights.keys() == arrays.keys()
    for name, expected in arrays.items():
        assert weights[name].dtype == torch.from_numpy(expected.astype(expected.dtype.newbyteorder("="))).dtype
        assert weights[name].tolist() == expected.tolist(), name
    weights["bytes"].add_(1)  # in memory that is its own
    assert weights["bytes"].tolist() == [*range(1, 256), 0]


def test_a_file_of_python_2_is_read_without_what_the_solver_keeps(tmp_path):
    momentum = {f"{name}_momentum": caffe2.array(value) for name, value in ARRAYS.items()}
    caffe2.write_blobs(tmp_path / "model.pkl", ARRAYS, **OF_TRAINING, **momentum)
    assert len(pickle.loads((tmp_path / "model.pkl").read_bytes(), encoding="latin1")["blobs"]) == 24  # a true pickle
    check(tmp_path / "model.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_files_of_python_3_are_read_too(tmp_path, protocol):
    arrays = {**ARRAYS, "lr": np.float32(0.1), "model_iter": 3}
    del arrays["none"]  # of no bytes, which Python 3 has Python 2 make by a call
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(arrays, protocol))  # without "blobs" around it
    check(tmp_path / "bare.pkl", without="none")


@pytest.mark.parametrize("table", ["state_dict", "model_state", "blobs"])
def test_tables_within_tables_and_the_prefix_of_distributed_training(tmp_path, table):
    weights = {f"module.{name}": value for name, value in ARRAYS.items()}
    (tmp_path / "nested.pkl").write_bytes(pickle.dumps({table: weights, "epoch": 3}))
    check(tmp_path / "nested.pkl")
    tensors = {key: torch.from_numpy(value) for key, value in weights.items() if value.dtype.isnative}
    torch.save({"model_state": tensors, "epoch": 3}, tmp_path / "nested.pyth")
    assert read_weights(tmp_path / "nested.pyth").keys() == {key.removeprefix("module.") for key in tensors}
    deeper = pickle.dumps({"blobs": {"state_dict": weights, "epoch": 3}})
    (tmp_path / "deeper.pkl").write_bytes(deeper)
    check(tmp_path / "deeper.pkl")


def test_damage_is_found_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "_MOST_PARTS", 1000)
    (tmp_path / "nothings.pkl").write_bytes(b"\x80\2" + b"N" * 1000)  # it would take as long as it is large
    with pytest.raises(CheckpointError, match=r"it has more than 1,000 parts$"):
        read_weights(tmp_path / "nothings.pkl")


FLOATS = np.zeros(4, np.float32)


def pickled(value: bytes) -> bytes:
    return b"\x80\2" + caffe2.table({"blobs": caffe2.table({"a": value})}) + b"."


def call(name: str, *arguments: bytes) -> bytes:
    return f"c{name.replace('.', chr(10), 1)}\n".encode() + b"(" + b"".join(arguments) + b"tR"


REFUSED = {
    "code": (call("os.mkdir", caffe2.string(b"ran")), r"would run code when it is read \(os.mkdir\): refused"),
    "builtin": (call("__builtin__.eval", caffe2.string(b"1")), r"would run code .* \(__builtin__.eval\): refused"),
    "numpys": (call("numpy.load", caffe2.string(b"x")), r"would run code when it is read \(numpy.load\): refused"),
    "colours": (b"c\x1b[31m\nx\n", "is not a pickle of plain weights"),
    "persistent": (caffe2.string(b"x") + b"Q", "is not a pickle of plain weights"),
    "objects": (caffe2.array(FLOATS, code="O8"), r"an array in it is of type 'O8', allowed: b1, i1, "),
    "records": (caffe2.array(FLOATS, code="V8"), r"an array in it is of type 'V8', allowed: b1, i1, "),
    "vast": (caffe2.array(FLOATS, shape=(2**30, 2**30)), r"of shape \(1073741824, 1073741824\) has 16 bytes"),
    "negative": (caffe2.array(FLOATS, shape=(-2, -2)), "is described by something else than shape, type and bytes"),
    "unmade": (caffe2.RECONSTRUCT + b")R", "is described by something else than shape, type and bytes"),
    "memo": (b"}r\xff\xff\xff\x7f", "its value number 2,147,483,647 comes after 8 others"),
    "number": (b"K\1", r"holds more than weights: a \(int\)"),
    "nested": (caffe2.table({"b": caffe2.array(FLOATS)}), r"holds more than weights: a \(dict\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_in_a_pickle_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    value, message = REFUSED[name]
    (tmp_path / "bad.pkl").write_bytes(pickled(value))
    with pytest.raises(CheckpointError, match=rf"bad.pkl .*{message}") as error:
        read_weights(tmp_path / "bad.pkl")
    assert str(error.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pkl"]


def test_the_same_bytes_are_not_read_again_and_again(tmp_path):
    """A small file that would be 6 MB: each array is of the same string, which the pickle remembers."""
    large = caffe2.array(np.zeros(20_000, np.uint8))
    data = caffe2.string(bytes(20_000))
    first = large.replace(data, data + b"q\1")
    items = {"a": first} | {f"b{i}": large.replace(data, b"h\1") for i in range(300)}
    (tmp_path / "bomb.pkl").write_bytes(b"\x80\2" + caffe2.table(items) + b".")
    with pytest.raises(CheckpointError, match=r"its arrays have 6,020,000 bytes, and the file [\d,]{6}$"):
        read_weights(tmp_path / "bomb.pkl")


def test_tables_that_are_none_and_halves(tmp_path):
    caffe2.write_blobs(tmp_path / "whole.pkl", ARRAYS)
    content = (tmp_path / "whole.pkl").read_bytes()
    for name, damaged in (("half", content[: len(content) // 2]), ("text", b"(some text\n"), ("end", content[:-1])):
        (tmp_path / f"{name}.pkl").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}.pkl is damaged or not a file of weights: "):
            read_weights(tmp_path / f"{name}.pkl")
    for name, value in (("list", b"\x80\2]."), ("numbers", b"\x80\2}K\1K\2s."), ("blobs", b"\x80\2}U\5blobsNs.")):
        (tmp_path / f"{name}.pkl").write_bytes(value)
        with pytest.raises(CheckpointError, match="it holds no table of names and tensors"):
            read_weights(tmp_path / f"{name}.pkl")
