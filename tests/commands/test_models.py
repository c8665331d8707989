"""`unidual models` as a user meets it."""

import pytest
from said import lines, one_sentence


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
