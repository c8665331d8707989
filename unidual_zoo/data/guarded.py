"""Files read by a process of their own, which can be ended: by a clock, by a limit of memory, or by a crash.

A decoder that hangs in C heeds no exception, and one that crashes takes its process with it. So a `Guard` forks a
process that reads one file after another. Before each the process sets an alarm that the system answers by ending it,
whatever it is at; memory beyond a limit is refused to it. However it ends, the file is a MediaError, and the next one
is read by a new process. It needs a system that forks (Linux, macOS), and costs a copy of what is read.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from unidual_zoo.data.limits import FILE_MEMORY, FILE_SECONDS, check_seconds
from unidual_zoo.data.media import MediaError, MediaWarning
from unidual_zoo.data.warned import collected

Out = TypeVar("Out")

GRACE = 5.0  # seconds after the alarm in which the system must have ended a process
MEMORY_SPENT = 75  # exit status of a process that was refused memory
DEFAULT_SIGNALS = ("SIGALRM", "SIGCHLD", "SIGTERM", "SIGSEGV", "SIGBUS", "SIGFPE")  # Windows has not all of them


class Guard(Generic[Out]):
    """Calls `read(path, *arguments)` in a process that can be ended; raises what that raises, gives what it warns of.

    Args:
        read: reads one file; its arguments and what it returns must survive pickling.
        seconds: that a file may take. 0: any number.
        memory: bytes that the process may take on top of what it begins with (where the system tells how many).

    A process begins with the first file, or after a fork of this one, and ends with `close`, or with this process.
    """

    def __init__(self, read: Callable[..., Out], *, seconds: float, memory: int = FILE_MEMORY) -> None:
        self._read, self._seconds, self._memory = read, check_seconds(seconds), memory
        self._child: _Child | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # what it needs may be gone when the interpreter ends
            self.close()

    def __call__(self, path: str, *arguments: Any) -> Out:
        """What `read` makes of the file.

        Raises:
            MediaError: the file took too long or too much memory, or the process that read it died.
        """
        self.begin(path, *arguments)
        return self.end()

    def begin(self, path: str, *arguments: Any) -> None:
        """The process begins to read the file."""
        if self._child is None or self._child.parent != os.getpid():
            self._child = _fork(self._read, self._seconds, self._memory)
        self._path = path
        self._started = time.monotonic()
        with contextlib.suppress(OSError):  # it has died: `end` tells
            self._child.connection.send_bytes(pickle.dumps((path, arguments)))

    def end(self) -> Out:
        """Waits for the file that `begin` began; see `__call__`."""
        assert self._child is not None
        try:
            if not self._child.connection.poll(self.seconds_left()):
                raise TimeoutError
            outcome = _receive(self._child.connection)
        except (EOFError, OSError):
            raise MediaError(self._path, self._why_it_died()) from None
        except BaseException:  # half an answer may be in the pipe
            self.close()
            raise
        for path, reason in outcome.warned:
            warnings.warn(MediaWarning(path, reason), stacklevel=3)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    @property
    def connection(self) -> Connection:
        """Can be read from as soon as `end` will not wait."""
        assert self._child is not None
        return self._child.connection

    def seconds_left(self) -> float | None:
        """How long `end` may have to wait; None: for ever."""
        return max(0.0, self._started + self._seconds + GRACE - time.monotonic()) if self._seconds else None

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        if self._child is not None and self._child.parent == os.getpid():
            self._end_child()
        self._child = None

    def _end_child(self) -> int:
        """Ends the process -> what the system says of its end."""
        assert self._child is not None
        child, self._child = self._child, None
        gone = False
        with contextlib.suppress(ChildProcessError):
            gone, status = _ended_within(child.process, seconds=0)
            if not gone:
                os.kill(child.process, signal.SIGKILL)
                gone, status = _ended_within(child.process, seconds=GRACE)
        child.connection.close()
        return status if gone else signal.SIGKILL

    def _why_it_died(self) -> str:
        assert self._child is not None
        late = time.monotonic() - self._started >= self._seconds > 0
        with contextlib.suppress(ChildProcessError):
            _ended_within(self._child.process, seconds=0 if late else GRACE, keep=True)
        status = self._end_child()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if number == signal.SIGALRM or (late and number == signal.SIGKILL):
            return f"reading it took more than {self._seconds:g} seconds and was ended"
        if number is None and os.WEXITSTATUS(status) == MEMORY_SPENT:
            return _too_much_memory(self._memory)
        if number is None:
            return f"the process that read it ended with status {os.WEXITSTATUS(status)}"
        return f"the process that read it died of {signal.Signals(number).name}"


def guarded(read: Callable[..., Out], seconds: float | None) -> Callable[..., Out]:
    """`read` behind a Guard if a file may take only so many seconds, else itself. None: UNIDUAL_FILE_SECONDS says."""
    limit = FILE_SECONDS if seconds is None else check_seconds(seconds)
    return Guard(read, seconds=limit) if limit else read


def read_guarded(
    read: Callable[..., Out], jobs: Iterable[tuple[str, tuple]], *, workers: int, seconds: float, memory: int
) -> Iterator[tuple[str, Out | MediaError]]:
    """`read(path, *arguments)` of every job (path, arguments), by as many processes -> (path, result), as they come.

    A MediaError is a result. Warnings are those of `Guard`.
    """
    guards = [Guard(read, seconds=seconds, memory=memory) for _ in range(workers)]
    busy: list[tuple[str, Guard[Out]]] = []
    upcoming = iter(jobs)
    try:
        idle = list(guards)
        while True:
            while idle and (job := next(upcoming, None)) is not None:
                guard = idle.pop()
                guard.begin(job[0], *job[1])
                busy.append((job[0], guard))
            if not busy:
                return
            waits = [left for _, guard in busy if (left := guard.seconds_left()) is not None]
            ready = wait([guard.connection for _, guard in busy], min(waits, default=None))
            done = [pair for pair in busy if pair[1].connection in ready or pair[1].seconds_left() == 0]
            busy = [pair for pair in busy if pair not in done]
            for path, guard in done:
                try:
                    result = guard.end()
                except MediaError as error:
                    result = error
                idle.append(guard)
                yield path, result
    finally:
        for guard in guards:
            guard.close()


class _Child(NamedTuple):
    process: int
    connection: Connection
    parent: int


class _Outcome(NamedTuple):
    """What became of a file in the process that read it."""

    value: Any
    error: Exception | None
    warned: list[tuple[str, str]]


def _fork(read: Callable[..., Any], seconds: float, memory: int) -> _Child:
    if not hasattr(os, "fork"):
        raise RuntimeError("limits of time and memory for a file need a system that forks, such as Linux or macOS")
    ours, theirs = Pipe()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: as torch's loader does
        process = os.fork()
    if process:
        theirs.close()
        return _Child(process, ours, os.getpid())
    try:
        ours.close()
        _serve(read, theirs, seconds, memory)
    finally:
        os._exit(0)


def _serve(read: Callable[..., Any], connection: Connection, seconds: float, memory: int) -> None:
    """What the process does: it reads files until there is nobody to read them for."""
    for name in DEFAULT_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # those of the process before the fork are not there
    _limit_memory(memory)
    while True:
        try:
            path, arguments = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            outcome, buffers = _packed(_outcome(read, path, arguments))
        except MemoryError:
            os._exit(MEMORY_SPENT)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(pickle.dumps((outcome, [buffer.nbytes for buffer in buffers])))
        for buffer in buffers:
            connection.send_bytes(buffer)


def _outcome(read: Callable[..., Any], path: str, arguments: tuple) -> _Outcome:
    value = error = None
    with collected() as warned:
        try:
            value = read(path, *arguments)
        except MemoryError:
            raise
        except Exception as raised:
            error = _portable(raised.with_traceback(None))
    return _Outcome(value, error, [(warning.path, warning.reason) for warning in warned])


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be pickled and read again, as many cannot with arguments by name."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


def _limit_memory(memory: int) -> None:
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = held + memory
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _too_much_memory(memory: int) -> str:
    return f"reading it takes more than {memory:,} bytes of memory (UNIDUAL_FILE_MEMORY allows more)"


def _ended_within(process: int, *, seconds: float, keep: bool = False) -> tuple[bool, int]:
    """Whether a child process has ended, waiting for it that long, and its status. `keep`: without taking note of it.

    Raises:
        ChildProcessError: it is no child of ours, or somebody else has taken note of its end.
    """
    until = time.monotonic() + seconds
    while True:
        if keep:
            ended, status = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None, 0
        else:
            found, status = os.waitpid(process, os.WNOHANG)
            ended = found == process
        if ended or time.monotonic() >= until:
            return ended, status
        time.sleep(0.005)


# ---- from one process to the other: tensors as they lie in memory, without another copy ------------------------------


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, Tensor) and thing.device.type == "cpu":
            storage = np.asarray(torch.empty(0, dtype=torch.uint8).set_(thing.untyped_storage()))
            place = (thing.dtype, tuple(thing.shape), thing.stride(), thing.storage_offset())
            return _tensor, (storage, *place)
        return NotImplemented


def _tensor(
    storage: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> Tensor:
    whole = torch.from_numpy(storage)
    return torch.empty(0, dtype=dtype).set_(whole.untyped_storage(), offset, shape, stride)


def _packed(outcome: _Outcome) -> tuple[bytes, list[memoryview]]:
    """An outcome as bytes, and its large parts, which are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    file = BytesIO()
    try:
        _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(outcome)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        told = RuntimeError(f"{outcome.value!r:.200} cannot leave its process: {error}")
        return pickle.dumps(_Outcome(None, told, outcome.warned)), []
    return file.getvalue(), [buffer.raw() for buffer in buffers]


def _receive(connection: Connection) -> _Outcome:
    outcome, sizes = pickle.loads(connection.recv_bytes())
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        connection.recv_bytes_into(buffer)
    return pickle.loads(outcome, buffers=buffers)
