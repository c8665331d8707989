"""`unidual evaluate` as a user meets it: which files it finds in what it is given, and what it reports."""

import json
import os

import pytest
from said import lines, one_sentence


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


def test_what_cannot_be_tested_is_refused_before_the_first_source_is(run, model, data):
    (data / "things/test/odd").mkdir()
    (data / "things/test/odd/0.png").write_bytes(next((data / "things/test").glob("*/0.png")).read_bytes())
    status, text, err = run("evaluate", data / "acts", data / "things", "--model", model)
    assert (status, text) == (2, "")
    assert "'odd'" in one_sentence(err)
