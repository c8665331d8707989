"""Skip lists are read as they were written, whatever files are called, and data sets do without what they name."""

import os

import pytest
from fakes import grey_image

from unidual_zoo.data.datasets import read_media
from unidual_zoo.data.skipping import read_skip_list, relative_name, write_skip_list

NAMES = [
    "a/b.jpg",
    "#1.jpg",
    "tab\there.jpg",
    "two\nlines.jpg",
    "back\\slash\\n.jpg",
    " blank .jpg",
    "\udcff.jpg",
    "ü.jpg",
]


def test_every_name_comes_back(tmp_path):
    path = tmp_path / "skip.txt"
    write_skip_list(path, [(name, "it is\tcut\nshort") for name in NAMES], comments=["two\nlines"])
    text = path.read_text(errors="surrogateescape")
    assert len(text.splitlines()) == 1 + len(NAMES)
    assert text.startswith("# two lines\na/b.jpg\tit is cut short\n./#1.jpg\t")
    found = read_skip_list(path, tmp_path)
    assert found == {os.path.abspath(tmp_path / name): "it is cut short" for name in NAMES}


def test_names_are_relative_to_the_data(tmp_path):
    assert relative_name(tmp_path / "x/y.jpg", tmp_path) == os.path.join("x", "y.jpg")
    assert relative_name(tmp_path / "x/y.jpg", tmp_path / "data") == str(tmp_path / "x/y.jpg")
    with pytest.raises(ValueError, match="cannot be read"):
        read_skip_list(tmp_path / "none.txt", tmp_path)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_data_set_does_without_them_and_keeps_its_classes(tmp_path, as_list):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        grey_image(tmp_path / name, 1)
    source = tmp_path
    if as_list:
        source = tmp_path / "list.csv"
        source.write_text("cat/1.png,cat\ncat/2.png,cat\ndog/1.png,dog\n")
    skip = tmp_path / "out.txt"
    skip.write_text("# by hand\r\ncat/1.png\r\n./dog/1.png\tblank\r\nelse/1.png\r\n")
    with pytest.warns(UserWarning, match="the skip list leaves out 2 of 3 files$"):
        media = read_media(source, modality="image", skip=skip)
    assert [os.path.relpath(file, tmp_path) for file in media.files] == ["cat/2.png"]
    assert media.classes == ("cat", "dog")
