"""What a file system may refuse, and what it may not."""

import errno
import os
import stat

import pytest

from unidual_zoo.files import PARTIAL, make_readable, partial_name, remove_partial, sync_file, sync_folder


def refusing(code, *, where=lambda *args: True, function):
    """`function` of os, which fails with this error where asked."""

    def refuse(*args, **kwargs):
        if where(*args):
            raise OSError(code, os.strerror(code))
        return function(*args, **kwargs)

    return refuse


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("contents")
    path.chmod(0o600)
    return path


def test_a_file_gets_the_permissions_of_any_new_one(file):
    make_readable(file)
    (file.parent / "plain").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((file.parent / "plain").stat().st_mode)
    assert {path.name for path in file.parent.iterdir()} == {"file", "plain"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS])
def test_permissions_may_be_refused(file, monkeypatch, code):
    monkeypatch.setattr(os, "chmod", refusing(code, function=os.chmod))
    make_readable(file)
    assert file.read_text() == "contents"


def test_a_broken_disk_is_told_when_permissions_are_changed(file, monkeypatch):
    monkeypatch.setattr(os, "chmod", refusing(errno.EIO, function=os.chmod))
    with pytest.raises(OSError, match="Input/output"):
        make_readable(file)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_the_sync_of_a_folder_may_be_refused_and_that_of_a_file_may_not(file, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", refusing(code, function=os.fsync))
    sync_folder(file.parent)
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_file(file)


def test_a_folder_need_not_be_opened(file, monkeypatch):
    monkeypatch.setattr(os, "open", refusing(errno.EACCES, function=os.open))  # Windows
    sync_folder(file.parent)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("function", ["fsync", "open"])
def test_a_broken_or_full_disk_is_told_when_a_folder_is_synced(file, monkeypatch, function, code):
    monkeypatch.setattr(os, function, refusing(code, function=getattr(os, function)))
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_folder(file.parent)


def test_no_two_partial_names_are_the_same_and_what_is_left_of_them_goes(file):
    names = {partial_name(file) for _ in range(100)}
    assert len(names) == 100
    assert all(name.parent == file.parent and name.name.startswith(".file.") for name in names)
    for number, name in enumerate(names):
        (name / "inside").mkdir(parents=True) if number % 2 else name.touch()
    (file.parent / f"kept{PARTIAL}").touch()
    remove_partial(file.parent)
    assert {path.name for path in file.parent.iterdir()} == {"file", f"kept{PARTIAL}"}
