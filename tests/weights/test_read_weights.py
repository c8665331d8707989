"""Reading files of weights, and refusing what is none or would run code."""

import gzip
import os
import pickle
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weights.told import one_sentence

from unidual_zoo.weights import (
    CheckpointError,
    fit,
    read_weights,
)


class Evil:
    """Unpickled carelessly it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, write):
    write({"stem.weight": torch.zeros(2), "evil": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth would run code when it is read \([\w.]+\): refused") as error:
        read_weights(tmp_path / "evil.pth")
    one_sentence(error.value)
    assert not (tmp_path / "ran").exists()


class Settings(dict):
    """As yacs has them: a dict with attributes."""

    def __init__(self, **values):
        super().__init__(values)
        self.frozen = Evil  # a class, which is named alone


class Curve:
    """As mmengine logs it: arrays, dates, a file's place, and methods by name."""

    def __init__(self):
        self.values, self.best, self.written = np.arange(3.0), np.float64(0.5), datetime(2024, 5, 6)
        self.folder, self.counts = Path("runs"), defaultdict(list, {"epoch": [1]})
        self.methods = {"least": Curve.least}

    def least(self):
        return self.values.min()


@pytest.mark.parametrize("archive", [True, False])
def test_what_a_training_pickled_beside_the_weights_is_left_out(tmp_path, archive):
    weights, path = {"a": torch.ones(2), "b": torch.tensor(3)}, tmp_path / "epoch_3.pth"
    counted = weights | {
        "total_ops": torch.zeros(1),
        "x.total_params": torch.zeros(1),
        "data_preprocessor.mean": weights["a"],
    }
    around = {"message_hub": {"loss": Curve()}, "cfg": Settings(lr=0.1), "args": Namespace(lr=0.1), "epoch": 3}
    for table in ("state_dict", "model_state_dict", "net"):
        torch.save({**around, table: counted}, path, _use_new_zipfile_serialization=archive)
        read = read_weights(path)
        assert {key: value.tolist() for key, value in read.items()} == {"a": [1, 1], "b": 3}
    torch.save({**around, "evil": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match=r"would run code when it is read \(\w+\.mkdir\): refused"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "module.module."])
def test_prefixes_of_wrapped_networks_are_taken_off(tmp_path, monkeypatch, prefix):
    torch.save({"model": {f"{prefix}a.b": torch.ones(2)}}, tmp_path / "wrapped.pth")
    assert [*read_weights(tmp_path / "wrapped.pth")] == ["a.b"]
    lightning = {"pytorch-lightning_version": "2.5", "state_dict": {f"net.{prefix}a.b": torch.ones(2)}}
    torch.save(lightning, tmp_path / "epoch=3.ckpt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [*read_weights("~/epoch=3.ckpt")] == ["a.b"]


def test_safetensors_by_another_name(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(read_weights(tmp_path / "pytorch_model.bin")["a"], torch.ones(2))


def test_damaged_and_strange_files(tmp_path):
    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    for name in ("whole.safetensors", "whole.pth", "old.pth"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"half-{name}").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").mkdir()
    bad = [
        "half-whole.safetensors",
        "half-whole.pth",
        "half-old.pth",
        "list.pth",
        "empty",
    ]
    for name in bad:
        with pytest.raises(CheckpointError, match=f"{name} is (damaged or )?not a (file|pickle)") as error:
            read_weights(tmp_path / name)
        one_sentence(error.value)
    with pytest.raises(CheckpointError, match=r"there is no file of weights .*none.pth"):
        read_weights(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(2), "epoch": 3, "note": "x"}, tmp_path / "mixed.pth")
    torch.save({"student": {"a": torch.zeros(2)}, "teacher": {"a": torch.zeros(2)}}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"two.pth holds more than weights: student \(dict\), teacher \(dict\)"):
        read_weights(tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"mixed.pth holds more than weights: epoch \(int\), note \(str\)"):
        read_weights(tmp_path / "mixed.pth")


def write_tar(path: Path, mode: str) -> None:
    torch.save({"a": torch.zeros(2)}, path.with_suffix(".inner"))
    with tarfile.open(path, mode) as archive:
        archive.add(path.with_suffix(".inner"), "weights.pth")


def write_zip(path: Path, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against TorchScript
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


FOREIGN = {
    "script.pth": (write_script, "is a TorchScript archive, which holds code: save its state_dict"),
    "plain-tar.pth": (lambda path: write_tar(path, "w"), "is a tar archive: unpack it"),
    "gz-tar.pth": (lambda path: write_tar(path, "w:gz"), "is a tar archive: unpack it"),
    "numpy.npz": (lambda path: np.savez(path, a=np.zeros(2)), "is an archive that torch.save did not write"),
    "zip.pth": (
        lambda path: write_zip(path, **{"x/data.pkl": b"", "x/data/0": bytes(1 << 20)}),
        r"unpacks [\d,]+ bytes to 1,048,576, which torch.save never does",
    ),
    "gz.pth": (lambda path: path.write_bytes(gzip.compress(b"x")), "is not a pickle of plain weights"),
    "tensor.pth": (lambda path: torch.save(torch.zeros(2), path), "it holds no table of names and tensors"),
    "numbers.pth": (lambda path: torch.save({0: torch.zeros(2)}, path), "it holds no table of names and tensors"),
    "network.pth": (lambda path: torch.save(nn.Linear(2, 2), path), "holds no weights: .* save its state_dict"),
    "page.pth": (
        lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in</html>"),
        "is a web page, as servers give",
    ),
    "page.safetensors": (lambda path: path.write_text("<html>404, with status 200</html>"), "is a web page"),
    "lfs.pth": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
        "is a pointer of Git LFS to a file that was not fetched",
    ),
    "vast.pth": (
        lambda path: torch.save({"a": torch.zeros(1).expand(10**12)}, path),
        r"holds more than weights: a \(4,000,000,000,000 bytes, of which 4 are stored\)",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds_are_named_and_never_recommended(tmp_path, name):
    write, message = FOREIGN[name]
    write(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} .*{message}") as error:
        read_weights(tmp_path / name)
    assert "weights_only" not in one_sentence(error.value)


def test_a_folder_is_read_by_its_safetensors(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(read_weights(tmp_path)["a"], torch.ones(2))


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, folder):
    """Two halves of different files may look like a whole one."""
    path, reads = tmp_path / "model.safetensors", []

    def replace(value: float) -> None:
        save_file({"a": torch.full((2,), value)}, tmp_path / "next")
        os.replace(tmp_path / "next", path)

    def late(*arguments, **options):
        reads.append(load(*arguments, **options))
        if len(reads) < 3:
            replace(len(reads) + 1.0)
        return reads[-1]

    name = "load_state_dict_from_path" if folder else "load_file"
    load = getattr(fit, name)
    monkeypatch.setattr(fit, name, late)
    replace(1.0)
    assert read_weights(tmp_path if folder else path)["a"].tolist() == [3.0, 3.0]
    assert len(reads) == 3

    def always(*_, **__):
        replace(4.0)
        raise ValueError("half of it")

    monkeypatch.setattr(fit, name, always)
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}.* cannot be read: it is replaced again and again$"):
        read_weights(tmp_path if folder else path)


def test_a_file_of_text_is_named_with_more_than_a_key(tmp_path):
    """torch's unpickler looks its first letter up in a table: a KeyError that says 101 of an "e" and nothing else."""
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text.pt is damaged or not a file of weights: \w*Error$"):
        read_weights(tmp_path / "text.pt")
