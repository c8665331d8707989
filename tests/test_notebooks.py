"""The notebooks run from their first cell to their last, and keep no outputs."""

import asyncio
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def test_the_notebooks_run(tmp_path, monkeypatch):
    """One after the other in one kernel, since importing torch takes longer than all of their cells."""
    monkeypatch.setenv("UNIDUAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    books = [nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4) for name in ("predict", "finetune")]
    cells = [cell for book in books for cell in book.cells]
    assert not any(cell.get("outputs") for cell in cells)
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300, kernel_name="python3")
    ran = asyncio.run(client.async_execute(cwd=tmp_path))  # `execute` leaves its event loop open
    told = [output.get("text", "") for cell in ran.cells for output in cell.get("outputs", ())]
    shown = [
        output["data"]["text/plain"] for cell in ran.cells for output in cell.get("outputs", ()) if "data" in output
    ]
    assert sum(text.count("%\n") for text in told) == 6  # a label for each file
    assert "('adamw', 0.001, 0.8, True)" in shown
    assert any("4 training files of 4 classes (1 of each); 4 test files" in text for text in told)
    assert any("image [{'label': " in text for text in told)
