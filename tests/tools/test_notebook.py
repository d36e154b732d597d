"""The quick start runs from top to bottom, and its committed outputs are small and clean."""

import re
import tempfile

import nbformat
import pytest

from tests.support import ROOT, data_layouts
from tools import notebook


def read():
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def saved(path, cells):
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def text_of(*cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures_of(*cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]


def test_progress_bars_leave_no_trace(tmp_path):
    bars = """
import sys, tqdm
print("first")
with tqdm.tqdm(total=4) as bar:
    for step in range(4):
        bar.write(f"step {step}")
        list(tqdm.tqdm(range(2), desc="nested", leave=False))
        bar.update()
print("last")
"""
    (tmp_path / "bars.py").write_text(bars)
    path = saved(tmp_path / "bars.ipynb", [nbformat.v4.new_code_cell("!python bars.py")])
    (cell,) = notebook.execute(path, tmp_path).cells
    assert text_of(cell).splitlines() == ["first", "step 0", "step 1", "step 2", "step 3", "last"]


def test_committed_outputs_are_of_one_run_small_and_without_warnings_and_paths():
    assert notebook.NOTEBOOK.stat().st_size < 300_000
    cells = read().cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures_of(*code)) >= 4
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    said = text_of(*code)
    assert not re.search(r"warning|error:|traceback|\r|\x1b|%\|", said, re.IGNORECASE)
    assert not re.search(rf"{re.escape(str(ROOT))}|{re.escape(tempfile.gettempdir())}|/home/|/root/|/Users/", said)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs_from_top_to_bottom_and_learns(tmp_path, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):  # settings for tests that train little
        monkeypatch.delenv(name, raising=False)
    cells = notebook.execute(notebook.NOTEBOOK, tmp_path).cells
    accuracy = re.search(r"^accuracy +(0\.\d+)", text_of(cells[-1]), re.MULTILINE)
    assert float(accuracy[1]) > 0.6  # 0.14 by chance
    assert pictures_of(*cells) == pictures_of(*read().cells)


@pytest.mark.slow
def test_an_archive_beside_it_is_prepared_as_fer2013(tmp_path):
    data_layouts.write_zip(tmp_path / "archive.zip", data_layouts.fer2013_files())
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    ran = notebook.execute(saved(tmp_path / "data.ipynb", cells[:2]), tmp_path).cells
    assert "prepared fer2013" in text_of(*ran) and pictures_of(*ran)
