"""The speed benchmark: its peers are the same networks, its tables have every row, its last line is JSON."""

import json

import answers
import contestants
import joint
import pytest
import speed
import torch
from conv3d import twin
from models.small import clips, close, images, small

from unidual_zoo.models.family import families, find_family


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("name", ["unidual10_aux", "unidual152"])
def test_the_twin_of_conv3d_is_the_same_network(name, norms):
    model = small(name, norms=norms)
    for pathway, x in (("image", images()), ("video", clips(frames=5, size=33))):
        task = model.default_task(pathway, pathway)
        close(twin(model, pathway, task)(x), model(x))


def test_every_table_has_all_rows_and_the_last_line_is_json(capsys, tmp_path):
    out = tmp_path / "speed.json"
    speed.main(["--quick", "--models", "r2d10", "r2plus1d10", "--dtypes", "float32", "--json", str(out)])
    line = capsys.readouterr().out.splitlines()[-1]
    assert out.read_text() == line + "\n"
    tables = json.loads(line)["tables"]
    assert [(row["model"], row["pathway"], row["mode"]) for row in tables] == [
        (model, pathway, mode)
        for model, pathway in (("r2d10", "image"), ("r2plus1d10", "video"))
        for mode in ("inference", "training")
    ]
    for table in tables:
        rows = {row["name"]: row for row in table["rows"]}
        assert list(rows) == ["unidual-zoo", "Conv3d, as shipped", "Conv3d, channels_last", "matrix product"]
        assert all(row["seconds"] > 0 for row in rows.values())
        ours = rows["unidual-zoo"]
        for other in list(rows.values())[1:3]:
            assert other["ours_is"] == pytest.approx(other["seconds"] / ours["seconds"])
        if table["mode"] == "inference":
            assert all(row["difference"] < 1e-4 for row in list(rows.values())[:3])
        else:  # the backward pass keeps what that of the Conv3d form keeps, and a little for the strided shortcuts
            assert 0 < ours["memory"] <= 1.05 * rows["Conv3d, as shipped"]["memory"]


def test_a_peer_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(speed.peers, "is_installed", lambda module: False)
    speed.main(["--quick", "--models", "ircsn50", "--modes", "inference", "--dtypes", "float32"])
    text = capsys.readouterr().out
    assert "ircsn50, video: no other form of it is installed" in text
    assert [row["name"] for row in json.loads(text.splitlines()[-1])["tables"][0]["rows"]] == [
        "unidual-zoo", "matrix product",
    ]  # fmt: skip


def test_saved_bytes_count_a_storage_once_and_no_weight():
    weight = torch.nn.Linear(4, 4, bias=False)
    x = torch.randn(8, 4)

    def run():
        y = weight(x).exp()  # saves x, the weight and y; y again below
        (y * y).sum()

    assert contestants.saved_bytes(weight, run) == (8 * 4 + 8 * 4) * 4


def test_an_upstream_that_is_a_file_races_with_its_own_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed.peers, "UPSTREAM", {})
    (tmp_path / "theirs.py").write_text("import timm\n\n\ndef network():\n    return timm.create_model('r2plus1d10')\n")
    speed.main(
        ["--quick", "--models", "r2plus1d10", "--modes", "inference", "--dtypes", "float32"]
        + ["--upstream", f"r2plus1d10={tmp_path}/theirs.py"]
    )
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    theirs = {row["name"]: row for row in last["tables"][0]["rows"]}["theirs, as shipped"]
    assert theirs["difference"] < 1e-5
    assert theirs["ours_is"] > 0

    (tmp_path / "empty.py").touch()
    for file, complaint in (("empty.py", "it has no function network()"), ("absent.py", "no such Python file")):
        with pytest.raises(SystemExit):
            speed.parse(["--upstream", f"r2plus1d10={tmp_path}/{file}"])
        assert complaint in capsys.readouterr().err


def test_all_has_a_network_of_every_family():
    ours = {id(family) for family in families() if family.model_class.__module__.startswith("unidual_zoo.")}
    assert {id(find_family(name)) for name in speed.ALL} == ours


def test_networks_with_filters_of_three_dimensions_are_trained(capsys):
    speed.main(["--all", "--tiny", "--models", "ircsn50", "--modes", "training", "--dtypes", "float32"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["failed"], [row["name"] for row in last["tables"][0]["rows"]]) == ([], [speed.OURS, speed.MATRIX])


def test_what_one_network_of_all_lacks_costs_no_other_its_figures(monkeypatch, tmp_path, capsys):
    def breaks(error):
        raise error

    def some_fail(options, *, model, **case):
        if model == "r2d10":
            raise MemoryError("too large")
        runs = {speed.OURS: lambda: None, "late": lambda: breaks(ValueError("no such kernel")), speed.MATRIX: lambda: 0}
        yield "theirs", lambda: breaks(MemoryError("too large, too\nand a trace"))
        yield from ((name, lambda name=name, run=run: speed.Row(name, run, 1.0)) for name, run in runs.items())

    monkeypatch.setattr(speed, "contestants", some_fail)
    out = tmp_path / "all.json"
    speed.main(["--all", "--tiny", "--models", "r2d10", "r2plus1d10", "--modes", "inference", "--json", str(out)])
    result = json.loads(out.read_text())
    first, second = result["tables"]
    assert (first["model"], first["error"]) == ("r2d10", "MemoryError: too large")
    assert [row["name"] for row in second["rows"]] == [speed.OURS, speed.MATRIX, "theirs", "late"]
    assert [row.get("error") for row in second["rows"][2:]] == [
        "MemoryError: too large, too", "ValueError: no such kernel",
    ]  # fmt: skip
    name = "r2plus1d10 video inference bfloat16"
    assert result["failed"] == ["r2d10 image inference bfloat16", f"{name}: theirs", f"{name}: late"]
    assert "r2d10 image inference bfloat16: MemoryError" in capsys.readouterr().out
    with pytest.raises(MemoryError):
        speed.main(["--quick", "--models", "r2d10", "--modes", "inference"])


def test_answers_are_raced_against_their_parts(capsys, monkeypatch):
    monkeypatch.setattr(answers.peers, "is_installed", lambda module: False)
    answers.main(["--quick", "--models", "unidual10_aux"])
    out = capsys.readouterr().out
    assert "plain pipeline: left out" in out
    (table,) = json.loads(out.splitlines()[-1])["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == [answers.OURS, answers.DECODING, answers.NETWORK]
    alone = [rows[name]["seconds"] for name in (answers.DECODING, answers.NETWORK)]
    assert rows[answers.OURS]["overlap"] == pytest.approx(max(alone) / rows[answers.OURS]["seconds"])
    assert rows[answers.OURS]["of_the_cores"] == pytest.approx(sum(alone) / rows[answers.OURS]["seconds"])


def test_a_joint_step_is_timed_beside_two_and_taken_apart(capsys):
    joint.main(["--quick", "--models", "unidual10_aux", "--system-malloc", "--changed"])
    (table,) = json.loads(capsys.readouterr().out.splitlines()[-1])["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows)[:2] == [joint.JOINT, joint.SEPARATE]
    assert rows[joint.SEPARATE]["difference"] is None
    assert all(row["difference"] < 0.05 for name, row in rows.items() if name != joint.SEPARATE)
    assert sum(operator["share"] for operator in table["operators"]) <= 1
    assert any("convolution_backward" in operator["name"] for operator in table["operators"])


def test_everything_of_a_card_is_bfloat16_and_engines_are_not_run_there(capsys):
    options = speed.parse(["--device", "cuda", "--all"])
    assert (options.models, options.dtypes, options.compiled) == (list(speed.ALL), ["bfloat16"], True)
    assert speed.parse(["--device", "cuda"]).dtypes == ["float32", "bfloat16"]
    with pytest.raises(SystemExit):
        speed.parse(["--device", "cuda", "--dtypes", "int8"])
    assert "engines run on the CPU" in capsys.readouterr().err
