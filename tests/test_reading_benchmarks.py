"""The benchmarks of reading: that they run, and what they conclude from rates."""

import argparse
import json

import decode
import readers
import throughput


def test_files_are_raced_and_memory_is_watched(tmp_path, capsys):
    kept = tmp_path / "kept.json"
    decode.main(["--quick", "--cases", "clip", "short", "jpeg", "memory", "--json", str(kept)])
    result = json.loads(kept.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert [table["case"] for table in result["tables"]] == ["clip, tiny", "short, tiny", "jpeg"]
    for table in result["tables"]:
        assert table["rows"][0]["name"].startswith(readers.OURS)
        assert table["rows"][0]["times"] == 1
        assert all(row["per_second"] > 0 for row in table["rows"])
    assert (result["held"]["clips"], result["held"]["files_early"]) == (3, result["held"]["files_late"])
    assert all(result["missing"].values())  # each with its reason


def test_how_many_cores_a_gpu_needs(capsys):
    options = argparse.Namespace(gpu_rate=["a=300", "b=1"], cores=2)
    found = throughput.row("a", "short", reads=100.0, trains=4.0, flops=2e9, options=options)
    assert (found["reads_over_trains"], found["tflops_one_core_feeds"]) == (25, 0.2)
    assert (found["cores_needed"], found["suffices"]) == (3, False)
    assert "a GPU at 300 examples/s needs 3.0 cores: 2 does not suffice" in capsys.readouterr().out
