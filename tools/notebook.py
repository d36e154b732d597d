"""Runs docs/quickstart.ipynb from top to bottom and saves it with its outputs: python -m tools.notebook.

It runs in an empty folder, on the embedded data, in about 3 minutes on two cores.
"""

import os
import pathlib
import re
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

_ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = _ROOT / "docs" / "quickstart.ipynb"
_SECONDS = 1800  # for a cell, on a busy machine
_BAR = re.compile(r"^.*\d%\|.*\n?|[ \r]+$", re.MULTILINE)  # a progress bar, and what remains where one was


def execute(path: pathlib.Path, folder: pathlib.Path) -> nbformat.NotebookNode:
    """Returns a notebook with the outputs of a run in `folder`, without the states of progress bars.

    The commands `ferjax` are those of this checkout; prepared data and compiled programs go into the folder.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(_ROOT),
        "FERJAX_DATA": str(folder / "data"),
        "FERJAX_COMPILED": str(folder / "compiled"),
    }
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        record_timing=False,
        coalesce_streams=True,  # applies the carriage returns of progress bars
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = _BAR.sub("", output.text)
    return notebook


def main() -> None:
    """Runs the notebook and replaces its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(execute(NOTEBOOK, pathlib.Path(folder)), NOTEBOOK)


if __name__ == "__main__":
    main()
