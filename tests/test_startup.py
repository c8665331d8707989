"""The benchmark of start-up: what it measures, on programs that take no time."""

import json

import pytest
import startup


def test_it_measures_and_compares_by_cpu_time(monkeypatch, capsys, tmp_path):
    busy = "import time\nstart = time.process_time()\nwhile time.process_time() < start + 0.2: pass"
    programs = {
        "little": startup.Program(("-S", "-c", "import sys; sys.exit(3)"), status=3, beside="busy"),
        "busy": startup.Program(("-S", "-c", busy), beside="busy"),
        "idle": startup.Program(("-S", "-c", "import time; time.sleep(0.2)"), beside="busy"),
    }
    monkeypatch.setattr(startup, "PROGRAMS", programs)
    startup.main(["--rounds", "1", "--json", str(tmp_path / "out.json")])
    *_, line = capsys.readouterr().out.splitlines()
    assert (tmp_path / "out.json").read_text() == f"{line}\n"
    little, busy, idle = json.loads(line)["rows"]
    assert busy["by_cpu"] == 1
    assert max(little["by_cpu"], idle["by_cpu"]) < 1
    assert min(busy["wall_seconds"], idle["wall_seconds"], busy["cpu_seconds"]) > 0.19


def test_a_program_that_ends_otherwise_is_no_figure():
    with pytest.raises(RuntimeError, match="ended with 1: no such luck"):
        startup.measured(startup.Program(("-S", "-c", "import sys; sys.exit('no such luck')")))


def test_what_is_compared_is_measured():
    assert {program.beside for program in startup.PROGRAMS.values()} <= startup.PROGRAMS.keys()
