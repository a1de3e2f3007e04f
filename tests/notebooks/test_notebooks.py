"""Every notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ENDS_WITH = {"pretrain": "bits per base", "classify": "orangutan_mt"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ())]
    assert ENDS_WITH[path.stem] in texts[-1]
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)
