"""Files that a network has learnt from are known again, and others are not."""

import pytest
from fakes import grey_image

from unidual_zoo.data import MediaSet, learnt, read_media
from unidual_zoo.data.learnt import count_learnt, fingerprint, read_learnt, write_learnt
from unidual_zoo.data.packing import Packing, pack


def test_files_are_known_by_their_bytes(tmp_path, monkeypatch):
    long = bytes(range(256)) * 1024  # 256 KiB
    contents = {"a": b"one", "b": b"two", "c": long, "d": long[:-1] + b"!", "e": b"!" + long[1:], "f": long + long}
    files = {name: str(tmp_path / name) for name in contents}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/other.jpg").write_bytes(b"two")
    write_learnt([files["a"], files["b"], files["c"], str(tmp_path / "absent")], tmp_path / "learnt")
    others = [*(files[name] for name in "def"), str(tmp_path / "absent"), "http://127.0.0.1:9/a.tar/000000000000.png"]
    assert count_learnt(others, tmp_path / "learnt") == 0
    assert count_learnt([*others, str(tmp_path / "moved/other.jpg"), files["c"]], tmp_path / "learnt") == 2
    assert count_learnt([files["a"]], tmp_path / "none") == 0
    write_learnt([files["d"]], tmp_path / "again", before=read_learnt(tmp_path / "learnt"))
    assert [count_learnt([files[name]], tmp_path / "again") for name in "abcde"] == [1, 1, 1, 1, 0]
    monkeypatch.setattr(learnt, "MOST", 2)
    write_learnt([files[name] for name in "abcd"], tmp_path / "learnt")
    assert [count_learnt([files[name]], tmp_path / "learnt") for name in "abcd"] == [1, 0, 1, 0]


@pytest.mark.parametrize("text", ['{"fingerprints": ["", 1, null, "0123456789abcdef"]}', "[" * 100_000])
def test_what_is_no_fingerprint_ends_no_training(text, tmp_path):
    """The list of the network before it is read when all is learnt."""
    (tmp_path / "before").write_text(text)
    write_learnt([], tmp_path / "learnt", before=read_learnt(tmp_path / "before"))
    assert read_learnt(tmp_path / "learnt") == ({"0123456789abcdef"} if "0123" in text else set())


def test_a_packed_file_is_the_file(tmp_path):
    picture = str(grey_image(tmp_path / "a.png", 1))
    list(pack({"": MediaSet("image", ("grey",), (picture,), (0,))}, tmp_path / "out", Packing()))
    (packed,) = read_media(tmp_path / "out", modality="image").files
    assert fingerprint(packed) == fingerprint(picture) is not None
