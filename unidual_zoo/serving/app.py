"""The service: `POST /predict`, `GET /healthz`, `GET /metrics`.

A request is admitted if there is room, its file is received into a temporary folder, read by one of a few threads and
removed, and waits a few milliseconds for others: what has been read goes through the network together. Every answer is
JSON, an error one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from unidual_zoo.cores import usable_cores
from unidual_zoo.data.media import MediaError
from unidual_zoo.inference import Predictor
from unidual_zoo.scoring import ReadFile
from unidual_zoo.serving.batching import Batcher
from unidual_zoo.serving.fetching import AllowList
from unidual_zoo.serving.limits import Limits, Refused, check_media
from unidual_zoo.serving.metrics import CONTENT_TYPE, Metrics
from unidual_zoo.serving.receiving import FIELD, FORM, JSON, Received, receive

LOOPBACK = "127.0.0.1"
GATHER_SECONDS = 0.005
UNREADABLE, BUSY, GONE, FAILED = 422, 503, 499, 500  # statuses; 499 is nginx's for a client that has left
RETRY_AFTER = {"Retry-After": "1"}  # seconds
PLACES = "POST /predict, GET /healthz and GET /metrics"
BODY = {  # of POST /predict, for /openapi.json
    "requestBody": {
        "required": True,
        "content": {
            FORM: {"schema": {"type": "object", "properties": {FIELD: {"type": "string", "format": "binary"}}}},
            JSON: {"schema": {"type": "object", "properties": {"url": {"type": "string"}}}},
        },
    }
}
log = logging.getLogger("uvicorn.error")


class Service:
    """From a request to its answer. Requests that wait are in `in_hand`.

    Args:
        predictor: what answers; its `batch_size` is that of the network.
        limits: what is taken.
        allowed: the URLs that are fetched.
        gather_seconds: how long a file that has been read waits for others.
        readers: threads that read files; None: one for each processor that the process may use.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        limits: Limits,
        allowed: AllowList,
        gather_seconds: float = GATHER_SECONDS,
        readers: int | None = None,
    ) -> None:
        self._predictor, self._limits, self._allowed = predictor, limits, allowed
        self.batcher = Batcher(predictor, gather_seconds=gather_seconds, most=limits.requests)
        self._num_readers = usable_cores() if readers is None else readers
        self.in_hand = 0
        self.metrics = Metrics()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Requests are answered in the block; at its end nothing is left on the disk."""
        with (
            tempfile.TemporaryDirectory(prefix="unidual-serve-", ignore_cleanup_errors=True) as self._folder,
            ThreadPoolExecutor(self._num_readers, thread_name_prefix="reader") as self._readers,
        ):
            async with self.batcher.running():
                yield

    async def answer(self, request: Request) -> dict[str, Any]:
        """The result of a request's file, as `unidual predict` gives it.

        Raises:
            Refused: there is none.
        """
        with self._admitted():
            received = await receive(request, self._folder, self._limits, self._allowed)
            try:
                reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, received)
                file = await reading
            finally:
                with contextlib.suppress(OSError):  # Windows keeps a file that is being read; the folder goes, too
                    os.unlink(received.path)
            if file.error is not None:
                raise Refused(UNREADABLE, file.error.replace(received.path, received.name))
            result = await self.batcher(file, received.name)
        if "error" in result:  # the network's, of a file that was read
            raise Refused(UNREADABLE, result["error"])
        return result

    def text(self) -> str:
        """The metrics."""
        return self.metrics.text(
            gauges={
                "queue_length": ("Requests received, read and waiting now.", self.in_hand),
                "waiting_files": ("Files that wait for the network now.", self.batcher.length),
            },
            counters={
                "batches_total": ("Times that files went through the network together.", self.batcher.batches),
                "batched_files_total": ("Files that went through the network.", self.batcher.files),
            },
        )

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        if self.in_hand >= self._limits.requests:
            raise Refused(BUSY, f"all {self._limits.requests} places are taken, try again in a second", RETRY_AFTER)
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    def _read(self, received: Received) -> ReadFile:
        try:
            check_media(received.path, self._limits)
            return self._predictor.read(received.path)
        except MediaError as error:
            raise Refused(UNREADABLE, error.reason.replace(received.path, received.name)) from None
        except ValueError as error:  # the model serves no such files
            raise Refused(UNREADABLE, str(error)) from None


def make_app(service: Service, *, about: dict[str, Any]) -> FastAPI:
    """The service as an ASGI application; `about` is what `/healthz` tells of the model."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # FastAPI's pages of documentation load scripts of others; /openapi.json stays.
    app = FastAPI(title="unidual-zoo", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request) -> Response:
        """The labels of one image or video."""
        start = time.perf_counter()
        status, answer, headers = await _answered(service, request)
        service.metrics.count(status, time.perf_counter() - start)
        return JSONResponse(answer, status, headers)

    @app.get("/healthz")
    async def health() -> Response:
        """Whether the service answers, and for which model."""
        return JSONResponse({"status": "ok", **about})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(service.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> Response:
        reason = f"{str(error.detail).lower()}: there are {PLACES}"
        return JSONResponse({"error": reason}, error.status_code, error.headers)

    return app


async def _answered(service: Service, request: Request) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, answer and headers of a request, whatever becomes of it."""
    try:
        return 200, await service.answer(request), {}
    except Refused as refused:
        return refused.status, {"error": refused.reason}, dict(refused.headers)
    except ClientDisconnect:
        return GONE, {"error": "the client has left"}, {}
    except Exception:
        log.exception("a request failed")
        return FAILED, {"error": "the service failed, its log says how"}, {}


class Server(uvicorn.Server):
    """uvicorn, which after a second Ctrl-C would cancel the application and log its traceback."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the application in any case, also without the requests that are in hand."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()


def make_server(app: FastAPI) -> Server:
    """uvicorn, which on SIGTERM and Ctrl-C takes no more requests and finishes those that are in hand.

    A second Ctrl-C leaves them.
    """
    return Server(uvicorn.Config(app, log_level="info", server_header=False, lifespan="on"))
