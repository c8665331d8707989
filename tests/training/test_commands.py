"""`unidual train` and `unidual finetune`, from the command line to a folder that timm and `predict` load."""

import csv
import json
import os
import shutil
import sys

import matplotlib
import numpy as np
import pytest
import timm
from matplotlib.figure import Figure
from tiny import CLASSES, SETTINGS
from typer.testing import CliRunner

from unidual.app import app
from unidual_zoo.data.datasets import read_media
from unidual_zoo.data.learnt import count_learnt
from unidual_zoo.evaluation import FileResult, Report
from unidual_zoo.training.plots import curve_pictures, plot_confusion, plot_curves
from unidual_zoo.training.recipes import RECIPES, ModelSettings
from unidual_zoo.training.rundir import LAST
from unidual_zoo.training.trainer import learnt_before, write_predictions

QUICK = [setting for setting in SETTINGS if not setting.startswith(("tasks", "epochs"))] + [
    "pretrained=false",
    "epochs=1",
]


def unidual(*arguments, settings=()):
    """Runs a command; the JSON object of its last line."""
    options = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, [*map(str, arguments), *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_train(media, tmp_path):
    data = ["--data", f"pictures={media / 'pictures'}", "--data", f"films={media / 'films'}"]
    settings = (*SETTINGS, "epochs=1")
    result = unidual("train", "mini", *data, "--out", tmp_path / "run", settings=settings)
    listed = read_media(tmp_path / "run/predictions-films.csv", modality="video")
    assert (len(listed), listed.classes) == (4, CLASSES)
    assert result["out"] == str(tmp_path / "run")
    assert result["scores"].keys() == {"pictures", "films"}
    assert result["scores"]["films"].keys() == {"clip@1", "video@1"}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ((), "stopped before the first checkpoint: this command or a corrected one may begin in {}"),
        ((LAST,), "stopped: the same command with --resume goes on in {}, another --out"),
        (("notes.txt",), "stopped: the same command with --resume goes on in {}, another --out"),
    ],
)
def test_control_c_says_how_the_run_goes_on(media, tmp_path, monkeypatch, written, told):
    def interrupted(*_, out, **__):
        out.mkdir()
        for name in written:
            (out / name).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("unidual_zoo.training.trainer.train", interrupted)
    settings = [part for setting in QUICK for part in ("--set", setting)]
    options = ["--images", str(media / "pictures"), "--model", "unidual10", "--out", str(tmp_path / "run"), *settings]
    result = CliRunner().invoke(app, ["finetune", *options])
    assert result.exit_code not in (0, 2)
    assert told.format(tmp_path / "run") in result.stderr


def test_what_a_directory_holds_is_said_before_anything_else(media, tmp_path, monkeypatch):
    """A run there is neither begun anew nor, once it is finished, gone on with; another `publish` is published."""
    options = ["--images", media / "pictures", "--model", "unidual10", "--out", tmp_path]
    result = unidual("finetune", *options, settings=QUICK)

    def invoke(*more):
        settings = [part for setting in QUICK for part in ("--set", setting)]
        return CliRunner().invoke(app, ["finetune", *map(str, options), *settings, *more])

    shutil.copytree(media / "pictures/val", tmp_path / "others")
    shutil.copy(media / "pictures/train/circle/3.png", tmp_path / "others/circle/renamed.png")
    rows = []
    for source in (media / "pictures/train", tmp_path / "others", media / "pictures/val"):
        evaluated = CliRunner().invoke(app, ["evaluate", str(source), "--model", f"local-dir:{tmp_path / 'export'}"])
        rows.append((json.loads(evaluated.stdout.splitlines()[-1]).get("in_training"), "trained" in evaluated.stderr))
    assert rows == [(10, True), (1, True), (None, False)]

    used = invoke()
    assert isinstance(used.exception, RuntimeError)
    assert (used.output, str(used.exception).startswith(f"{tmp_path} holds a run already: go on with")) == ("", True)
    with pytest.raises(RuntimeError, match="holds a run already"):
        unidual("train", "mini", "--data", f"pictures={tmp_path}", "--out", tmp_path, settings=SETTINGS)

    class Begun(Exception):
        pass

    def begin(*_, **__):
        raise Begun

    monkeypatch.setattr("unidual_zoo.training.trainer.train", begin)
    finished = invoke("--resume")
    assert finished.exit_code == 0
    assert finished.stderr == (
        f"unidual: {tmp_path} is finished (1 of 1 epoch): its network is local-dir:{tmp_path / 'export'}, its report "
        f"{tmp_path / 'report.html'}; to learn from files added since, take another --out\n"
    )
    assert json.loads(finished.stdout) == result
    for more in (["--set", "eval_every=1", "--set", "publish=best"], ["--set", "epochs=2"]):
        resumed = invoke("--resume", *more)
        assert isinstance(resumed.exception, Begun)
        assert resumed.output == ""  # the plan was told when the run began
    (tmp_path / "log.jsonl").write_text("".join((tmp_path / "log.jsonl").read_text().splitlines(True)[:-1]))
    assert isinstance(invoke("--resume").exception, Begun)


def test_train_with_test_files_elsewhere(media, tmp_path):
    folder = media / "pictures"
    data = ["--data", f"pictures={folder / 'train'}", "--test", f"pictures={folder / 'val'}"]
    settings = (*SETTINGS, "tasks=pictures:image", "epochs=1")
    result = unidual("train", "mini", *data, "--freeze-norms", "--out", tmp_path, settings=settings)
    assert "top-1" in result["scores"]["pictures"]
    assert json.loads((tmp_path / "recipe.json").read_text())["freeze_norms"] is True


def test_a_task_with_a_teacher_says_what_becomes_of_its_labels(media, tmp_path, monkeypatch):
    monkeypatch.setattr("unidual_zoo.training.trainer.train", lambda *args, **kwargs: {})
    options = ["--data", f"films={media / 'films'}", "--set", "tasks=films:video", "--set", "teachers=films:resnet18"]
    result = CliRunner().invoke(app, ["train", "mini", *options, "--out", str(tmp_path)])
    assert "films is learnt from resnet18: labels and folder names of its files are not used" in result.stderr
    for number, (given, told) in enumerate(
        (
            (
                ("--videos", "films"),
                "no heads are fitted before the first step: every task is learnt from a teacher, none",
            ),
            (("--videos", "films", "--images", "photos"), "first, heads of images are fitted to the training files by"),
        )
    ):
        teachers = ["--set", "teachers=videos:resnet18", "--out", str(tmp_path / str(number))]
        result = CliRunner().invoke(app, ["finetune", *given, "--model", "unidual10_aux", *teachers])
        assert (told in result.stderr, result.stderr.count("fitted")) == (True, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "papr-34"], "no recipe 'papr-34', allowed: .*did you mean 'paper-34'"),
        (["train", "mini", "--data", "k500=x"], "no task 'k500', allowed: .*did you mean 'k400'"),
        (["train", "mini", "--data", "k400"], "needs TASK=FOLDER, got 'k400'"),
        (["train", "mini", "--set", "lrr=1"], r"no setting 'lrr', the nearest of \d+: lr, "),
        (["finetune"], "--images, --videos or both"),
    ],
)
def test_bad_command_lines(arguments, message):
    with pytest.raises(ValueError, match=message):
        unidual(*arguments)


@pytest.mark.parametrize("kinds", [("images",), ("videos",), ("images", "videos")])
def test_finetune(media, tmp_path, kinds):
    folders = {"images": media / "pictures", "videos": media / "films"}
    given = [part for kind in kinds for part in (f"--{kind}", folders[kind])]
    result = unidual("finetune", *given, "--model", "unidual10_aux", "--freeze", 1, "--out", tmp_path, settings=QUICK)
    assert set(result["scores"]) == set(kinds)
    written = {"curves.png", "report.html", *(f"confusion-{kind}.png" for kind in kinds)}
    assert {file.name for file in tmp_path.iterdir()} >= written
    model = timm.create_model(f"local-dir:{result['export']}", pretrained=True)
    assert {name: task.num_classes for name, task in model.tasks.items()} == dict.fromkeys(kinds, 2)
    assert all(model.spec.class_names(kind) == CLASSES for kind in kinds)
    assert json.loads((tmp_path / "recipe.json").read_text())["freeze"] == 1

    files = [str(next((folders[kind] / "val").rglob("*.*"))) for kind in kinds]
    options = ("--model", f"local-dir:{result['export']}", "--json", str(tmp_path / "labels"))
    assert CliRunner().invoke(app, ["predict", *files, *options]).exit_code == 0
    labels = [json.loads(line) for line in (tmp_path / "labels").read_text().splitlines()]
    assert [(line["file"], line["task"]) for line in labels] == list(zip(files, kinds, strict=True))
    assert all({entry["label"] for entry in line["top"]} == set(CLASSES) for line in labels)


def test_finetune_from_a_list_and_from_a_fine_tuned_network(media, tmp_path):
    files = sorted((media / "films" / "train").rglob("*.avi"))
    rows = [f'"{file}","a {file.parent.name}, or so"' for file in files]
    (tmp_path / "films.csv").write_text("\n".join(rows))
    first = unidual(
        "finetune", "--videos", tmp_path / "films.csv", "--model", "unidual10", "--out", tmp_path / "1", settings=QUICK
    )
    model = timm.create_model(f"local-dir:{first['export']}", pretrained=True)
    assert model.spec.class_names("videos") == ("a circle, or so", "a square, or so")

    again = [setting for setting in QUICK if not setting.startswith(("pretrained", "model_args"))]
    second = unidual(
        "finetune", "--images", media / "pictures", "--model", f"local-dir:{first['export']}", "--out", tmp_path / "2",
        settings=[*again, "lr=0", "weight_decay=0", "freeze_norms=true"],
    )  # fmt: skip
    tuned = timm.create_model(f"local-dir:{second['export']}", pretrained=True)
    assert tuned.stem.spatial.weight.equal(model.stem.spatial.weight)
    assert list(tuned.tasks) == ["images"]
    pictures = list(map(str, (media / "pictures/train").rglob("*.png")))
    for number, learnt in ((1, [0, 8]), (2, [10, 8])):
        known = tmp_path / f"{number}/export/learnt_from.json"
        assert [count_learnt(pictures, known), count_learnt(list(map(str, files)), known)] == learnt
    starts = [{"init": str(tmp_path / "2")}, {"pretrained": True}, {"pretrained": False}, {"model": "unidual10"}]
    settings = [
        ModelSettings(**{"model": f"local-dir:{first['export']}", "pretrained": True} | start) for start in starts
    ]
    assert [len(learnt_before(start)) for start in settings] == [18, 8, 0, 0]


def test_finetune_says_what_it_does_and_what_came_of_it(media, tmp_path, pictures):
    shutil.copytree(media / "films", tmp_path / "films")
    (tmp_path / "films/train/square/0.avi").unlink()
    (tmp_path / "films/val/square/copy.avi").write_bytes((tmp_path / "films/train/square/1.avi").read_bytes())
    options = ["--videos", tmp_path / "films", "--model", "unidual10", "--out", tmp_path / "run"]
    settings = [part for setting in QUICK for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["finetune", *map(str, [*options, *settings])])
    assert result.exit_code == 0, result.output
    told = result.stderr.splitlines()
    assert "9 training files of 2 classes (from 'circle' with 5 to 'square' with 4: 1.2 to 1); 5 test files" in told[0]
    assert "videos: a test file is a copy of training files, which flatters figures" in told[1]
    assert told[2] == "unidual: unidual10 starts from random weights"
    assert "the test files are evaluated once, at the end: nothing is chosen by them" in told[3]
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["baselines"]["videos"].keys() == {"always 'circle'", "frames alone, as still clips"}
    assert last["baselines"]["videos"]["always 'circle'"] == 40
    assert "is no better than always 'circle' (40.0%)" in result.stdout.splitlines()[1]
    assert "video@5" not in result.stdout.splitlines()[0]  # of two classes
    meaning = result.stdout.splitlines()[2]
    assert meaning == "clip@1: single clips answered rightly; video@1: videos, by the mean of their clips"
    assert " of 5 files (beside it: always 'circle' 40.00%, " in result.stdout.splitlines()[0]
    assert f"unidual predict FILES --model local-dir:{last['export']}" in result.stdout
    page = (tmp_path / "run/report.html").read_text()
    for shown in (
        "copy.avi",
        "Losses of the training",
        "frames alone, as still clips",
        "data:image/jpeg",
        "random weights",
    ):
        assert shown in page


@pytest.mark.skipif(sys.platform == "win32", reason="has no such file names")
def test_a_training_ends_whatever_its_classes_are_called(media, tmp_path, pictures):
    names = ["$_$", "$\\frac$", "=1+1", "-1", "_a", "a\n\x1b[31mb", "%s {} |", os.fsdecode(b"\xff"), "x" * 200, "猫"]
    files = sorted((media / "pictures").rglob("*.png"))
    for number, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        for copy in range(2):
            shutil.copy(files[number], tmp_path / "data" / name / f"{copy}.png")
    options = ("--images", tmp_path / "data", "--model", "unidual10", "--out", tmp_path / "run")
    result = unidual("finetune", *options, settings=("hold_out=0.5", *QUICK))
    assert (tmp_path / "run/confusion-images.png").read_bytes().startswith(b"\x89PNG")
    classes = tuple(sorted("a \x1b[31mb" if "\n" in name else name for name in names))
    assert timm.create_model(f"local-dir:{result['export']}", pretrained=True).spec.class_names("images") == classes
    text = (tmp_path / "run/predictions-images.csv").read_text(encoding="utf-8", errors="surrogateescape")
    rows = list(csv.reader(text.splitlines()))
    assert len(rows) == 11
    assert not any(cell[:1] in ("=", "+", "-", "@") for row in rows for cell in row)
    assert {row[1] for row in rows} >= {"'=1+1", "'-1"}


def test_predictions_come_back_with_the_labels_that_they_had(tmp_path):
    results = tuple(FileResult(i, i, (1 - i,), 0, 1) for i in range(2))
    report = Report("image", (str(tmp_path / "a.png"), str(tmp_path / "b.png")), results, seconds=1.0)
    write_predictions(report, ("=cat", "'@dog"), tmp_path / "list.csv")
    rows = f"{tmp_path / 'a.png'},'=cat,''@dog", f"{tmp_path / 'b.png'},''@dog,'=cat"
    assert (tmp_path / "list.csv").read_text().splitlines()[1:] == [*rows]
    listed = read_media(tmp_path / "list.csv", modality="image")
    assert [listed.classes[label] for label in listed.labels] == ["=cat", "'@dog"]


@pytest.mark.parametrize("task", ["a/b", "a\x1b[31m"])
def test_a_task_that_has_no_file_name_is_refused_before_the_first_step(media, tmp_path, task):
    settings = [f"tasks={task}:image", *(s for s in SETTINGS if not s.startswith("tasks"))]
    with pytest.raises(ValueError, match=r"task .* cannot be part of file names"):
        unidual("train", "mini", "--data", f"{task}={media / 'pictures'}", "--out", tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_the_recipes_stand_in_the_help_with_their_commands_costs_and_figures():
    text = CliRunner().invoke(app, ["train", "--help"]).stdout
    lines = [line.strip() for line in text.splitlines()]
    for name, experiment in RECIPES.items():
        start = lines.index(f"{name}: {experiment.about}")
        told = [experiment.command, f"cost: {experiment.cost}", f"to expect: {experiment.figures}"]
        assert lines[start + 1 : start + 4] == told


def test_pictures(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [{"event": "train", "step": n, "epoch": n / 2, "loss/a": 1 / n, "lr": 0.1} for n in range(1, 5)]
    lines += [{"event": "evaluate", "step": n, "epoch": n / 2, "a/top-1": 10.0 * n} for n in (2, 4)]
    for written in ([], lines):
        log.write_text("".join(json.dumps(line) + "\n" for line in written))
        plot_curves(log, tmp_path / "curves.png")
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    for count in (2, 100):
        names = [f"class {number}" for number in range(count)]
        plot_confusion(np.random.default_rng(0).integers(count, size=(50, 2)), names, tmp_path / "c.png", title="task")
        assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_legend_names_curves_in_words(tmp_path):
    losses = {f"loss/{name}": 1.0 for name in ("cats.image", "my.cats.video", "total")}
    lines = [{"event": "train", "step": 1, "epoch": 1.0, "lr": 0.1, **losses}]
    lines += [{"event": "evaluate", "step": 1, "epoch": 1.0, "cats/top-1": 10.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses, scores = (picture.decode() for picture in curve_pictures(tmp_path / "log.jsonl").values())
    for words in ("cats, image pathway", "my.cats, video pathway", "total"):
        assert f"<!-- {words} -->" in losses  # before the outlines of its letters
    assert "<!-- cats, top-1 -->" in scores


def test_where_nothing_was_logged_a_sentence_stands_in_place_of_axes(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    step = {"event": "train", "step": 1, "epoch": 1.0, "loss/a": 1.0}
    score = {"event": "evaluate", "step": 1, "epoch": 1.0, "a/top-1": 10.0}
    for lines in ([], [step], [step, score]):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    told = [[axes.get_ylabel() if axes.axison else axes.texts[0].get_text() for axes in one.axes] for one in figures]
    assert told == [
        ["no step was made", "nothing was evaluated between epochs"],
        ["loss", "nothing was evaluated between epochs"],
        ["loss", "accuracy (%)"],
    ]


ODD = ["$_$", "$\\frac$", "$a$b$c$", "_hidden", "\udcff", "\0", "a\nb", "x" * 300, "猫", "%s"]


@pytest.mark.parametrize("name", ODD)
def test_pictures_take_names_for_text(tmp_path, name):
    plot_confusion([(0, 0), (1, 0)], [name, f"{name}2"], tmp_path / "c.png", title=name)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    lines = [{"event": "train", "step": 1, "epoch": 1.0, f"loss/{name}": 1.0}]
    lines += [{"event": "evaluate", "step": 1, "epoch": 1.0, f"{name}/top-1": 10.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_take_names_for_text_whatever_the_users_settings_are(tmp_path):
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True}):
        plot_confusion([(0, 0)], ["a_b$", "c"], tmp_path / "c.png", title="50%")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_settings_are_listed_with_their_values():
    result = CliRunner().invoke(app, ["finetune", "--settings"], env={"COLUMNS": "200"})
    assert "  lr=0.001: a number from 0\n    Learning rate for updates of one batch; it grows with" in result.stdout
    assert "--set teachers=clips:unidual_efficientnet_lite0.in1k." in result.stdout
