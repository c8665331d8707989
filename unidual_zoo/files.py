"""What a file system may refuse without harm to a file that is being written: permissions, and the sync of a folder.

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
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"  # how the name of a file ends that is still being written
NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
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
