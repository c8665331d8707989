"""Folders and patterns to files: links, what cannot be looked at, what systems leave behind."""

import errno
import os
from collections import Counter
from glob import glob
from pathlib import Path

import pytest

from unidual_zoo.data.listing import files_below, files_matching, is_machine_made, look_into, warn_of_left_out


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def refused(monkeypatch):
    """Makes the system refuse to list a folder, as one without permission (which root would get)."""
    plain = os.scandir

    def refuse(folder):
        def scandir(path):
            if os.path.realpath(path) == str(folder):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return plain(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return refuse


def test_files_below_a_folder(tmp_path):
    touch(tmp_path, "b.jpg", "a/c.jpg", "a/d/e.txt", ".hidden/f.jpg", "a/.g.jpg")
    assert files_below(tmp_path) == (["a/c.jpg", "a/d/e.txt", "b.jpg"], Counter())
    assert files_below(f"{tmp_path}/a/").files == ["c.jpg", "d/e.txt"]


def test_a_folder_that_links_reach_again_is_listed_once_by_its_own_name(tmp_path):
    touch(tmp_path, "z/a.jpg", "z/deep/b.jpg")
    (tmp_path / "first").symlink_to(tmp_path / "z")
    (tmp_path / "z/deep/round").symlink_to(tmp_path)
    touch(tmp_path.parent / f"{tmp_path.name}-elsewhere", "c.jpg")
    for name in ("out", "out again"):
        (tmp_path / name).symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert files_below(tmp_path).files == ["out/c.jpg", "z/a.jpg", "z/deep/b.jpg"]


def test_a_folder_that_cannot_be_listed_is_named_and_the_others_are_listed(tmp_path, refused):
    touch(tmp_path, "a.jpg", "closed/b.jpg", "open/c.jpg")
    refused(tmp_path / "closed")
    with pytest.warns(UserWarning, match=r"closed: its files are left out, it cannot be listed \(Permission denied\)$"):
        assert files_below(tmp_path).files == ["a.jpg", "open/c.jpg"]
    for pattern in ("**/*.jpg", "*/*.jpg"):
        with pytest.warns(UserWarning, match="closed: its files are left out"):
            found = files_matching(f"{tmp_path}/{pattern}").files
        assert f"{tmp_path}/open/c.jpg" in found


def test_links_that_lead_nowhere_are_named(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.warns(UserWarning, match=r"loop: left out, it cannot be looked at \(.*symbolic links\)$"):
        assert files_below(tmp_path).files == ["a.jpg"]
    (tmp_path / "loop").unlink()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")  # is found when it is read
    with pytest.warns(UserWarning, match="gone: left out, the link leads nowhere$"):
        assert files_below(tmp_path).files == ["a.jpg", "gone.jpg"]


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", ".Trashes", ".Trash-1000", "__MACOSX", "lost+found", "#recycle",
     "System Volume Information", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints"],
)  # fmt: skip
def test_what_systems_leave_behind_is_skipped_and_counted(tmp_path, name):
    assert is_machine_made(name)
    touch(tmp_path, "cat/a.jpg", f"cat/{name}/a.jpg", f"dog/{name}/b.jpg", f"{name}/c.jpg")
    files = ["cat/a.jpg"]
    assert files_below(tmp_path) == (files, Counter({name: 3}))
    assert [entry.name for entry in look_into(tmp_path).folders] == ["cat", "dog"]
    for pattern in ("**", "**/*", "*"):
        found = files_matching(f"{tmp_path}/{pattern}")
        assert found.files == [f"{tmp_path}/cat/a.jpg"]
        assert found.machine_made[name] == (2 if name.startswith(".") and pattern == "*" else 3)
    assert files_below(tmp_path / name).files == ["c.jpg"]  # whoever names it gets it


def test_names_of_people_are_kept():
    assert not any(map(is_machine_made, ("recycled", "trash", "eadir", "found", "database", "Icon", ".hidden")))


def test_one_sentence_tells_what_is_left_out(recwarn):
    warn_of_left_out("here", ["a.jpg", "b.mp4"], Counter())
    assert not recwarn
    with pytest.warns(UserWarning, match="^here: left out what systems leave behind: 2 @eaDir, 1 Thumbs.db$"):
        warn_of_left_out("here", ["a.jpg"], Counter({"Thumbs.db": 1, "@eaDir": 2}))
    with pytest.warns(
        UserWarning, match=r"by extension: 1 \.txt, 1 with none; and what systems leave behind: 1 @eaDir$"
    ):
        warn_of_left_out("here", ["a.TXT", "b"], Counter({"@eaDir": 1}))


PATTERNS = [
    "*.jpg", "*", "d/*", "d/*/", "**/*.jpg", "**/e/*", "d/**/*.jpg", "*/e/?.jpg", "d/[ab].*", "./d/*.jpg", "d/.*",
    "d//*.jpg", "**/**/c.jpg", "d/e/../*.jpg", "nothing/*", "x**.jpg", "**/d/**/*.txt",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_in_a_shell(tmp_path, monkeypatch, pattern):
    touch(tmp_path, "x.jpg", "d/a.jpg", "d/b.mp4", "d/.h.jpg", "d/e/c.jpg", "d/e/n.txt", "f/e/a.jpg", ".i/a.jpg")
    monkeypatch.chdir(tmp_path)
    for start in ("", f"{tmp_path}/"):
        expected = set()
        for match in glob(start + pattern, recursive=True):
            below = (
                [match] if os.path.isfile(match) else [os.path.join(match, name) for name in files_below(match).files]
            )
            expected.update(below)
        assert files_matching(start + pattern).files == sorted(expected)


def test_a_systems_second_separator_parts_names_too(tmp_path, monkeypatch):
    """Here as on Windows, whose two are the other way round."""
    monkeypatch.setattr(os, "altsep", "\\")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    assert files_matching(f"{tmp_path}\\clips\\*.mp4").files == [f"{tmp_path}/clips/a.mp4"]


@pytest.mark.parametrize("pattern", ["**", "**/*.jpg", "**/?/*.jpg"])
def test_a_pattern_does_not_follow_links_round_in_circles(tmp_path, pattern):
    """With two links to the top in each of four folders there are 8^40 paths before the system refuses the next."""
    for folder in "abcd":
        touch(tmp_path, f"{folder}/x.jpg")
        for link in ("up", "top"):
            (tmp_path / folder / link).symlink_to(tmp_path)
    expected = [f"{tmp_path}/{folder}/x.jpg" for folder in "abcd"]
    assert files_matching(f"{tmp_path}/{pattern}").files == expected
