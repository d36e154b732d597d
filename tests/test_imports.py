"""Who may import whom: read from the source, so that a forbidden import inside a function is found too."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import ferjax

PACKAGE = pathlib.Path(ferjax.__file__).parent
TENSORFLOW = ("tensorflow", "tensorflow_datasets")
SCRIPTS = ("train", "distill", "export", "live", "configs", "benchmarks", "tests")
CONTRACT = ("ferjax.spec", "ferjax.cli", "ferjax._model_file", "ferjax.__version__")
RUNTIMES = ("ai_edge_litert", "onnxruntime")


class Import(NamedTuple):
    """One imported name, dotted, and whether it happens only when a function is called."""

    name: str
    in_function: bool


class Rule(NamedTuple):
    """What some modules may import.

    Attributes:
      modules: the rule holds for these and what lies below them; "ferjax" alone for the whole package.
      but: modules the rule leaves out.
      only: if not empty, what they may import beside the standard library.
      never: what they may not import.
      in_functions: names that a function, but not the module itself, may import.
    """

    modules: tuple[str, ...]
    but: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    in_functions: tuple[str, ...] = ()


RULES = {
    "spec and cli use the standard library": Rule(CONTRACT, only=CONTRACT),
    "the package itself imports nothing": Rule(("ferjax.__init__",), only=("ferjax.__version__",)),
    "runtime needs no jax and no TensorFlow": Rule(
        ("ferjax.runtime",), only=(*CONTRACT, "ferjax.runtime", "numpy", "cv2", *RUNTIMES), in_functions=("dlib",)
    ),
    "the numerics know no data, loop or file": Rule(
        ("ferjax.augment", "ferjax.losses", "ferjax.prune", "ferjax.slim", "ferjax.quant", "ferjax.models"),
        never=("ferjax.data", "ferjax.training", "ferjax.fitting", "ferjax.checkpoint", "ferjax.export"),
    ),
    "scoring needs numpy only": Rule(
        ("ferjax.metrics", "ferjax.intervals", "ferjax.calibration", "ferjax.corrupt"),
        only=("ferjax.cli", "ferjax.metrics", "numpy"),
    ),
    "TensorFlow enters in functions of data and export": Rule(
        ("ferjax.data", "ferjax.export"), in_functions=TENSORFLOW
    ),
    "TensorFlow enters nowhere else": Rule(("ferjax",), but=("ferjax.data", "ferjax.export"), never=TENSORFLOW),
    "the library needs no ml_collections": Rule(("ferjax",), never=("ml_collections",)),
    "the library knows no script": Rule(("ferjax",), never=SCRIPTS),
    "linen stays in models": Rule(("ferjax",), but=("ferjax.models",), never=("flax.linen", "flax.nnx")),
}


def below(name: str, tops: tuple[str, ...]) -> bool:
    return any(name == top or name.startswith(top + ".") for top in tops)


def imports(source: str, module: str) -> Iterator[Import]:
    """Yields every import statement of a module; `from a import b` counts as a.b."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", in_function) for alias in node.names)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def violations(rule: Rule, module: str, source: str) -> list[str]:
    if not below(module, rule.modules) or below(module, rule.but):
        return []
    found = []
    for name, in_function in imports(source, module):
        standard = name.split(".")[0] in sys.stdlib_module_names
        allowed = not rule.only or standard or below(name, rule.only) or below(name, rule.in_functions)
        too_early = below(name, rule.in_functions) and not in_function
        if below(name, rule.never) or not allowed or too_early:
            found.append(f"{module} imports {name}")
    return found


def package_sources() -> dict[str, str]:
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        sources[".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)] = path.read_text()
    return sources


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_package_keeps_the_rule(rule):
    sources = package_sources()
    assert len(sources) > 10  # we are looking at the package
    assert [v for module, source in sources.items() for v in violations(rule, module, source)] == []


@pytest.mark.parametrize(
    "rule, module, source",
    [
        ("spec and cli use the standard library", "ferjax.spec", "import numpy as np"),
        ("spec and cli use the standard library", "ferjax.cli", "from ferjax import losses"),
        ("the package itself imports nothing", "ferjax.__init__", "from ferjax import training"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.loop", "def f():\n  import jax.numpy"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.model", "from ferjax.metrics import confusion"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.faces", "import dlib"),
        ("the numerics know no data, loop or file", "ferjax.models.resnet", "from ferjax.data.faces import render"),
        ("the numerics know no data, loop or file", "ferjax.losses", "from ferjax import training"),
        ("the numerics know no data, loop or file", "ferjax.models.resnet", "from .. import checkpoint"),
        ("the numerics know no data, loop or file", "ferjax.augment", "from .export import to_tflite"),
        ("the numerics know no data, loop or file", "ferjax.prune", "from ferjax.fitting import fit"),
        ("scoring needs numpy only", "ferjax.metrics", "import jax"),
        ("TensorFlow enters in functions of data and export", "ferjax.data.fer2013", "import tensorflow_datasets as t"),
        ("TensorFlow enters in functions of data and export", "ferjax.export", "class A:\n  import tensorflow.lite"),
        ("TensorFlow enters nowhere else", "ferjax.training", "def f():\n  from tensorflow import io"),
        ("the library needs no ml_collections", "ferjax.data", "if True:\n  from ml_collections import ConfigDict"),
        ("the library knows no script", "ferjax.experiment", "from configs import common"),
        ("the library knows no script", "ferjax.experiment", "import train"),
        ("linen stays in models", "ferjax.training", "from flax import linen as nn"),
        ("linen stays in models", "ferjax.quant", "import flax.linen as nn"),
    ],
)
def test_a_breach_is_found(rule, module, source):
    assert len(violations(RULES[rule], module, source)) == 1


@pytest.mark.parametrize(
    "rule, module, source",
    [
        ("spec and cli use the standard library", "ferjax.spec", "import json\nfrom ferjax.cli import InputError"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.faces", "import cv2\ndef f():\n  import dlib"),
        ("the numerics know no data, loop or file", "ferjax.training", "from ferjax import checkpoint, data"),
        ("TensorFlow enters in functions of data and export", "ferjax.export", "def f():\n  import tensorflow as tf"),
        ("the library knows no script", "ferjax.quant", "from ferjax import export, training"),
        ("linen stays in models", "ferjax.models.vit", "from flax import linen as nn"),
        ("linen stays in models", "ferjax.checkpoint", "from flax import traverse_util"),
    ],
)
def test_what_is_allowed_passes(rule, module, source):
    assert violations(RULES[rule], module, source) == []


def test_every_rule_is_known_to_find_a_breach():
    marks = test_a_breach_is_found.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(RULES)


BLOCKED_IMPORTS = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if is_blocked(name.split(".")[0]):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def import_without(is_blocked: str, *modules: str) -> subprocess.CompletedProcess[str]:
    script = f"def is_blocked(name):\n    return {is_blocked}\n{BLOCKED_IMPORTS}"
    return subprocess.run([sys.executable, "-c", script, *modules], capture_output=True, text=True)


WITHOUT_TENSORFLOW = "name in ('tensorflow', 'tensorflow_datasets', 'ml_collections')"


def test_every_module_imports_without_tensorflow_and_ml_collections():
    modules = [name.removesuffix(".__init__") for name in sorted(package_sources())]
    assert {"ferjax.training", "ferjax.data", "ferjax.models"} <= set(modules)
    done = import_without(WITHOUT_TENSORFLOW, *modules)
    assert done.returncode == 0, done.stderr


def test_spec_and_cli_import_on_a_bare_python():
    bare = "name not in sys.stdlib_module_names and name != 'ferjax'"
    done = import_without(bare, "ferjax.spec", "ferjax.cli")
    assert done.returncode == 0, done.stderr
    assert "blocked: numpy" in import_without(bare, "ferjax.metrics").stderr


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets", "ml_collections"])
def test_the_blocker_blocks(module):
    assert f"blocked: {module}" in import_without(WITHOUT_TENSORFLOW, module).stderr
