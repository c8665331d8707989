"""Warnings of files: kept from the terminal, or collected for an answer, also where several threads read at once.

Python's warning filters belong to the whole process. Two threads that change and restore them side by side can leave
the process without its own, so that here both ways of changing them take turns.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unidual_zoo.data.media import MediaWarning

_turn = threading.Lock()


@contextmanager
def no_warnings() -> Iterator[None]:
    """No warnings but MediaWarning. Others wait for their turn meanwhile: use it for what is short."""
    with _turn, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MediaWarning)
        yield


@contextmanager
def collected() -> Iterator[list[str]]:
    """The reasons of each MediaWarning that this thread gives, in place of showing it. Other warnings pass."""
    reasons: list[str] = []
    _collector.begin(reasons)
    try:
        yield reasons
    finally:
        _collector.end(reasons)


class _Collector:
    """Stands in for `warnings.showwarning` while at least one thread collects."""

    def __init__(self) -> None:
        self._lists: list[tuple[int, list[str]]] = []  # (thread, reasons), the innermost last

    def begin(self, reasons: list[str]) -> None:
        with _turn:
            if not self._lists:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("always", MediaWarning)
                self._show = warnings.showwarning
                warnings.showwarning = self
            self._lists.append((threading.get_ident(), reasons))

    def end(self, reasons: list[str]) -> None:
        with _turn:
            self._lists = [(thread, other) for thread, other in self._lists if other is not reasons]
            if not self._lists:
                self._before.__exit__(None, None, None)

    def __call__(self, message: Warning | str, *details: Any, **named: Any) -> None:
        mine = [reasons for thread, reasons in self._lists if thread == threading.get_ident()]
        if mine and isinstance(message, MediaWarning):
            mine[-1].append(message.reason)
        else:
            self._show(message, *details, **named)


_collector = _Collector()
