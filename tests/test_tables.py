"""The tables of the paper: their arithmetic, their commands, and one run of a row from data to figures."""

import json
import math
import shlex
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import ablations  # noqa: E402
import cover  # noqa: E402
import distinit  # noqa: E402
import duals  # noqa: E402
import table2  # noqa: E402
import table3  # noqa: E402
import table4  # noqa: E402
import tables  # noqa: E402
import transfer  # noqa: E402
from tables import Options, Row, Runs, Table, cell, difference, run_all  # noqa: E402

PROGRAMS = (table2, table3, table4, ablations, transfer, distinit, duals, cover)
TABLES = {program.__name__: program.TABLE for program in PROGRAMS}


def results(row, metric, values):
    return [{"row": row, "seed": seed, metric: value} for seed, value in enumerate(values)]


def options(out, **changed) -> Options:
    given = dict(
        scale="toy",
        column="",
        cifar=Path("none"),
        download=False,
        images=10,
        clips=10,
        given={},
        settings=(),
        out=out,
        jobs=1,
    )
    return Options(**{**given, **changed})


def test_mean_and_deviation():
    assert cell(results("a", "top-1", [50.0, 52.0, 54.0]), "top-1") == "52.0 ± 2.0"
    assert cell(results("a", "top-1", [50.0]), "top-1") == "50.0"
    assert cell(results("a", "top-1", [None, None]), "top-1") == "-"


def test_differences_are_paired_by_seed():
    ours = results("a", "top-1", [51.0, 41.0, 33.0, 99.0])  # the fourth seed has no partner
    theirs = results("b", "top-1", [50.0, 38.0, 31.0])
    half = 4.303 * 1.0 / math.sqrt(3)  # Student's t with two degrees of freedom, differences 1, 3, 2
    assert difference(ours, theirs, "top-1") == f"+2.0 [{2 - half:+.1f}, {2 + half:+.1f}]"
    assert difference(ours[:1], theirs, "top-1") == "+1.0"
    assert difference(ours, results("b", "top-1", [None]), "top-1") == "-"


def test_rows_of_one_folder_are_one_run(tmp_path):
    """Where tables share a run directory the command that fills it is the same."""
    commands = {}
    for table in TABLES.values():
        for scale in table.scales:
            runs = Runs(table, options(tmp_path, scale=scale))
            runs.data = {role: [] for role in tables.MODALITY}
            for row in table.rows:
                command = runs.command(row, 0)
                assert commands.setdefault(runs.folder(row, 0), command) == command


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_refer_to_rows(table):
    folders = [row.folder for row in table.rows]
    assert len(set(folders)) == len(folders)
    assert table.row(table.reference)
    names = [row.name for row in table.rows]
    for row in table.rows:
        assert row.base is None or names.index(row.base) < names.index(row.name)
        assert "," not in row.name  # --rows takes names with commas between
        assert set(row.paper) <= set(table.metrics)


def test_the_papers_table():
    rows = {row.name: row.paper for row in table2.TABLE.rows}
    assert len(rows) == 9
    assert rows["UniDual-Aux"] == {"clip@1": 57.8, "video@1": 70.5, "top-1": 70.9, "top-5": 90.3}
    assert rows["R(2+1)D-multitask"] == {"clip@1": 57.1, "video@1": 69.7}


def test_paper_scale_prints_commands_that_the_command_line_takes(capsys, monkeypatch, tmp_path):
    (tmp_path / "in1k").mkdir()
    arguments = ["--scale", "paper", "--data", f"in1k={tmp_path / 'in1k'}"]
    monkeypatch.setattr(sys, "argv", ["table2.py", *arguments])
    with pytest.raises(SystemExit) as end:
        tables.main(table2.TABLE)
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0::2] == [f"# {row.name}" for row in table2.TABLE.rows]
    finetuned = shlex.split(lines[5])
    assert finetuned[:5] == ["accelerate", "launch", "-m", "unidual", "train"]
    assert f"in1k={tmp_path / 'in1k'}" in finetuned
    assert "init=runs/tables/paper/k400/R_2+1_D/seed0" in finetuned
    monkeypatch.setattr(sys, "argv", ["table2.py", "--scale", "paper", "--data", f"in1k={tmp_path / 'none'}"])
    with pytest.raises(SystemExit) as end:
        tables.main(table2.TABLE)
    assert end.value.code == 2
    assert "no such folder or list" in capsys.readouterr().err


def test_help_and_wrong_options(capsys, monkeypatch):
    for arguments, status in (["--help"], 0), (["--foo"], 2):
        monkeypatch.setattr(sys, "argv", ["benchmarks/table2.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            tables.main(table2.TABLE)
        assert ended.value.code == status
    printed = capsys.readouterr()
    assert "Usage: table2.py" in printed.out
    assert "No such option: --foo" in printed.err


def test_settings_name_the_tasks(tmp_path, monkeypatch):
    runs = Runs(ablations.TABLE, options(tmp_path, settings=("epochs=3",)))
    runs.data = {"images": ["--data", "toy_objects=A"], "clips": ["--data", "toy_actions=B"], "third": []}
    command = runs.command(ablations.TABLE.row("UniDual-Aux (only frames)"), 2)
    assert 'model_args={"heads": {"image": ["toy_objects", "toy_actions"], "video": ["toy_actions"]}}' in command
    assert command[-5:-3] == ["--set", "epochs=3"]
    assert {"seed=2", "model=unidual10", "toy_objects=A", "toy_actions=B"} <= set(command)


class FakeRuns(Runs):
    """Runs that are noted instead of made; some fail."""

    def __init__(self, table, options, failing=()):
        super().__init__(table, options)
        self.made, self.failing = [], failing

    def command(self, row, seed):
        return []

    def result(self, row, seed):
        return None

    def run(self, row, seed, base=None):
        if base is not None:
            base.result()
        if row.name in self.failing:
            raise RuntimeError(f"{row.name} failed")
        self.made.append((row.name, seed))


def test_what_a_row_starts_from_runs_before_it_and_once(tmp_path):
    runs = FakeRuns(table2.TABLE, options(tmp_path, jobs=2))
    rows = [table2.TABLE.row(name) for name in ("R2D-finetuned", "R(2+1)D", "R2D")]
    assert run_all(runs, rows, 2) == []
    assert sorted(runs.made) == sorted((row.name, seed) for row in rows for seed in (0, 1))
    for seed in (0, 1):
        assert runs.made.index(("R(2+1)D", seed)) < runs.made.index(("R2D-finetuned", seed))


def test_a_failed_run_leaves_the_others_and_those_that_need_it_out(tmp_path, capsys):
    runs = FakeRuns(table2.TABLE, options(tmp_path), failing=("R(2+1)D",))
    rows = [table2.TABLE.row(name) for name in ("R(2+1)D", "R2D-finetuned", "R2D")]
    assert run_all(runs, rows, 1) == ["R(2+1)D failed"]
    assert runs.made == [("R2D", 0)]


def test_a_row_from_data_to_figures(tmp_path, monkeypatch, capsys):
    """One row at toy scale by the command; the second time nothing is run."""
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path / "cache"))
    scales = sys.modules["scales"]
    monkeypatch.setattr(scales, "TOY_FILES", {"train": 12, "test": 12})
    table = Table(
        title="Tiny",
        rows=(Row(name="One", model="unidual{}_aux", sources=table2.BOTH, paper={"video@1": 70.5}),),
        scales={"toy": table2.TABLE.scales["toy"]},
        metrics=("clip@1", "video@1", "top-1", "top-5"),
        reference="One",
        paper="as it says",
    )
    file, picture = tmp_path / "table.json", tmp_path / "table.png"
    arguments = ["--out", str(tmp_path / "runs"), "--json", str(file), "--plot", str(picture), "--set", "epoch_size=12"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["table.py", *arguments])
        with pytest.raises(SystemExit) as end:
            tables.main(table)
        assert end.value.code == 0
        [run] = json.loads(file.read_text())["runs"]
        assert (run["row"], run["seed"]) == ("One", 0)
        assert all(0 <= run[metric] <= 100 for metric in table.metrics)
        assert run["parameters"] > 0
        assert run["video MMAC"] > run["image MMAC"] > 0
        printed = capsys.readouterr().out
        assert f"{run['video@1']:.1f} (70.5)" in printed
        assert json.loads(printed.splitlines()[-1])["failed"] == []
        assert picture.stat().st_size > 1000
        monkeypatch.setattr(tables.subprocess, "Popen", lambda *_, **__: pytest.fail("run again"))


def test_a_run_with_other_settings_is_not_taken_for_this_one(tmp_path):
    row = table2.TABLE.row("R2D")
    before = Runs(table2.TABLE, options(tmp_path))
    before._note(before.folder(row, 0), [*before.settings(row, 0), "10 images, 10 clips"])
    (before.folder(row, 0) / "result.json").write_text('{"row": "R2D", "seed": 0}')
    before.run(row, 0)  # finished: nothing to do
    assert run_all(before, [row], 1) == []
    for changed in ({"settings": ("epochs=3",)}, {"clips": 20}):
        [failed] = run_all(Runs(table2.TABLE, options(tmp_path, **changed)), [row], 1)
        assert "choose another --out" in failed


def test_a_run_that_was_noted_under_a_settings_older_name_is_this_one(tmp_path):
    row = table2.TABLE.row("R2D")
    for setting in ("rate=0.02", "lr=0.02"):
        runs = Runs(table2.TABLE, options(tmp_path, settings=(setting,)))
        runs._note(runs.folder(row, 0), runs.settings(row, 0))
    with pytest.raises(RuntimeError, match="choose another --out"):
        runs._note(runs.folder(row, 0), [*runs.settings(row, 0)[:-1], "lr=0.03"])


def test_a_damaged_result_is_named(tmp_path):
    row = table2.TABLE.row("R2D")
    runs = Runs(table2.TABLE, options(tmp_path))
    runs.folder(row, 0).mkdir(parents=True)
    (runs.folder(row, 0) / "result.json").write_bytes(b"\0" * 10)
    with pytest.raises(RuntimeError, match=r"result\.json is damaged .*: remove it"):
        runs.result(row, 0)
