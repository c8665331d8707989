"""`unidual predict` as a user meets it: an answer for every file, and what is said of those without one."""

import gc
import os
import signal
import sys
import warnings
from pathlib import Path

import pytest
from fakes import film, grey_image
from media import scene, write_sound
from pictures import png
from said import CLASSES, lines, one_sentence

from unidual_zoo import scoring
from unidual_zoo.data.datasets import load_sized_image
from unidual_zoo.data.media import MediaWarning


def test_predict_gives_a_line_for_every_file_in_order(run, model, files, tmp_path):
    out = tmp_path / "out.jsonl"
    named = files / "c.png"
    status, table, _ = run("predict", named, files, files / "*.jpg", "--model", model, "--top", 2, "--json", out)
    assert status == 0
    rows = lines(out)
    expected = [named, files / "a.jpg", files / "b.mp4", named, files / "deep/d.mkv", files / "a.jpg"]
    assert [row["file"] for row in rows] == [str(path) for path in expected]
    for row in rows:
        video = row["file"].endswith(("mp4", "mkv"))
        assert (row["modality"], row["task"]) == (("video", "acts") if video else ("image", "things"))
        assert [*row] == ["file", "modality", "task", "top"]
        assert len(row["top"]) == 2
        assert {entry["label"] for entry in row["top"]} <= set(CLASSES[row["task"]])
        assert f"{row['top'][0]['label']} {row['top'][0]['score']:.1%}" in table
    assert len(table.splitlines()) == len(rows)


def test_predict_names_every_bad_file_and_does_the_others(run, model, files, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.mp4").write_text("a text file called .mp4")
    write_sound(bad / "sound.mp4")
    whole = film(bad / "whole.mp4", scene(30)).read_bytes()
    (bad / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    jpeg = grey_image(bad / "good.jpg", 3, size=(300, 300)).read_bytes()
    (bad / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (bad / "zero.jpg").touch()
    (bad / "huge.png").write_bytes(png(20_000, 20_000, b""))
    out = tmp_path / "out.jsonl"
    named = [bad / "missing.jpg", tmp_path / "text.txt"]
    named[1].write_text("an odd extension is tried when it is named")
    status, table, err = run("predict", bad, *named, files, "--model", model, "--json", out)
    assert status == 1
    assert "8 of 14 files failed" in one_sentence(err)
    rows = lines(out)
    assert len(rows) == len(table.splitlines()) == 14
    failed = {Path(row["file"]).name: row["error"] for row in rows if "error" in row}
    assert failed.keys() == {
        "text.mp4", "sound.mp4", "cut.mp4", "half.jpg", "zero.jpg", "huge.png", "missing.jpg", "text.txt",
    }  # fmt: skip
    assert all([*row] == ["file", "error"] for row in rows if "error" in row)
    assert "no video stream" in failed["sound.mp4"]
    assert "0 bytes" in failed["zero.jpg"]
    assert "400,000,000 pixels" in failed["huge.png"]
    assert all("\n" not in error for error in failed.values())


@pytest.mark.filterwarnings("default")
def test_a_pattern_without_files_is_named_and_the_others_are_done(run, model, files, tmp_path):
    none = files / "*.gif"
    status, table, err = run("predict", none, files / "a.jpg", "--model", model, "--json", tmp_path / "out")
    assert status == 1
    told = [line for line in err.splitlines() if line.startswith("unidual: ")]
    assert told == [f"unidual: pattern {none} has no image or video in it", "unidual: 1 of 2 files failed"]
    assert table.startswith(f"{none}  error: there is no such file\n")
    assert ["error" in row for row in lines(tmp_path / "out")] == [True, False]


def load_and_warn(path, transform):
    warnings.warn(MediaWarning(path, "it ends early"), stacklevel=1)
    return load_sized_image(path, transform)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_warning_is_shown_once_and_stands_in_the_answer(run, model, files, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(scoring, "load_sized_image", load_and_warn)
    out = tmp_path / "out.jsonl"
    status, _, err = run("predict", files / "a.jpg", "--model", model, "--json", out, "--workers", workers)
    assert status == 0
    assert one_sentence(err) == f"unidual: {files / 'a.jpg'}: it ends early"
    assert lines(out)[0]["warning"] == "it ends early"


def load_and_die(path, transform):
    if path.endswith("c.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return load_sized_image(path, transform)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead process's socket
@pytest.mark.parametrize("command", [["predict", "{files}"], ["evaluate", "imagenet", "--data", "{list}"]])
def test_a_loader_process_that_dies_is_named_with_its_file(run, model, files, tmp_path, monkeypatch, command):
    monkeypatch.setattr(scoring, "load_sized_image", load_and_die)
    (tmp_path / "list.csv").write_text("files/a.jpg,bird\nfiles/c.png,cup\n")
    filled = [argument.format(files=files, list=tmp_path / "list.csv") for argument in command]
    status, _, err = run(*filled, "--model", model, "--workers", 1)
    assert status == 2
    assert one_sentence(err).endswith(f"it was reading {files / 'c.png'}")
    gc.collect()


def test_that_a_process_died_may_be_told_while_results_are_used(run, model, files, monkeypatch):
    """torch tells it in whichever line the program then is."""

    def write(*_, **__):
        raise RuntimeError(f"DataLoader worker (pid {os.getpid()}) is killed by signal: Killed.")

    monkeypatch.setattr("tqdm.tqdm.write", write)
    status, _, err = run("predict", files / "a.jpg", "--model", model)
    assert status == 2
    assert one_sentence(err).endswith(f"it was reading {files / 'a.jpg'}")


@pytest.mark.filterwarnings("default")
def test_what_is_left_out_of_a_folder_is_said_in_one_line(run, model, files):
    (files / "deep/photo.HEIC").touch()
    (files / "notes").touch()
    status, text, err = run("predict", files, "--model", model)
    assert (status, len(text.splitlines())) == (0, 4)
    assert one_sentence(err).endswith("by extension: 1 .heic, 1 with none")


def test_a_folder_is_no_name(run, model, files, tmp_path):
    (tmp_path / "run/export").mkdir(parents=True)
    (tmp_path / "run/export/config.json").touch()
    _, _, err = run("predict", files, "--model", tmp_path / "run")
    assert f"is a folder: write local-dir:{tmp_path / 'run/export'}" in one_sentence(err)
    _, _, err = run("predict", files, "--model", f"local-dir:{tmp_path / 'run'}")
    assert f"did you mean local-dir:{tmp_path / 'run/export'}?" in one_sentence(err)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("unidaul34_aux", "nearest: unidual34_aux"),
        ("r2plus1d18.tv_k40", "r2plus1d18.tv_k400"),
        ("resnet50", "no model 'resnet50'"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest_names(run, files, name, nearest):
    status, _, err = run("predict", files, "--model", name)
    assert status == 2
    assert nearest in one_sentence(err)


def test_a_model_without_weights_or_its_folder(run, files, tmp_path):
    status, _, err = run("predict", files, "--model", "r2d10_multitask")
    assert status == 2
    assert "weights" in one_sentence(err)
    status, _, err = run("predict", files, "--model", f"local-dir:{tmp_path}/none")
    assert status == 2
    assert "none" in one_sentence(err)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_name_that_is_not_text(run, model, tmp_path):
    odd = os.fsdecode(b"\xff\xe4.png")
    grey_image(tmp_path / "even.png", 2).rename(tmp_path / odd)
    out = tmp_path / "out.jsonl"
    status, table, _ = run("predict", tmp_path, "--model", model, "--json", out)
    assert status == 0
    assert os.fsdecode(b"\xff") not in table
    assert lines(out)[0]["file"] == str(tmp_path / odd)
