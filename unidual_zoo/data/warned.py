"""Warnings of one thread: Pillow's dropped, those of files collected for an answer, while other threads' pass.

Python's warning filters belong to the whole process, and two threads that change and restore them side by side can
leave it without its own. Here they are changed while at least one thread wants it, and each warning goes to what its
own thread wants.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import PIL

from unidual_zoo.data.media import MediaWarning

Taker = Callable[[Warning | str, str], bool]  # of a warning and its line's file: whether it is taken, so not shown


@contextmanager
def collected() -> Iterator[list[MediaWarning]]:
    """The MediaWarnings that this thread gives in the block, which are not shown."""
    found: list[MediaWarning] = []

    def take(message: Warning | str, _: str) -> bool:
        if isinstance(message, MediaWarning):
            found.append(message)
        return isinstance(message, MediaWarning)

    with _listening.to(take):
        yield found


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """Pillow's warnings of large images and bad metadata are not shown: the first are our errors, the second no fault
    of the pixels."""
    with _listening.to(lambda _, file: os.path.dirname(file) == os.path.dirname(PIL.__file__)):
        yield


class _Listening:
    """Stands in for `warnings.showwarning` while at least one thread listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._takers: list[tuple[int, Taker]] = []  # by thread, the innermost last

    @contextmanager
    def to(self, take: Taker) -> Iterator[None]:
        entry = (threading.get_ident(), take)
        with self._lock:
            if not self._takers:
                self._begin()
            self._takers.append(entry)
        try:
            yield
        finally:
            with self._lock:
                self._takers.remove(entry)
                if not self._takers:
                    self._before.__exit__(None, None, None)

    def _begin(self) -> None:
        self._before = warnings.catch_warnings()
        self._before.__enter__()
        self._show = warnings.showwarning
        warnings.showwarning = self
        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.simplefilter("always", MediaWarning)

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: str | None = None,
    ) -> None:
        for thread, take in reversed(tuple(self._takers)):
            if thread == threading.get_ident() and take(message, filename):
                return
        self._show(message, category, filename, lineno, file, line)  # pyright: ignore[reportArgumentType]


_listening = _Listening()
