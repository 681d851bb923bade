"""The notebooks run, on the pictures that they draw and on a given folder; what is committed is their own output."""

import json
import os
from pathlib import Path

import pytest
from helpers import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
STRICT, LENIENT = (f"import warnings\nwarnings.simplefilter({action!r})" for action in ("error", "default"))
CHECKS = {
    "train_on_latents": "assert low > 0.7 and right_answers(models['many steps'], test).float().mean() > 0.7",
    "compare_codecs": (
        "assert set(table['view']) == {'pixels', 'bigpatch', 'resize', 'latent', 'reconstruction'}\n"
        "assert table['accuracy'].max() > 0.7\n"
        "assert len(more) == len(table) + 1"
    ),
}
"""What holds at the end, on the pictures that are drawn."""


def executed(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path | None, check: str):
    """The notebook with its outputs, run in a kernel of its own, in which warnings are errors."""
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # other tests run beside it
    monkeypatch.delenv("CML_PICTURES", raising=False)
    if pictures:
        monkeypatch.setenv("CML_PICTURES", str(pictures))
    notebook = nbformat.read(path, 4)
    # The kernel itself warns when it ends.
    around = [nbformat.v4.new_code_cell(source) for source in (STRICT, f"{check}\n{LENIENT}")]
    notebook.cells = [around[0], *notebook.cells, around[1]]
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    notebook.cells = notebook.cells[1:-1]
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_the_pictures_that_it_draws(path, tmp_path, monkeypatch):
    """CML_WRITE_NOTEBOOKS=1 keeps the outputs in the project."""
    notebook = executed(path, tmp_path, monkeypatch, None, CHECKS[path.stem])
    if os.environ.get("CML_WRITE_NOTEBOOKS"):
        nbformat.write(portable(notebook), path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_on_a_folder(path, tmp_path, monkeypatch, picture_folder):
    check = f"assert str(PICTURES) == {str(picture_folder)!r} and not (WORK / 'parts').exists()"
    executed(path, tmp_path, monkeypatch, picture_folder, check)


def portable(notebook):
    """Without what depends on when and where it ran: times, progress."""
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.metadata = {}
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_small_and_of_nobodys_machine(path):
    text = path.read_text()
    assert len(text) < 400_000
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "stream" in kinds and "error" not in kinds
    assert any("image/png" in output.get("data", {}) for output in outputs)
    shown = json.dumps(outputs)
    for trace in (str(ROOT), str(Path.home()), "/tmp", "Traceback", "Warning"):
        assert trace not in shown, trace


def test_both_are_there():
    assert {path.stem for path in NOTEBOOKS} == CHECKS.keys()
