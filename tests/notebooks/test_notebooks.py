"""Every notebook runs from top to bottom, without a warning, and ends in what it promises."""

import base64
import io
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from matplotlib.image import imread
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
ENDS_WITH = {"pretrain": "bits per base"}
"""What the last text of a notebook says; the others end in a picture."""
WARNINGS_ARE_ERRORS = """
import warnings

warnings.simplefilter("error")
# Python itself keeps these from users; umap and ipykernel are full of them.
for quiet in (ImportWarning, PendingDeprecationWarning):
    warnings.simplefilter("ignore", quiet)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all notebooks run: one finds the model that another has pretrained."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_holds_neither_outputs_nor_paths_of_a_machine(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not re.search(r"(?<![\w.])(/(home|mnt|root|tmp|Users|work)/|[A-Z]:\\)", cell.source)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Cells call the command line, of the environment that is tested.
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", scripts + os.pathsep + os.environ["PATH"])
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WARNINGS_ARE_ERRORS))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    if path.stem in ENDS_WITH:
        texts = [out.get("text", "") for out in outputs]
        assert ENDS_WITH[path.stem] in texts[-1]
    else:
        picture = base64.b64decode(outputs[-1]["data"]["image/png"])
        assert imread(io.BytesIO(picture))[..., :3].std() > 0.05, "the picture is blank"
