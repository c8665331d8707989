"""Fetching, reading and refusing files of weights; the server is a real one on loopback."""

import gzip
import os
import pickle
import socket
import tarfile
import threading
import time
import warnings
import zipfile
from argparse import Namespace
from collections import defaultdict
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
from models.small import TASKS, clips, small
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import nn

from unidual_zoo import for_inference
from unidual_zoo.inference import load_model
from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import (
    Checkpoint,
    CheckpointError,
    Metric,
    fetch,
    fetch_url,
    fit,
    fit_to_model,
    is_finite,
    read_weights,
    sha256_of,
)

CONTENT = bytes(range(256)) * 5000


class Answers(BaseHTTPRequestHandler):
    """/whole.pth, /broken.pth that ends half-way, /endless.pth that states no length, /slow.pth that drips.

    What is in /a and /b holds its own path, /page.pth is a page; everything else is 404.
    """

    requests: ClassVar[list[str]] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path.startswith(("/a/", "/b/", "/page")):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>too many visitors" if self.path == "/page.pth" else self.path.encode())
            return
        if self.path not in ("/whole.pth", "/broken.pth", "/endless.pth", "/slow.pth"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless.pth":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/slow.pth":
            drip(self.wfile.write)
            return
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/broken.pth" else CONTENT)

    def log_message(self, *_):
        pass


def drip(write) -> None:
    """A byte every now and then, until the other side has gone."""
    with suppress(OSError):
        while True:
            write(b"x")
            time.sleep(0.02)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        Answers.requests.clear()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_download_is_kept_and_checked(server, tmp_path):
    path = fetch_url(f"{server}/whole.pth", cache_dir=str(tmp_path))
    assert path.read_bytes() == CONTENT
    sha256 = sha256_of(path)
    assert fetch_url(f"{server}/whole.pth", sha256=sha256[:8], cache_dir=str(tmp_path)) == path
    assert Answers.requests == ["/whole.pth"]
    assert fetch_url(f"{server}/endless.pth", cache_dir=str(tmp_path)).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])
    message = f"{path.name} in the cache is the wrong file, delete it.*{sha256[:8]}$"
    with pytest.raises(CheckpointError, match=message):
        fetch_url(f"{server}/whole.pth", sha256=sha256[:8], cache_dir=str(tmp_path))


def test_a_cached_file_belongs_to_its_whole_url(server, tmp_path):
    paths = ["/a/model.pth", "/b/model.pth", "/b/model.pth?version=2", "/b/"]
    for _ in range(2):
        files = [fetch_url(f"{server}{path}", cache_dir=str(tmp_path)) for path in paths]
        assert [file.read_text() for file in files] == paths
    assert Answers.requests == paths  # each once
    assert [file.name.rsplit("-", 1)[0] for file in files] == ["model", "model", "model", "b"]
    assert [file.suffix for file in files] == [".pth", ".pth", ".pth", ""]


def test_torchs_own_copy_is_taken_for_its_hash_alone(server, tmp_path):
    (tmp_path / "whole.pth").write_bytes(CONTENT)
    sha256 = sha256_of(tmp_path / "whole.pth")
    assert fetch_url(f"{server}/whole.pth", sha256=sha256[:8], cache_dir=str(tmp_path)) == tmp_path / "whole.pth"
    assert Answers.requests == []
    (tmp_path / "whole.pth").write_bytes(b"another server's")
    path = fetch_url(f"{server}/whole.pth", sha256=sha256[:8], cache_dir=str(tmp_path))
    assert path != tmp_path / "whole.pth"
    assert path.read_bytes() == CONTENT
    assert fetch_url(f"{server}/whole.pth", cache_dir=str(tmp_path)) == path  # without a hash the name says nothing
    assert (tmp_path / "whole.pth").read_bytes() == b"another server's"


def silent_server() -> socket.socket:
    """Takes connections and drips the lines of an answer's head without an end."""

    def serve():
        with suppress(OSError):
            connection, _ = listening.accept()
            drip(connection.sendall)

    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_a_server_that_drips_is_given_up(server, tmp_path):
    start = time.monotonic()
    message = rf"cannot get {server}/slow.pth: the server is too slow: \d+ bytes in 0.3 seconds, \d+ altogether"
    with pytest.raises(CheckpointError, match=message) as error:
        fetch_url(f"{server}/slow.pth", cache_dir=str(tmp_path), patience=0.3)
    one_sentence(error.value)
    with silent_server() as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x.pth"
        with pytest.raises(CheckpointError, match=r"the server is too slow: 0 bytes in 0.3 seconds, 0 altogether"):
            fetch_url(url, cache_dir=str(tmp_path), patience=0.3)
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []
    assert fetch_url(f"{server}/whole.pth", cache_dir=str(tmp_path), patience=0.3).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "sha256", "cause"),
    [
        ("broken.pth", None, f"the download broke off after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("whole.pth", "12345678", "the server gives another file: its sha256 is .*, expected 12345678"),
        ("none.pth", None, "HTTP Error 404: Not Found"),
        ("page.pth", None, "the server gives a web page"),
    ],
)
def test_failed_download_leaves_nothing_behind(server, tmp_path, name, sha256, cause):
    with pytest.raises(CheckpointError, match=f"cannot get {server}/{name}: {cause}") as error:
        fetch_url(f"{server}/{name}", sha256=sha256, cache_dir=str(tmp_path))
    one_sentence(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_server(server, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot get http://127.0.0.1:1/x.pth: .*refused"):
        fetch_url("http://127.0.0.1:1/x.pth", cache_dir=str(tmp_path))


def test_rows_without_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"a.b has no published weights: `unidual train toy` makes them"):
        fetch("a.b", Checkpoint(spec=InputSpec(), recipe="toy"))
    with pytest.raises(ValueError, match=r"top-1 50.0 of food has no source"):
        Metric(task="food", metric="top-1", value=50.0, protocol="unidual34", source="")


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


def model_with_heads(**classes: int) -> nn.Module:
    heads = nn.ModuleDict({name: nn.Linear(2, count) for name, count in classes.items()})
    return nn.ModuleDict({"stem": nn.Conv2d(3, 2, 1, bias=False), "heads": nn.ModuleDict({"image": heads})})


def test_heads_are_fresh_only_where_that_is_allowed():
    weights = model_with_heads(a=4, b=5).state_dict()
    other = model_with_heads(a=4, b=6, c=1)
    message = r"no weights for heads.image.b, heads.image.c in the checkpoint \(heads.image.b has 5 classes there\)"
    with pytest.warns(UserWarning, match=message):
        fitted = fit_to_model(weights, other)
    assert torch.equal(fitted["heads.image.a.weight"], weights["heads.image.a.weight"])
    assert torch.equal(fitted["heads.image.b.weight"], other.state_dict()["heads.image.b.weight"])
    message = r"missing: heads.image.c.weight, heads.image.c.bias; of another shape: heads.image.b.weight \(5, 2\) for"
    with pytest.raises(CheckpointError, match=message):
        fit_to_model(weights, other, fresh_heads=False)
    assert (
        fit_to_model(weights, model_with_heads(a=4), fresh_heads=False).keys()
        == model_with_heads(a=4).state_dict().keys()
    )


def test_names_that_a_file_gives_its_weights_are_escaped():
    weights = model_with_heads().state_dict() | {"stem.\x1b[31m\nred": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unknown: 'stem.\\x1b\[31m\\nred'$") as error:
        fit_to_model(weights, model_with_heads())
    one_sentence(error.value)


def test_filters_are_fitted_to_other_channels():
    weights = model_with_heads().state_dict()
    grey = model_with_heads()
    grey["stem"] = nn.Conv2d(1, 2, 1, bias=False)
    fitted = fit_to_model(weights, grey, adaptable=["stem.weight"])
    torch.testing.assert_close(fitted["stem.weight"], weights["stem.weight"].sum(1, keepdim=True))
    with pytest.raises(CheckpointError, match=r"stem.weight \(2, 3, 1, 1\) for \(2, 1, 1, 1\)"):
        fit_to_model(weights, grey)
    weights["stem.weight"] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])[..., None, None, None]  # a kernel of three axes
    wide = model_with_heads()
    wide["stem"] = nn.Conv3d(5, 2, 1, bias=False)
    fitted = fit_to_model(weights, wide, adaptable=["stem.weight"])["stem.weight"]
    expected = torch.tensor([[0.6, 1.2, 1.8, 0.6, 1.2], [2.4, 3, 3.6, 2.4, 3]])
    torch.testing.assert_close(fitted.flatten(1), expected)
    with pytest.raises(CheckpointError, match=r"stem.weight \(2, 3, 1, 1, 1\) for \(2, 3, 1, 1\)"):
        fit_to_model(weights, model_with_heads(), adaptable=["stem.weight"])


# ---- weights that are no numbers ------------------------------------------------------------------------------------


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_bad_value_of_any_type_is_found(dtype, bad):
    values = torch.full((2, 3), 3e4).to(dtype)  # within float16, and their sum beyond it
    assert is_finite(values)
    values[1, 2] = bad
    assert not is_finite(values)


def test_what_has_no_values_or_whole_ones_is_finite():
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.full((2,), 2**62))
    assert is_finite(torch.empty(10**12, device="meta"))


def spoiled(key: str, value: float, *, half: bool = False) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A small network, and its weights with one bad value."""
    model = small("unidual10_aux", tasks=TASKS)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    if half:
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    weights[key].view(-1)[-1] = value
    return model, weights


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "key", ["stages.2.0.conv1.spatial.weight", "stem.norm.video.running_mean", "heads.video.k400.bias"]
)
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, key, half):
    model, weights = spoiled(key, torch.nan, half=half)
    with pytest.raises(CheckpointError, match=rf"^the checkpoint holds NaN or infinity: {key}$"):
        fit_to_model(weights, model)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: the checkpoint holds NaN or infinity: {key}") as error:
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    one_sentence(error.value)
    with pytest.raises(RuntimeError, match=f"NaN or infinity: {key}"):
        load_model(f"local-dir:{tmp_path}", checkpoint=tmp_path / "model.safetensors")


def test_a_bad_head_that_is_not_used_does_not_matter():
    _, weights = spoiled("heads.image.k400.weight", torch.inf)
    without = small("unidual10", tasks=TASKS)
    assert "heads.image.k400.weight" not in fit_to_model(weights, without)


def test_packaged_weights_with_one_bad_value_are_refused(tmp_path):
    path = timm.get_pretrained_cfg("unidual10_aux.cifar10_motion").file
    weights = load_file(path)
    key = "stages.3.0.conv2.pointwise.video.weight"
    assert weights[key].dtype == torch.float16
    weights[key][0, 0] = torch.inf
    save_file(weights, tmp_path / "packaged.safetensors")
    with pytest.raises(RuntimeError, match=f"packaged.safetensors.*NaN or infinity: {key}"):
        load_model("unidual10_aux.cifar10_motion", checkpoint=tmp_path / "packaged.safetensors")


def test_every_convolution_is_looked_at_before_it_serves():
    """A network with one NaN answers NaN, and its served copy would answer: its ReLU turns NaN into 0."""
    model, x = small("unidual10", tasks=TASKS), clips(1, 2, 16)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) > 20
    for name in convolutions:
        weight = model.get_submodule(name).weight
        kept = weight[0, 0, 0, 0].item()
        with torch.no_grad():
            weight[0, 0, 0, 0] = torch.nan
            with pytest.raises(CheckpointError, match=f"the network holds NaN or infinity: {name}.weight"):
                for_inference(model)
            weight[0, 0, 0, 0] = kept
    assert for_inference(model)(x).isfinite().all()


def test_what_folding_and_casting_make_is_looked_at_too():
    model = small("unidual10", tasks=TASKS)
    norm = model.stem.norm["video"]
    with torch.no_grad():
        kept = norm.running_var.clone()
        norm.running_var[0] = -1  # finite, and its root is not
        with pytest.raises(
            CheckpointError, match=r"the folded network holds NaN or infinity: stem.layers.1.video.weight"
        ):
            for_inference(model)
        norm.running_var.copy_(kept)
        norm.weight[0] = 1e9
    for_inference(model)
    with pytest.raises(
        CheckpointError, match=r"the folded network in float16 holds NaN or infinity: stem.layers.1.video"
    ):
        for_inference(model, dtype=torch.float16)
