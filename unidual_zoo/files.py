"""Files that are written, or replaced while they are read; what a file system may refuse of that without harm.

Network and object stores (S3, GCS, CIFS) refuse both, and Windows cannot open a folder. These refusals are ignored,
exactly these; a full disk or a broken one is not among them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

Read = TypeVar("Read")

PARTIAL = ".partial"  # how the name of a file ends that is still being written
NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_READS = 10  # of a file that is replaced meanwhile
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})


def partial_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process or machine uses, for a file to be renamed when it is whole."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half written in a folder, which no other process may be writing to."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_unchanged(path: Path, read: Callable[[], Read], *, error: type[Exception], checked: bool = False) -> Read:
    """What `read` makes of the file or folder `path`, read again if that was replaced meanwhile.

    safetensors opens a file twice: of one that is replaced in between it reads two halves, with an error or without.
    What `read` has `checked` itself, by a hash, is taken even so.

    Raises:
        error: what `read` raised of a file that stayed the same, or it is replaced again and again.
    """
    for _ in range(_READS):
        before = _identity(path)
        try:
            result = read()
        except error:
            if _identity(path) == before:
                raise
        else:
            if checked or _identity(path) == before:
                return result
    raise error(f"{path} cannot be read: it is replaced again and again")


def _identity(path: Path) -> tuple[int, ...] | None:
    """Tells a file from those that replace it, and a folder from what it is after that."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new one beside it: safetensors keeps what it writes to its owner."""
    probe = partial_name(path)
    try:
        probe.touch(exist_ok=False)
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with _may_be_refused(_FORBIDDEN | NOT_OFFERED):
            path.chmod(mode)


def sync_file(path: Path) -> None:
    """Returns when a file's contents are on the disk."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs what can be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk, where the system can tell."""
    descriptor = None
    with _may_be_refused(_FORBIDDEN | NOT_OFFERED):  # Windows: EACCES
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        return
    try:
        with _may_be_refused(NOT_OFFERED):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _may_be_refused(codes: frozenset[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in codes:
            raise
