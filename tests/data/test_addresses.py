"""Requests to a server of the test, which counts the connections that it is asked over."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from unidual_zoo.data import addresses
from unidual_zoo.data.addresses import close_idle, fetch

DATA = bytes(range(256))


class Handler(BaseHTTPRequestHandler):
    """Gives DATA in parts over connections that it keeps for as many requests as `lasts` says."""

    protocol_version = "HTTP/1.1"
    lasts = 100
    faults = 0

    def setup(self):
        super().setup()
        self.server.opened.append(self)
        self.answered = 0

    def do_GET(self):
        self.answered += 1
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/here")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if type(self).faults:
            type(self).faults -= 1
            self.send_error(503)
            return
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(DATA[first : last + 1])
        self.close_connection = self.answered >= self.lasts  # without saying so: the client finds out

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(addresses, "FIRST_WAIT", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Counted", (Handler,), {})) as server:
        server.daemon_threads, server.opened = True, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        close_idle()
        server.shutdown()


def test_a_connection_serves_many_requests(server):
    assert [fetch(f"{server.url}/here", span=(at, 2)) for at in range(9)] == [DATA[at : at + 2] for at in range(9)]
    assert len(server.opened) == 1


def test_a_connection_that_was_closed_meanwhile_is_replaced(server, monkeypatch):
    monkeypatch.setattr(addresses, "ATTEMPTS", 1)  # it is no fault
    server.RequestHandlerClass.lasts = 3
    assert [fetch(f"{server.url}/here", span=(at, 1)) for at in range(7)] == [DATA[at : at + 1] for at in range(7)]
    assert len(server.opened) == 3


def test_faults_and_other_addresses_are_followed(server):
    server.RequestHandlerClass.faults = 2
    assert fetch(f"{server.url}/moved", span=(3, 4)) == DATA[3:7]
    assert server.RequestHandlerClass.faults == 0


def test_threads_do_not_share_a_connection(server):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: fetch(f"{server.url}/here", span=(at, 3)), range(80)))
    assert found == [DATA[at : at + 3] for at in range(80)]
    assert len(server.opened) <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_forked_process_has_connections_of_its_own(server):
    fetch(f"{server.url}/here", span=(0, 1))
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writing, b"".join(fetch(f"{server.url}/here", span=(at, 1)) for at in (7, 8)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 9) == DATA[7:9]
    assert fetch(f"{server.url}/here", span=(1, 1)) == DATA[1:2]
    assert len(server.opened) == 2
    os.close(reading)
    os.close(writing)
