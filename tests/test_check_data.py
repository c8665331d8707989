"""`unidual check-data` as a user meets it, and its skip list given to the other commands."""

import json
import shutil

import numpy as np
import pytest
from fakes import grey_image
from PIL import Image

from unidual.app import main
from unidual_zoo.training.recipes import DataSettings
from unidual_zoo.training.sources import read_sources


@pytest.fixture
def data(tmp_path):
    """Two classes of two images each in two splits, one of them cut."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("train/a/1", "train/a/2", "train/b/1", "train/b/2", "val/a/1", "val/b/1")):
        path = tmp_path / f"data/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((80, 64)).save(path)
        if number == 1:
            path.write_bytes(path.read_bytes()[:900])
    return tmp_path / "data"


def test_it_prints_a_line_of_json_and_writes_what_skip_takes(data, tmp_path, capsys):
    out, kept = tmp_path / "out", tmp_path / "kept.json"
    shutil.copy(data / "train/b/1.png", data / "train/b/3.png")
    arguments = ["check-data", str(data), "--out", str(out), "--workers", "1", "--json", str(kept)]
    for _ in range(2):  # the second time from what is known
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 1
        printed = capsys.readouterr().out.splitlines()
        result = json.loads(printed[-1])
        assert (result["files"], result["truncated"], result["skipped"]) == (7, 1, 2)
        assert json.loads(kept.read_text()) == result
        assert printed[0].startswith("train/a/2.png: truncated: ")
        told = f"7 files, 7 images, {result['bytes']:,} bytes, 1 truncated, 1 group of exact duplicates, 2 skipped"
        assert printed[1] == told
    assert {path.name for path in out.iterdir()} == {"state.jsonl", "skip.txt", "report.json", "report.html"}

    settings = dict(tasks={"things": "image"}, data={"things": str(data)}, skip={"things": str(out / "skip.txt")})
    with pytest.warns(UserWarning, match="the skip list") as caught:
        train, test = read_sources(DataSettings(**settings), seed=0)
    assert [str(warning.message).partition(": ")[2] for warning in caught] == [
        "the skip list leaves out 2 of 5 files of its split 'train'",
        "the skip list leaves out 0 of 2 files of its split 'val'",
    ]
    assert (len(train["things"]), len(test["things"]), train["things"].classes) == (3, 2, ("a", "b"))


def test_bad_input_is_one_sentence(tmp_path, capsys):
    grey_image(tmp_path / "a.png", 1)
    for arguments, said in [
        (["check-data", str(tmp_path / "gone")], "no such file or folder"),
        (["check-data", str(tmp_path), "--workers", "0"], "workers must be 1 or more, got 0"),
        (["check-data", str(tmp_path), "--file-seconds", "-1"], "seconds for a file must be from 0"),
    ]:
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--out", str(tmp_path / "out")])
        assert end.value.code == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="task with a skip list 'other'"):
        DataSettings(tasks={"things": "image"}, skip={"other": "skip.txt"})
