"""Files of several requests, together through the network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from unidual_zoo.inference import Predictor
from unidual_zoo.scoring import ReadFile


class _Waiting(NamedTuple):
    file: ReadFile
    name: str
    answer: asyncio.Future[dict[str, Any]]


class Batcher:
    """Gathers files that have been read, for `gather_seconds` from the first, and has them scored together.

    At most `most` go together. While the network is busy others gather for as long as that takes. `batches` counts
    how often files went together, `files` how many they were.
    """

    def __init__(self, predictor: Predictor, *, gather_seconds: float, most: int) -> None:
        if gather_seconds < 0 or most < 1:
            raise ValueError(f"needs gather_seconds >= 0 and most >= 1, got {gather_seconds} and {most}")
        self._predictor, self._gather_seconds, self._most = predictor, gather_seconds, most
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.batches = self.files = 0

    @property
    def length(self) -> int:
        """Files that wait."""
        return self._waiting.qsize()

    async def __call__(self, file: ReadFile, name: str) -> dict[str, Any]:
        """The result of a file, as `Predictor` gives it; an error of the network's is raised."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Waiting(file, name, answer))
        return await answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Files are scored in the block."""
        with ThreadPoolExecutor(1, thread_name_prefix="network") as network:
            task = asyncio.create_task(self._run(network))
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _run(self, network: ThreadPoolExecutor) -> None:
        while True:
            together = [await self._waiting.get()]
            if len(together) + self.length < self._most:
                await asyncio.sleep(self._gather_seconds)
            while len(together) < self._most and self.length:
                together.append(self._waiting.get_nowait())
            self.batches, self.files = self.batches + 1, self.files + len(together)
            await self._score(together, network)

    async def _score(self, together: list[_Waiting], network: ThreadPoolExecutor) -> None:
        files, names, answers = zip(*together, strict=True)
        try:
            results = await asyncio.get_running_loop().run_in_executor(network, self._predictor.answers, files, names)
        except Exception as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
            return
        for answer, result in zip(answers, results, strict=True):
            if not answer.done():  # whoever waited may have left
                answer.set_result(result)
