"""The scripts of docs/examples run as they stand, on tiny folders; a library that is not installed skips its own."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from fakes import grey_image, grey_video

EXAMPLES = Path(__file__).parents[1] / "docs/examples"


@pytest.fixture
def folders(tmp_path):
    """photos/ and clips/, two classes of two files each."""
    for name, level in (("dark", 1), ("light", 4)):
        for number in range(2):
            grey_image(tmp_path / f"photos/{name}/{number}.png", level + number, size=(80, 70))
            grey_video(tmp_path / f"clips/{name}/{number}.mp4", [level] * 12, size=(80, 70))
    return str(tmp_path / "photos"), str(tmp_path / "clips")


@pytest.mark.parametrize(
    ("script", "library", "arguments", "said"),
    [
        ("dataloader.py", None, "{clips} --workers 0", r"step 0: loss \d"),
        ("hf_datasets.py", "datasets", "{photos} {clips}", r"images \(4, 3, 64, 64\) .*\nvideos \(4, 3, 8, 64, 64\)"),
        ("lightning_module.py", "lightning", "{photos} {clips}", r"2 steps, the last one's loss \d"),
    ],
)
@pytest.mark.filterwarnings("ignore:no weights for heads")  # the classes are the folders'
@pytest.mark.filterwarnings("ignore::Warning:(lightning|datasets|pytorch_lightning|torchmetrics|dill)")
def test_an_example_runs(script, library, arguments, said, folders, monkeypatch, capsys):
    if library is not None:
        pytest.importorskip(library)
    photos, clips = folders
    monkeypatch.setattr(sys, "argv", [script, *arguments.format(photos=photos, clips=clips).split()])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert re.search(said, capsys.readouterr().out)


def test_every_example_is_run():
    (cases,) = (mark.args[1] for mark in test_an_example_runs.pytestmark if mark.name == "parametrize")
    assert {case[0] for case in cases} == {path.name for path in EXAMPLES.glob("*.py")}
