"""The command line as a user meets it: results, exit status, and one sentence for every kind of bad input."""

import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from fakes import SIDE, film, grey_image, grey_video
from media import scene, write_sound
from pictures import png

from unidual.app import main
from unidual_zoo import __version__, scoring
from unidual_zoo.data.datasets import load_sized_image
from unidual_zoo.data.media import MediaWarning
from unidual_zoo.spec import ClipSpec, InputSpec

TASKS = {"things": ("image", 3), "acts": ("video", 2)}
CLASSES = {"things": ("bird", "cup", "key"), "acts": ("falling", "turning")}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny dual network in a folder, as `--model` takes it."""
    torch.manual_seed(0)
    spec = InputSpec(resize=SIDE, crop=(SIDE, SIDE), clip=ClipSpec(length=2), classes=CLASSES)
    network = timm.create_model("unidual10", tasks=TASKS, spec=spec, width=1 / 16)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return f"local-dir:{folder}"


@pytest.fixture
def run(capsys):
    """Runs a command line -> (exit status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture
def files(tmp_path):
    """A folder with two videos and two images."""
    grey_video(tmp_path / "files/b.mp4", [1, 2, 3])
    grey_video(tmp_path / "files/deep/d.mkv", [0, 5], size=(48, 32))
    grey_image(tmp_path / "files/a.jpg", 3, size=(40, 36))
    grey_image(tmp_path / "files/c.png", 2)
    return tmp_path / "files"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def one_sentence(err: str) -> str:
    """The error that a command ended with: one line from this program and no traceback."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("unidual: ")]
    return line


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [["predict", "{files}/a.jpg"], ["models", "r2plus1d18"]])
def test_a_full_disk_is_named(run, model, files, command):
    command = [argument.format(files=files) for argument in command]
    named = ["--model", model] if command[0] == "predict" else []
    status, _, err = run(*command, *named, "--json", "/dev/full")
    assert status == 2
    assert one_sentence(err) == "unidual: [Errno 28] No space left on device: '/dev/full'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "{files}/empty"], "folder {files}/empty has no image or video in it"),
        (["predict", "{files}/*.gif"], "pattern {files}/*.gif has no image or video in it"),
        (["predict", "{files}", "--json", "{files}/no/out.jsonl"], "{files}/no/out.jsonl"),
        (["predict", "{files}", "--json", "{files}"], "{files}"),
        (["predict", "{files}", "--task", "acting"], "task 'acting' has no head on the image pathway, allowed: things"),
        (["predict", "{files}", "--protocol", "unidual35"], "no protocol 'unidual35', allowed: unidual34"),
        (["predict", "{files}", "--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["predict", "{files}", "--dtype", "int8"], "no dtype 'int8', allowed: float32"),
        (["predict", "{files}", "--batch-size", "0"], "needs batch_size >= 1"),
        (["predict", "{files}", "--top", "0"], "top must be 1 or more"),
        (["predict", "{files}", "--checkpoint", "{files}/none.pth"], "no file of weights {files}/none.pth"),
        (
            ["evaluate", "kinetix"],
            "no folder or list kinetix, and no benchmark of that name (they are kinetics, imagenet, sports1m)",
        ),
        (["evaluate", "kinetics", "imagenet"], "benchmark 'kinetics' stands alone"),
        (["evaluate", "{files}", "--modality", "sound"], "no modality 'sound', allowed: image, video"),
        (["evaluate", "kinetics", "--data", "{files}/none"], "{files}/none"),
        (["evaluate", "kinetics", "--data", "{files}/empty"], "{files}/empty"),
        (["evaluate", "imagenet", "--data", "{files}", "--pathway", "audio"], "no 'audio' pathway"),
        (["evaluate", "imagenet", "--json", "{files}/no/out.json"], "{files}/no/out.json"),
        (["evaluate", "imagenet", "--report", "{files}/no/page.html"], "no folder {files}/no for the report"),
    ],
)
def test_bad_input_ends_in_one_sentence(run, model, files, arguments, message):
    (files / "empty").mkdir()
    grey_image(files / "bird/a.png", 1)
    (files / "deep/d.mkv").unlink()
    (files / "deep").rmdir()
    if "--data" in arguments and str(arguments[3]) == "{files}":
        (files / "empty").rmdir()
    filled = [argument.format(files=files) for argument in arguments]
    status, out, err = run(*filled, "--model", model)
    assert status == 2
    assert out == ""
    assert message.format(files=files) in one_sentence(err)


@pytest.mark.filterwarnings("default")
def test_what_is_left_out_of_a_folder_is_said_in_one_line(run, model, files):
    (files / "deep/photo.HEIC").touch()
    (files / "notes").touch()
    status, text, err = run("predict", files, "--model", model)
    assert (status, len(text.splitlines())) == (0, 4)
    assert one_sentence(err).endswith("left out what is no image or video by its extension: .heic 1, none 1")


def test_an_output_that_cannot_be_written_is_found_before_the_work(run, files, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr("unidual_zoo.inference.load_model", work)
    status, _, err = run("predict", files, "--json", files / "no/out.jsonl")
    assert status == 2
    assert "out.jsonl" in one_sentence(err)


def test_an_error_leaves_the_output_of_before(run, model, files, tmp_path):
    (tmp_path / "out.jsonl").write_text("of before\n")
    assert run("predict", files / "a.jpg", "--model", "unidual11", "--json", tmp_path / "out.jsonl")[0] == 2
    assert (tmp_path / "out.jsonl").read_text() == "of before\n"
    assert run("predict", files / "a.jpg", "--model", model, "--json", tmp_path / "out.jsonl")[0] == 0
    assert len(lines(tmp_path / "out.jsonl")) == 1
    assert run("predict", files / "a.jpg", "--model", model, "--json", "/dev/null")[0] == 0  # it has no length


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


@pytest.fixture
def data(tmp_path):
    """Folders split/class/file of both modalities."""
    for number, name in enumerate(CLASSES["acts"]):
        for copy in range(2):
            grey_video(tmp_path / f"acts/val/{name}/{copy}.mp4", [number, 3, copy])
    for number, name in enumerate(CLASSES["things"]):
        grey_image(tmp_path / f"things/test/{name}/0.png", number)
    (tmp_path / "acts/val/falling/torn.mp4").write_text("torn")
    return tmp_path


def test_evaluate_ends_in_one_line_of_json(run, model, data):
    out = data / "report.json"
    status, text, err = run("evaluate", "kinetics", "--model", model, "--data", data / "acts", "--json", out)
    assert status == 0
    assert "Traceback" not in err
    row = json.loads(text.splitlines()[-1])
    assert lines(out) == [row]
    assert {"clip@1", "video@1"} <= row.keys()
    assert (row["listed"], row["decoded"], row["failed"]) == (5, 4, 1)
    assert row["failures"][0]["file"].endswith("torn.mp4")
    assert (row["model"], row["saved_as"]) == ("unidual10", model)
    assert (row["benchmark"], row["protocol"], row["task"], row["clips"]) == ("kinetics", "unidual34", "acts", 10)
    assert row["data"] == f"{data / 'acts'}, val"
    assert "video@1" in text.splitlines()[1]

    status, text, _ = run("evaluate", "imagenet", "--model", model, "--data", data / "things", "--dtype", "bfloat16")
    assert status == 0
    row = json.loads(text.splitlines()[-1])
    assert "top-1" in row
    assert (row["dtype"], row["listed"], row["labels"]) == ("bfloat16", 3, "by name")


def test_evaluate_sees_what_its_sources_hold(run, model, data):
    out = data / "reports.json"
    page = data / "page.html"
    options = ("--model", model, "--json", out, "--report", page)
    status, text, _ = run("evaluate", data / "things", data / "acts", *options)
    assert status == 0
    shown = page.read_text(encoding="utf-8")
    assert all(title in shown for title in (f"{data / 'things'}, test: images", f"{data / 'acts'}, val: videos"))
    assert shown.count("data:image/jpeg") == 7  # of 8 files one is torn
    assert [(row["modality"], row["task"], row["listed"]) for row in lines(out)] == [
        ("image", "things", 3), ("video", "acts", 5),
    ]  # fmt: skip
    assert json.loads(text.splitlines()[-1]) == lines(out)[1]
    assert lines(out)[0]["data"] == f"{data / 'things'}, test"
    rows = [f"{file},{file.parent.name}" for file in sorted(data.glob("*/*/*/?.*"))]
    (data / "both.csv").write_text("\n".join(rows))
    run("evaluate", data / "both.csv", "--model", model, "--json", out)
    assert [(row["modality"], row["listed"]) for row in lines(out)] == [("image", 3), ("video", 4)]
    run("evaluate", data / "both.csv", "--model", model, "--modality", "video", "--json", out)
    assert [row["listed"] for row in lines(out)] == [4]


def test_packed_files_are_evaluated_as_they_were(run, model, data):
    (data / "acts/val/falling/torn.mp4").write_text("")
    status, text, err = run("pack", data / "acts", data / "shards", "--per-shard", 2, "--json", data / "packed.json")
    assert status == 1  # torn.mp4 is empty
    assert "left out" in err
    (row,) = lines(data / "packed.json")
    assert json.loads(text.splitlines()[-1]) == row
    assert row["splits"]["val"]["files"] == 4
    assert (row["failed"], row["failures"][0]["error"]) == (1, "it is empty (0 bytes)")
    (data / "acts/val/falling/torn.mp4").unlink()
    for source in (data / "acts", data / "shards"):
        run("evaluate", "kinetics", "--data", source, "--model", model, "--json", data / f"{source.name}.json")
    plain, packed = (lines(data / f"{name}.json")[0] for name in ("acts", "shards"))
    assert {name for name in plain if plain[name] != packed[name]} <= {"data", "seconds", "views_per_second"}


def test_a_layout_is_named(run, model, data):
    os.rename(data / "acts/val/falling", data / "acts/val/falling_")  # which Kinetics' layout takes for a blank
    out = data / "report.json"
    run("evaluate", "kinetics", "--data", data / "acts", "--layout", "kinetics", "--model", model, "--json", out)
    run("evaluate", data / "acts", "--layout", "kinetics", "--split", "val", "--model", model, "--json", out)
    assert [(row["listed"], row["labels"]) for row in lines(out)] == [(5, "by name")]
    for options, message in (
        (["kinetics", "--layout", "kinetics"], "layout 'kinetics' is that of files: say where they are with --data"),
        ([data / "acts", "--layout", "kinetix"], "no layout 'kinetix', allowed: shards, ssv2"),
    ):
        status, _, err = run("evaluate", *options, "--model", model)
        assert (status, message in one_sentence(err)) == (2, True)


def test_evaluate_of_nothing_but_broken_files_fails(run, model, data):
    (data / "list.csv").write_text("none/0.png,bird\nnone/1.png,cup\n")
    status, text, err = run("evaluate", "imagenet", "--model", model, "--data", data / "list.csv")
    assert status == 1
    assert json.loads(text.splitlines()[-1])["failed"] == 2
    assert "not one file could be read and scored: there is no such file" in err


@pytest.mark.parametrize("one_list", [True, False])
def test_evaluate_takes_the_test_rows_of_lists(run, model, data, one_list):
    rows = [f"{file},{file.parent.name}" for file in sorted((data / "acts/val").rglob("?.mp4"))]
    if one_list:
        (data / "list.csv").write_text("\n".join(["path,label,split", *(f"{row},{'val' if i else 'train'}"
                                                                       for i, row in enumerate(rows))]))  # fmt: skip
        source = data / "list.csv"
    else:
        source = data / "lists"
        source.mkdir()
        (source / "train.csv").write_text(rows[0])
        (source / "val.csv").write_text("\n".join(rows[1:]))
    status, text, _ = run("evaluate", "kinetics", "--model", model, "--data", source)
    assert status == 0
    row = json.loads(text.splitlines()[-1])
    assert (row["listed"], row["data"]) == (3, f"{source}, val")


def test_evaluate_refuses_the_classes_of_another_task(run, model, data):
    (data / "acts/val/falling").rename(data / "acts/val/fallling")
    status, _, err = run("evaluate", "kinetics", "--model", model, "--data", data / "acts")
    assert status == 2
    assert "'fallling', nearest: 'falling'" in one_sentence(err)


def test_models_as_text_markdown_and_json(run, tmp_path):
    out = tmp_path / "models.jsonl"
    status, text, _ = run("models", "unidual34*", "--json", out)
    assert status == 0
    header, *rows = text.splitlines()
    assert header.split() == ["name", "tasks", "M", "weights", "G", "image", "G", "clip", "weights", "licence"]
    assert {row.split()[0].partition(".")[0] for row in rows} == {"unidual34", "unidual34_aux"}
    assert rows[0].split() == ["unidual34", "in1k", "k400", "69.8", "8.81", "38.1", "none", "-"]
    assert [row["parameters"] for row in lines(out) if row["tag"] is None] == [69_766_575, 70_484_775]
    assert lines(out)[0]["multiply_adds"]["video"] == pytest.approx(38.09e9, rel=1e-3)
    assert lines(out)[0]["tasks"] == {"in1k": ["image", 1000], "k400": ["video", 400]}

    status, text, _ = run("models", "*18*", "--markdown")
    assert text.splitlines()[0].startswith("| name ")
    assert set(text.splitlines()[1]) == {"|", " ", "-"}
    cells = [cell.strip() for cell in text.splitlines()[3].split("|")[1:-1]]
    assert cells == [
        "r2plus1d18", "tv_k400", "k400 400", "31,505,325", "video 40.519 G", "download.pytorch.org", "bsd-3-clause",
    ]  # fmt: skip
    status, _, err = run("models", "unidaul")
    assert status == 2
    assert "no model matches 'unidaul', nearest: unidual" in one_sentence(err)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_a_name_that_is_not_text(run, model, tmp_path):
    odd = os.fsdecode(b"\xff\xe4.png")
    grey_image(tmp_path / "even.png", 2).rename(tmp_path / odd)
    out = tmp_path / "out.jsonl"
    status, table, _ = run("predict", tmp_path, "--model", model, "--json", out)
    assert status == 0
    assert os.fsdecode(b"\xff") not in table
    assert lines(out)[0]["file"] == str(tmp_path / odd)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such file names")
@pytest.mark.filterwarnings("default")
def test_names_of_files_do_not_act_on_the_terminal(run, model, tmp_path):
    folder = tmp_path / "data\x1b[2J"
    for number, name in enumerate(CLASSES["things"]):
        grey_image(folder / f"val/{name}/a\n\x1b]0;owned\x07{number}.png", number)
    (folder / "val/bird/torn\n\x9b31m.png").write_text("torn")
    (folder / "val/bird/no\x1b[31mtes.t\x1bxt").touch()
    seen = [run("predict", folder, "--model", model), run("evaluate", "imagenet", "--model", model, "--data", folder)]
    seen += [run("predict", folder / "none*", "--model", model)]
    assert [status for status, _, _ in seen] == [1, 0, 2]
    for _, out, err in seen:
        assert not {"\x1b", "\x07", "\x9b"} & set(out + err)
    table = seen[0][1].splitlines()
    assert len(table) == 4  # one line a file
    assert r"a\n\x1b]0;owned\x070.png" in table[0]
    first, torn = table[0], next(line for line in table if "torn" in line)
    assert first.index("0.png  ") + len("0.png") <= torn.index("  error: ")  # columns of what is shown
    assert rf"failed: {tmp_path}/data\x1b[2J/val/bird/torn\n\x9b31m.png: " in seen[1][1]
    assert rf"pattern {tmp_path}/data\x1b[2J/none* has no image" in one_sentence(seen[2][2])


@pytest.mark.parametrize("command", ["predict", "evaluate", "models"])
def test_help(run, command):
    status, text, _ = run(command, "--help")
    assert status == 0
    assert f"unidual {command}" in text


def test_usage_errors(run):
    assert run("predict")[0] == 2
    assert run("dance")[0] == 2
    assert run("predict", "a.jpg", "--topp", "3")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["--version"], 0), (["predict", "--help"], 0), (["predict", "--topp"], 2), (["dance"], 2)],
)
def test_help_and_wrong_arguments_are_answered_without_torch(arguments, status):
    program = "import sys, unidual.app\ntry:\n unidual.app.main(sys.argv[1:])\nfinally:\n print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert not {"torch", "timm", "numpy", "unidual_zoo"} & {*done.stdout.split("\n")[-2].split()}


def test_version(run):
    assert run("--version")[:2] == (0, f"unidual-zoo {__version__}\n")


def test_control_c_ends_without_a_traceback(run, files, model, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("unidual_zoo.inference.load_model", interrupted)
    status, _, err = run("predict", files, "--model", model)
    assert status not in (0, None)
    assert "Traceback" not in err


def test_traceback_shows_where_an_error_came_from(files):
    with pytest.raises(ValueError, match="no model"):
        main(["--traceback", "predict", str(files), "--model", "none"])


def test_arguments_default_to_the_process_own(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unidual", "models", "r2plus1d18"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "tv_k400" in capsys.readouterr().out
