"""One run or packing a directory: a lock of the operating system, which ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Self

from unidual_zoo.files import NOT_OFFERED

_HELD_BY_ANOTHER = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK})
_NO_LOCKS = NOT_OFFERED | {errno.ENOLCK, errno.EPERM}
_ATTEMPTS = 10  # at a file that the run before is removing
_held: set[int] = set()  # descriptors of this process


class LockedError(RuntimeError):
    """Another process holds the lock; the message is which one, where and since when."""


class Lock:
    """Holds the lock file `path`, which tells who does, until `release` or the end of a `with`. Processes that this one
    forks do not hold it.

    Where the file system has no locks, one warning says so and nothing is locked.

    Raises:
        LockedError: another process holds it, or this one already does.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _forget_in_children()
        self._descriptor = self._take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether other processes are kept out."""
        return self._descriptor in _held

    def release(self) -> None:
        """Lets others have it. In a process that was forked meanwhile it does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor in _held:
            _held.remove(descriptor)
            with contextlib.suppress(OSError):  # Windows removes no open file
                self.path.unlink()
            os.close(descriptor)

    def _take(self) -> int | None:
        for _ in range(_ATTEMPTS):
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                return self._do_without(error)
            try:
                _lock(descriptor)
            except OSError as error:
                holder = os.read(descriptor, 1000)
                os.close(descriptor)
                if error.errno in _HELD_BY_ANOTHER:
                    raise LockedError(_told(holder)) from error
                return self._do_without(error)
            if _is_file(descriptor, self.path):
                _held.add(descriptor)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, _told_by_this_process())
                return descriptor
            os.close(descriptor)
        raise LockedError("processes that come and go")

    def _do_without(self, error: OSError) -> None:
        if error.errno not in _NO_LOCKS:
            raise error
        warnings.warn(
            f"{self.path.parent} is on a file system without locks ({error.strerror}): nothing keeps a second run out",
            stacklevel=2,
        )


if sys.platform == "win32":
    import msvcrt

    _BEYOND = 1 << 30  # the byte that is locked, which no one reads

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@functools.cache
def _forget_in_children() -> None:
    """Lets forked processes close their copies, with which loaders that outlive a killed run would hold the lock."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name: the run before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _told_by_this_process() -> bytes:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode()


def _told(holder: bytes) -> str:
    try:
        told = json.loads(holder)
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
