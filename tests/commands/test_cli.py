"""What holds for all commands: help, exit status, outputs, and one sentence for every kind of bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes import grey_image
from said import CLASSES, lines, one_sentence

from unidual.app import main
from unidual.options import PROTOCOL_HELP
from unidual_zoo import __version__
from unidual_zoo.scoring import PROTOCOLS


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


def test_an_output_that_cannot_be_written_is_found_before_the_work(run, files, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr("unidual_zoo.inference.load_model", work)
    status, _, err = run("predict", files, "--json", files / "no/out.jsonl")
    assert status == 2
    assert "out.jsonl" in one_sentence(err)


def test_standard_output_is_not_a_file_named_by_a_dash(run, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("predict", files / "a.jpg", "--json", "-")
    assert status == 2
    assert "/dev/stdout" in one_sentence(err)
    assert not (tmp_path / "-").exists()


def test_an_error_leaves_the_output_of_before(run, model, files, tmp_path):
    (tmp_path / "out.jsonl").write_text("of before\n")
    assert run("predict", files / "a.jpg", "--model", "unidual11", "--json", tmp_path / "out.jsonl")[0] == 2
    assert (tmp_path / "out.jsonl").read_text() == "of before\n"
    assert run("predict", files / "a.jpg", "--model", model, "--json", tmp_path / "out.jsonl")[0] == 0
    assert len(lines(tmp_path / "out.jsonl")) == 1
    assert run("predict", files / "a.jpg", "--model", model, "--json", "/dev/null")[0] == 0  # it has no length


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


@pytest.mark.parametrize(
    ("command", "taken"),
    [("predict", True), ("evaluate", True), ("serve", True), ("explain", False), ("features", False), ("demo", False)],
)
def test_help_offers_exported_folders_where_they_are_taken(run, command, taken):
    text = " ".join(run(command, "--help")[1].split())
    assert ("a folder of `export`" in text or "As in predict" in text) == taken


def test_help_names_every_protocol():
    named = PROTOCOL_HELP.partition(": ")[2].rstrip(".").split(", ")
    assert [name.partition(" ")[0] for name in named] == list(PROTOCOLS)


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
