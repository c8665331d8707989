"""One run a directory."""

import errno
import os
import signal
import socket
import time

import pytest

from unidual_zoo import lock as lock_module
from unidual_zoo.lock import Lock, LockedError


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path):
    first = Lock(tmp_path / "lock")
    assert first.is_held
    with pytest.raises(LockedError, match=f"process {os.getpid()} on {socket.gethostname()} since 20"):
        Lock(tmp_path / "lock")
    first.release()
    assert list(tmp_path.iterdir()) == []
    second = Lock(tmp_path / "lock")
    first.release()  # again: it is no longer its own
    with pytest.raises(LockedError, match="process"):
        Lock(tmp_path / "lock")
    second.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_process_leaves_no_lock_though_its_children_live(tmp_path):
    ready, gate = os.pipe()
    child = os.fork()
    if child == 0:
        Lock(tmp_path / "lock")
        if os.fork() == 0:
            os.write(gate, b"%d\n" % os.getpid())  # by the grandchild itself, which has let go of the lock by now
        time.sleep(60)
        os._exit(0)
    try:
        grandchild = int(os.read(ready, 100))
        with pytest.raises(LockedError, match=f"process {child} on"):
            Lock(tmp_path / "lock")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert (tmp_path / "lock").exists()
        os.kill(grandchild, 0)  # lives
        Lock(tmp_path / "lock").release()
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(ready)
        os.close(gate)


def test_a_file_that_the_holder_before_removed_is_no_lock(tmp_path, monkeypatch):
    """The first to come opens the file, the holder removes it, and a third one makes another."""
    flock, stolen = lock_module._lock, []

    def late(descriptor):
        if not stolen:
            (tmp_path / "lock").unlink()
            (tmp_path / "lock").touch()
            stolen.append(descriptor)
        flock(descriptor)

    monkeypatch.setattr(lock_module, "_lock", late)
    lock = Lock(tmp_path / "lock")
    assert stolen
    with pytest.raises(LockedError):
        Lock(tmp_path / "lock")
    lock.release()


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b"\xff\x00", b'{"pid": 1}'])
def test_a_holder_that_does_not_say_who_it_is(tmp_path, told):
    lock = Lock(tmp_path / "lock")
    (tmp_path / "lock").write_bytes(told)
    with pytest.raises(LockedError, match="another process"):
        Lock(tmp_path / "lock")
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_file_systems_without_locks(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock_module, "_lock", refuse)
    with pytest.warns(UserWarning, match="without locks .*nothing keeps a second run out"):
        lock = Lock(tmp_path / "lock")
    assert not lock.is_held
    lock.release()


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "absent" / "lock")
