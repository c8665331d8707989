"""The benchmark scripts: with no argument on the embedded data, and with options on given data."""

import ast
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import timm
import torch
from fakes import SIDE, grey_image, grey_video

from unidual_zoo.data.datasets import read_media
from unidual_zoo.data.synthetic import toy
from unidual_zoo.models.summary import registered_names
from unidual_zoo.spec import ClipSpec, InputSpec

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = {"kinetics": "video", "imagenet": "image", "sports1m": "video"}
OPTIONS = ["--model", "--data", "--split", "--protocol", "--batch-size", "--workers", "--device", "--dtype", "--json"]
FACTS = {"protocol", "model", "decoder", "stored_size", "listed", "decoded", "failed", "failures"}
METRICS = {"video": {"clip@1", "video@1"}, "image": {"top-1"}}  # of few classes


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a script as a program -> (exit status, standard output, standard error)."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """Tiny stand-ins for the embedded data and for the shipped checkpoint; the splits that were asked for."""
    asked = []
    for number, name in enumerate(("falling", "turning")):
        grey_video(tmp_path / f"videos/test/{name}/0.mp4", [number] * 3)
        grey_image(tmp_path / f"images/test/{name}/0.png", number)

    def media(modality):
        def read(split):
            asked.append((modality, split))
            return read_media(tmp_path / f"{modality}s", modality=modality, split=split)

        return read

    spec = InputSpec(resize=SIDE, crop=(SIDE, SIDE), clip=ClipSpec(length=2))
    create = timm.create_model

    def shipped(name, pretrained=False, **_):
        assert (name, pretrained) == ("unidual10_aux.toy", True)
        torch.manual_seed(0)
        return create("unidual10_aux", tasks={"things": ("image", 2), "acts": ("video", 2)}, spec=spec, width=1 / 16)

    monkeypatch.setattr(timm, "create_model", shipped)
    monkeypatch.setattr(toy, "videos", media("video"))
    monkeypatch.setattr(toy, "images", media("image"))
    return asked


@pytest.mark.parametrize(("name", "modality"), SCRIPTS.items())
def test_a_script_runs_with_no_argument(run, embedded, name, modality):
    status, out, err = run(name)
    assert status == 0, err
    assert embedded == [(modality, "test")]
    assert "embedded" in err
    row = json.loads(out.splitlines()[-1])
    assert METRICS[modality] | FACTS <= row.keys()
    assert (row["benchmark"], row["model"], row["listed"]) == (name, "unidual10_aux", 2)
    assert row["data"] == f"embedded {modality}s, test"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_examples_name_models_that_there_are(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    named = re.findall(r"--model (\S+)", text)
    assert named
    assert {model for model in named if ":" not in model} <= set(registered_names())
    assert all("." in model for model in re.findall(r"--model (\S+) --checkpoint", text)), "tasks are those of a tag"


def test_sports1m_says_that_its_data_are_not_here(run, embedded):
    assert "nothing of Sports-1M" in run("sports1m")[2]
    assert "nothing of" not in run("kinetics")[2]


def test_options_reach_the_evaluation(run, embedded, tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\nvideos/test/falling/0.mp4,falling\nvideos/test/turning/0.mp4,turning\n")
    out = tmp_path / "report.json"
    arguments = dict(
        data=listing, protocol="unidual152", batch_size=7, workers=1, device="cpu", dtype="bfloat16", json=out
    )
    status, text, err = run("kinetics", *(f"--{key.replace('_', '-')}={value}" for key, value in arguments.items()))
    assert status == 0, err
    assert embedded == []
    row = json.loads(text.splitlines()[-1])
    assert json.loads(out.read_text()) == row
    expected = dict(
        data=str(listing), protocol="unidual152", crops=3, batch_size=7, workers=1, device="cpu", dtype="bfloat16"
    )
    assert {key: row[key] for key in expected} == expected


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_the_options_and_the_docstring_says_how_to_run(run, name):
    status, out, _ = run(name, "-h")
    assert status == 0
    assert f"Usage: benchmarks/{name}.py [OPTIONS]" in out
    assert all(option in out for option in OPTIONS)
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert docstring is not None
    assert f"uv run benchmarks/{name}.py" in docstring
