"""The service: answers, refusals, what it does at once, and how it ends. Real files over real requests."""

import contextlib
import gc
import http.server
import json
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fakes import GreyNet, film, grey_image, grey_video
from media import scene
from pictures import png
from starlette.testclient import TestClient

from unidual import app as cli
from unidual_zoo.inference import Predictor
from unidual_zoo.ports import listen
from unidual_zoo.scoring import Protocol
from unidual_zoo.serving.app import Server, Service, make_app, make_server
from unidual_zoo.serving.fetching import AllowList
from unidual_zoo.serving.limits import Limits, Refused
from unidual_zoo.serving.metrics import Metrics

LIMITS = Limits(request_bytes=100_000, pixels=10_000, frames=40, requests=8, receive_seconds=20)
ABOUT = {"model": "greys"}


@pytest.fixture
def predictor():
    return Predictor(GreyNet(), protocol=Protocol(name="two", clips=2), top=2)


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def service(predictor, *, limits=LIMITS, urls=(), **options):
    return Service(predictor, limits=limits, allowed=AllowList(urls), **options)


@contextlib.contextmanager
def client(served):
    with TestClient(make_app(served, about=ABOUT), raise_server_exceptions=False) as running:
        yield running


def form(path, name=None, kind="application/octet-stream"):
    return {"file": (name or path.name, path.read_bytes(), kind)}


def uploads(temp):
    return [path for path in temp.rglob("*") if path.is_file()]


def test_an_answer_is_that_of_predict_and_leaves_nothing(predictor, temp, tmp_path):
    photo, clip = grey_image(tmp_path / "a.jpg", 3), grey_video(tmp_path / "b.mp4", [1, 1, 4, 4])
    with client(service(predictor)) as web:
        for path in (photo, clip):
            answer = web.post("/predict", files=form(path, f"C:\\folder\\{path.name}"), data={"note": "is skipped"})
            (expected,) = predictor([path])
            assert (answer.status_code, answer.json()) == (200, {**expected, "file": path.name})
            unnamed = web.post("/predict", files=form(path, "blob", "image/jpeg" if path == photo else "video/mp4"))
            assert unnamed.json()["top"] == expected["top"]
            assert uploads(temp) == []
        assert web.get("/healthz").json() == {"status": "ok", "model": "greys"}
        assert "requestBody" in web.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert list(temp.iterdir()) == []


def test_what_is_refused_is_one_sentence_and_leaves_nothing(predictor, temp, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("a text file called .mp4\n" * 10)
    photo = grey_image(tmp_path / "a.jpg", 3)
    (tmp_path / "huge.png").write_bytes(png(20_000, 20_000, b""))
    large = grey_image(tmp_path / "large.png", 3, size=(200, 60))
    long = film(tmp_path / "long.mp4", scene(41, 32, 32))
    big = {"file": ("big.jpg", b"0" * LIMITS.request_bytes)}
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'

    def flood():
        yield head
        for _ in range(20):
            yield b"0" * 10_000

    cases = [
        (dict(files=form(text)), 422, "it cannot be opened as a video"),
        (dict(files=form(text, "text.txt")), 415, "extension of an image or a video: .3gp .avi"),
        (dict(files={"picture": ("a.jpg", b"")}), 400, "no part 'file'"),
        (dict(files=[("file", ("a.jpg", b"1")), ("file", ("b.jpg", b"2"))]), 400, "one file"),
        (dict(content=head + b"cut", headers=boundary), 400, "ends early"),
        (dict(content=b"no form", headers=boundary), 400, "the form cannot be read"),
        (dict(content=b"", headers={"Content-Type": "multipart/form-data"}), 400, "no boundary"),
        (dict(content=photo.read_bytes(), headers={"Content-Type": "image/jpeg"}), 415, "multipart/form-data with"),
        (dict(json={"uri": "x"}), 400, '{"url": '),
        (dict(json={"url": "file:///etc/passwd"}), 400, "must be http://host/path"),
        (dict(json={"url": "https://example.org/a.jpg"}), 403, "--allow-url"),
        (dict(json={"url": "x" * 70_000}), 413, "100,000 bytes at most"),
        (dict(files=big), 413, "100,000 bytes at most"),
        (dict(content=flood(), headers=boundary), 413, "100,000 bytes at most"),
        (dict(files=form(large)), 422, "200x60 pixels, at most 10,000"),
        (dict(files=form(tmp_path / "huge.png")), 422, "400,000,000 pixels"),
        (dict(files=form(long)), 422, "it has 41 frames, at most 40 are allowed"),
    ]
    with client(service(predictor)) as web:
        for request, status, reason in cases:
            answer = web.post("/predict", **request)
            assert answer.status_code == status, (reason, answer.text)
            assert [*answer.json()] == ["error"]
            assert reason in answer.json()["error"]
            assert str(temp) not in answer.text
            assert uploads(temp) == []
        for answer in (web.get("/elsewhere"), web.get("/predict")):
            assert answer.json()["error"].endswith("there are POST /predict, GET /healthz and GET /metrics")
        assert f"unidual_failures_total {len(cases)}" in web.get("/metrics").text


def test_concurrent_requests_go_through_the_network_together(predictor, temp, tmp_path):
    photos = [grey_image(tmp_path / f"{level}.jpg", level) for level in range(4)]
    (tmp_path / "torn.jpg").write_bytes(photos[0].read_bytes()[:200])
    calls = predictor.model.calls
    with client(service(predictor, gather_seconds=0.3)) as web, ThreadPoolExecutor(4) as threads:
        answers = [*threads.map(lambda path: web.post("/predict", files=form(path)).json(), photos)]
        assert web.post("/predict", files=form(tmp_path / "torn.jpg")).status_code == 422  # and is none of them
        metrics = web.get("/metrics").text
    assert [answer["top"][0]["label"] for answer in answers] == [f"grey {level}" for level in range(4)]
    assert calls == [(4, 3, 32, 32)]
    assert "unidual_batches_total 1\n" in metrics
    assert "unidual_batched_files_total 4\n" in metrics


@pytest.fixture
def held(predictor, monkeypatch):
    """The predictor reads only when it is let go; (it began to read, let go)."""
    read, began, go = predictor.read, threading.Event(), threading.Event()

    def wait(path):
        began.set()
        assert go.wait(20)
        return read(path)

    monkeypatch.setattr(predictor, "read", wait)
    return began, go


def test_a_full_queue_sends_clients_away_for_a_second(predictor, temp, tmp_path, held):
    began, go = held
    photo = grey_image(tmp_path / "a.jpg", 3)
    served = service(predictor, limits=Limits(requests=1))
    with client(served) as web, ThreadPoolExecutor(1) as threads:
        first = threads.submit(web.post, "/predict", files=form(photo))
        assert began.wait(20)
        second = web.post("/predict", files=form(photo))
        assert "unidual_queue_length 1\n" in web.get("/metrics").text
        go.set()
        assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
        assert "all 1 places are taken" in second.json()["error"]
        assert first.result().status_code == 200
        assert web.post("/predict", files=form(photo)).status_code == 200
        assert "unidual_queue_length 0\n" in web.get("/metrics").text


def test_scores_that_are_not_finite_are_no_answer(predictor, temp, tmp_path, monkeypatch):
    photo = grey_image(tmp_path / "a.jpg", 3)
    logits = predictor.model.forward
    monkeypatch.setattr(predictor.model, "forward", lambda *args, **options: logits(*args, **options) * float("nan"))
    with client(service(predictor)) as web:
        answer = web.post("/predict", files=form(photo))
    assert (answer.status_code, answer.json()) == (422, {"error": "the network's scores are not finite"})


def test_a_fault_of_ours_is_no_traceback_and_ends_no_service(predictor, temp, tmp_path, monkeypatch, caplog):
    photo = grey_image(tmp_path / "a.jpg", 3)
    with client(service(predictor)) as web:
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "answers", lambda files, names: 1 / 0)
            broken = web.post("/predict", files=form(photo))
        assert (broken.status_code, broken.json()) == (500, {"error": "the service failed, its log says how"})
        assert "ZeroDivisionError" in caplog.text
        assert web.post("/predict", files=form(photo)).status_code == 200


def test_a_server_told_to_end_finishes_what_it_has_in_hand(predictor, temp, tmp_path, held):
    began, go = held
    photo = grey_image(tmp_path / "a.jpg", 3)
    with listen("127.0.0.1", 0) as listening, ThreadPoolExecutor(2) as threads:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = make_server(make_app(service(predictor), about=ABOUT))
        running = threads.submit(server.run, [listening])
        answer = threads.submit(httpx.post, f"{address}/predict", files=form(photo), timeout=20)
        assert began.wait(20)
        server.should_exit = True  # as its handler of SIGTERM does
        time.sleep(0.3)  # it looks every tenth of a second
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/healthz", timeout=5)
        assert not running.done()
        go.set()
        assert answer.result().json()["top"][0]["label"] == "grey 3"
        running.result(20)
    assert list(temp.iterdir()) == []


# ---- URLs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    """A web server -> its address: /files/a.jpg, /files/a (a JPEG by its type), /files/big.jpg, /files/move.jpg."""
    photo = grey_image(tmp_path / "a.jpg", 2).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"0" * 200_000 if "big" in self.path else photo
            self.send_response(302 if "move" in self.path else 200 if "/files/" in self.path else 404)
            self.send_header("Location", "/files/a.jpg")
            self.send_header("Content-Type", "image/jpeg")
            if "endless" not in self.path:
                self.send_header("Content-Length", str(len(body) + ("cut" in self.path)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body * (10 if "endless" in self.path else 1))

        def log_message(self, *_):
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_urls_of_the_allow_list_are_fetched(predictor, temp, shop):
    refused = [
        ("/files/big.jpg", 413, "100,000 bytes at most"),
        ("/files/endless-big.jpg", 413, "100,000 bytes at most"),
        ("/files/move.jpg", 502, "answered 302, and redirects are not followed"),
        ("/files/cut.jpg", 502, "broke off"),
        ("/else/a.jpg", 403, "URLs of its allow-list"),
        ("/files/../else/a.jpg", 400, "no . and .."),
    ]
    with client(service(predictor, urls=[f"{shop}/files"])) as web:
        for name in ("a.jpg", "a", "a.php?id=3"):
            answer = web.post("/predict", json={"url": f"{shop}/files/{name}"}).json()
            assert (answer["file"], answer["top"][0]["label"]) == (f"{shop}/files/{name}", "grey 2")
        for path, status, reason in refused:
            answer = web.post("/predict", json={"url": shop + path})
            assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
        assert uploads(temp) == []
    with client(service(predictor, urls=["http://127.0.0.1:1"])) as web:
        answer = web.post("/predict", json={"url": "http://127.0.0.1:1/a.jpg"})
        assert (answer.status_code, "cannot be fetched" in answer.json()["error"]) == (502, True)
    gc.collect()  # a socket left open would warn here


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://media.example.org/clips/a.mp4", None),
        ("https://MEDIA.example.org:443/clips/deep/a%20b.mp4?size=1", None),
        ("https://media.example.org/clips2/a.mp4", 403),
        ("https://media.example.org/clip", 403),
        ("http://media.example.org/clips/a.mp4", 403),
        ("https://media.example.org:8443/clips/a.mp4", 403),
        ("https://media.example.org.evil.net/clips/a.mp4", 403),
        ("https://media.example.org@evil.net/clips/a.mp4", 400),
        ("https://media.example.org/clips/../a.mp4", 400),
        ("https://media.example.org/clips/%252e%252e/a.mp4", 400),
        ("https://media.example.org/clips/..\\a.mp4", 400),
        ("https://media.example.org/clips/\n.mp4", 400),
        ("https://media.example.org:x/clips/a.mp4", 400),
        ("ftp://media.example.org/clips/a.mp4", 400),
        ("//media.example.org/clips/a.mp4", 400),
    ],
)
def test_what_an_allowed_prefix_allows(url, status):
    found = None
    try:
        AllowList(["https://media.example.org/clips"]).check(url)
    except Refused as refused:
        found = refused.status
    assert found == status


@pytest.mark.parametrize("prefix", ["media.example.org", "https://a.org/?x=1", "file:///tmp"])
def test_a_prefix_that_is_no_url_is_refused(prefix):
    with pytest.raises(ValueError, match=r"URL|prefix"):
        AllowList([prefix])


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_metrics_are_prometheus_text():
    metrics = Metrics()
    for status, seconds in ((200, 0.5), (422, 0.25), (200, 0.25)):
        metrics.count(status, seconds)
    lines = metrics.text(gauges={"queue_length": ("Waiting.", 3)}, counters={}).splitlines()
    assert [line for line in lines if not line.startswith("# HELP")] == [
        "# TYPE unidual_requests_total counter",
        'unidual_requests_total{status="200"} 2',
        'unidual_requests_total{status="422"} 1',
        "# TYPE unidual_failures_total counter",
        "unidual_failures_total 1",
        "# TYPE unidual_request_seconds summary",
        "unidual_request_seconds_sum 1.0",
        "unidual_request_seconds_count 3",
        "# TYPE unidual_queue_length gauge",
        "unidual_queue_length 3",
    ]


@pytest.mark.parametrize("limit", ["requests", "pixels", "receive_seconds"])
def test_a_limit_of_nothing_is_refused(limit):
    with pytest.raises(ValueError, match=f"{limit} must be more than 0, got 0"):
        Limits(**{limit: 0})


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", *arguments])
    return end.value.code


@pytest.fixture
def terminations():
    """The SIGTERMs that reached whoever had asked for them before the test's own command did."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_the_command_says_where_it_answers_and_told_to_end_it_is_done(capsys, tmp_path, terminations):
    out = tmp_path / "out.json"

    def ask_and_end():
        while not (out.exists() and out.read_text().endswith("\n")):
            time.sleep(0.02)
        answer = httpx.get(json.loads(out.read_text())["address"] + "/healthz", timeout=20).json()
        signal.raise_signal(signal.SIGTERM)
        return answer

    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_and_end)
        assert command("--model", "unidual10_aux.toy", "--port", "0", "--json", str(out)) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])  # what follows is uvicorn's log of requests
    assert row["address"].startswith("http://127.0.0.1:")
    assert (row["model"], row["tasks"]["image"]) == ("unidual10_aux.toy", "toy_objects")
    assert json.loads(out.read_text()) == row
    assert asked.result()["tasks"] == row["tasks"]
    assert terminations == []


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [("SIGTERM", "SIGINT", 0), ("SIGINT", "SIGTERM", 0), ("SIGTERM", "SIGTERM", 0), ("SIGINT", "SIGINT", 130)],
)
def test_the_command_told_twice_to_end_leaves_no_traceback(capsys, monkeypatch, terminations, first, second, status):
    startup = Server.startup

    async def startup_and_signals(self, sockets=None):
        await startup(self, sockets)
        for name in (first, second):
            signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(Server, "startup", startup_and_signals)
    monkeypatch.setattr("unidual_zoo.inference.load_model", lambda *_, **__: GreyNet())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs do not have
    try:
        assert command("--port", "0") == status
    finally:
        signal.signal(signal.SIGINT, before)
    told = capsys.readouterr().err
    assert "Application shutdown complete" in told
    assert "Traceback" not in told
    assert terminations == []


@pytest.mark.usefixtures("terminations")
def test_bad_options_are_one_sentence(capsys):
    assert command("--allow-url", "media.example.org") == 2
    assert "a URL must be http://" in capsys.readouterr().err
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        assert command("--port", port) == 2
    told = f"unidual: port {port} of 127.0.0.1 is in use: choose another with --port, where 0 takes a free one\n"
    assert capsys.readouterr().err == told


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("unidual_zoo.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert command() == 2
    assert "pip install 'unidual-zoo[serve]'" in capsys.readouterr().err
