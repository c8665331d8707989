"""Fetching files of weights and keeping them; the server is a real one on loopback."""

import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from weights.told import one_sentence

from unidual_zoo.spec import InputSpec
from unidual_zoo.weights import (
    Checkpoint,
    CheckpointError,
    Metric,
    fetch,
    fetch_url,
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
