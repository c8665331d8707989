"""Fetching, reading and refusing files of weights; the server is a real one on loopback."""

import os
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unidual_zoo.weights import (
    Checkpoint,
    CheckpointError,
    Figure,
    InputSpec,
    fetch,
    fetch_url,
    fit_to_model,
    read_weights,
    sha256_of,
)

CONTENT = bytes(range(256)) * 5000


class Answers(BaseHTTPRequestHandler):
    """/whole.pth, /broken.pth that ends half-way, /endless.pth that states no length, everything else 404."""

    requests: ClassVar[list[str]] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path not in ("/whole.pth", "/broken.pth", "/endless.pth"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless.pth":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/broken.pth" else CONTENT)

    def log_message(self, *_):
        pass


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
    with pytest.raises(CheckpointError, match=f"whole.pth in the cache is the wrong file, delete it.*{sha256[:8]}$"):
        fetch_url(f"{server}/whole.pth", sha256=sha256[:8], cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "sha256", "cause"),
    [
        ("broken.pth", None, f"the download broke off after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("whole.pth", "12345678", "the server gives another file: its sha256 is .*, expected 12345678"),
        ("none.pth", None, "HTTP Error 404: Not Found"),
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
        Figure(task="food", metric="top-1", value=50.0, protocol="unidual34", source="")


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


def test_damaged_and_strange_files(tmp_path):
    save_file({"a": torch.zeros(1000)}, tmp_path / "whole.safetensors")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    for name in ("whole.safetensors", "whole.pth", "old.pth"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"half-{name}").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.safetensors").write_text("<html>404: not found, but with status 200</html>")
    (tmp_path / "page.pth").write_text("<html>404: not found, but with status 200</html>")
    (tmp_path / "empty").mkdir()
    bad = [
        "half-whole.safetensors",
        "half-whole.pth",
        "half-old.pth",
        "page.safetensors",
        "page.pth",
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
    with pytest.raises(CheckpointError, match=r"mixed.pth holds more than weights: epoch \(int\), note \(str\)"):
        read_weights(tmp_path / "mixed.pth")


def test_a_folder_is_read_by_its_safetensors(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    assert torch.equal(read_weights(tmp_path)["a"], torch.ones(2))


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
