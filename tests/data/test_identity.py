"""Which samples are one: links, spellings of a path, entries of stacks, groups."""

import os
from pathlib import Path

import numpy as np
import pytest

from unidual_zoo.data.identity import bundles, check_one_label, identities


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    for name in ("d/a.jpg", "d/b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "link.jpg").symlink_to("d/a.jpg")
    (tmp_path / "folder").symlink_to("d")
    os.link(tmp_path / "d/b.jpg", tmp_path / "hard.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_that_lead_to_one_file_are_one(files):
    a = ["d/a.jpg", f"{files}/d/a.jpg", "link.jpg", "folder/a.jpg", "./d/../d//a.jpg"]
    b = ["d/b.jpg", "hard.jpg", "folder/b.jpg"]
    none = ["d/none.jpg", f"{files}/folder/none.jpg"]
    ids = identities([*a, *b, *none])
    assert [len(set(part)) for part in (ids[:5], ids[5:8], ids[8:])] == [1, 1, 1]
    assert len(set(ids)) == 3


def test_links_that_lead_nowhere_are_themselves(files):
    for name in ("x", "y"):
        Path(name).symlink_to(name)
    assert len(set(identities(["x", "y", "x", "\0"]))) == 3


def test_entries_of_a_stack_are_told_by_their_numbers(files):
    np.save("s.npy", np.zeros((3, 2, 2, 3), np.uint8))
    Path("t.npy").symlink_to("s.npy")
    ids = identities(["s.npy/00001", "s.npy/1", "t.npy/00001", "s.npy/00002"])
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]


def test_a_file_has_one_label():
    check_one_label("list", ["a", "b", "a"], ["cat", "dog", "cat"], [1, 2, 1])
    with pytest.raises(ValueError, match=r"^list: c has the labels 'cat' and 'dog'$"):
        check_one_label("list", ["a", "c", "c"], ["cat", "cat", "dog"], [1, 2, 2])
    with pytest.raises(
        ValueError, match=r"^list: a and x are one file with the labels 'cat' and 'cow'; 1 more have two$"
    ):
        check_one_label("list", ["a", "b", "a", "x", "b"], ["cat", "dog", "cat", "cow", "cat"], [1, 2, 1, 1, 2])


def test_bundles():
    assert bundles(["a", "b", "a", "c"]) == [0, 1, 0, 2]
    assert bundles(["a", "b", "c", "d", "e"], ["p", "", "q", "p", ""]) == [0, 1, 2, 0, 3]
    # b is in p and, by its second row, in q, so that p and q are one; a group named as a file is none
    assert bundles(["a", "b", "b", "c", "d", os.path.abspath("d")], ["p", "p", "q", "q", "", ""]) == [0, 0, 0, 0, 1, 1]
    assert bundles(["a", "b"], [os.path.abspath("b"), ""]) == [0, 1]
