"""What an extra installs is enough for the commands it is for: they start where nothing else can be imported."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STARTS = {
    "train": (
        "ferjax.train.commands",
        "ferjax.evaluate.scoring",
        "ferjax.evaluate.temperature",
        "ferjax.compress",
        "ferjax.train.sweep",
    ),
    "data": ("ferjax.data.commands",),
    "export": ("ferjax.export.commands", "ferjax.export.pipeline", "ferjax.weights.single_file", "safetensors.numpy"),
    "live": ("ferjax.runtime.predict", "ferjax.runtime.live", "ferjax.runtime.web.commands"),
    "edge": ("ferjax.runtime.predict", "ferjax.runtime.live", "ferjax.runtime.web.commands"),
}
BLOCKED = """
import importlib, sys
absent = set(sys.argv[1].split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(requirements: list[str]) -> set[str]:
    """Names of the distributions that requirements bring, with what those require in turn."""
    found, todo = set(), [Requirement(text) for text in requirements]
    while todo:
        wanted = todo.pop()
        extras = ["", *sorted(wanted.extras)]
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        if (key := (plain(wanted.name), *extras)) in found:
            continue
        found.add(key)
        for text in importlib.metadata.requires(wanted.name) or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                each.marker = None
                todo.append(each)
    return {name for name, *_ in found}


@pytest.mark.parametrize("extra", STARTS)
def test_an_extra_is_enough_to_start_its_commands(extra):
    here = [text.replace("opencv-python-headless", "opencv-python") for text in PROJECT["optional-dependencies"][extra]]
    brought = installed([*PROJECT["dependencies"], *here])  # the two overwrite each other: one can be installed
    owners = importlib.metadata.packages_distributions()
    ours = {"ferjax", *brought}
    absent = [module for module, names in owners.items() if not ours & {plain(name) for name in names}]
    command = [sys.executable, "-c", BLOCKED, ",".join(absent), *STARTS[extra]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]
