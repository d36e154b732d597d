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
SCRIPTS = ("train", "distill", "export", "live", "configs", "benchmarks", "tools", "tests")
RUNTIMES = ("ai_edge_litert", "onnxruntime")
# The modules that need the standard library alone; the edge imports them too.
BARE = ("ferjax.spec", "ferjax.errors", "ferjax.cli", "ferjax.metadata", "ferjax.folders", "ferjax.__version__")
# A room imports those before it, and never those after it.
ROOMS = (
    "runtime",
    "data",
    "augment",
    "losses",
    "models",
    "quant",
    "prune",
    "weights",
    "evaluate",
    "train",
    "export",
    "compress",
)


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
    "the bare modules use the standard library": Rule(BARE, only=BARE, in_functions=("tqdm",)),
    "the package itself imports nothing": Rule(
        ("ferjax.__init__",), only=("ferjax.__version__",), in_functions=("ferjax.runtime.analysis",)
    ),
    "runtime needs no jax and no TensorFlow": Rule(
        ("ferjax.runtime",),
        only=(*BARE, "ferjax.runtime", "numpy", "cv2", *RUNTIMES),
        in_functions=("dlib", "pandas", "PIL", "flatbuffers", "tornado"),
    ),
    "the numerics know no data, loop or file": Rule(
        ("ferjax.augment", "ferjax.losses", "ferjax.prune", "ferjax.quant", "ferjax.models"),
        never=("ferjax.data", "ferjax.train", "ferjax.weights", "ferjax.evaluate", "ferjax.export", "ferjax.compress"),
    ),
    "scores need numpy only": Rule(
        tuple(f"ferjax.evaluate.{name}" for name in ("metrics", "intervals", "calibration")),
        only=("ferjax.errors", "ferjax.evaluate.metrics", "numpy"),
    ),
    "TensorFlow enters in functions of data and export": Rule(
        ("ferjax.data", "ferjax.export"), in_functions=TENSORFLOW
    ),
    "TensorFlow enters nowhere else": Rule(("ferjax",), but=("ferjax.data", "ferjax.export"), never=TENSORFLOW),
    "ml_collections is for the train command": Rule(
        ("ferjax",), but=("ferjax.train.commands",), never=("ml_collections",)
    ),
    "the library knows no script": Rule(("ferjax",), never=SCRIPTS),
    "linen stays in models and quant": Rule(
        ("ferjax",), but=("ferjax.models", "ferjax.quant"), never=("flax.linen", "flax.nnx")
    ),
    **{
        f"{room} imports no later room": Rule((f"ferjax.{room}",), never=tuple(f"ferjax.{r}" for r in ROOMS[i + 1 :]))
        for i, room in enumerate(ROOMS[:-1])
    },
}


def below(name: str, tops: tuple[str, ...]) -> bool:
    return any(name == top or name.startswith(top + ".") for top in tops)


def imports(source: str, module: str) -> Iterator[Import]:
    """Yields every import statement of a module; `from a import b` counts as a.b.

    An import for type checkers does not happen with the module, like one in a function.
    """

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (Import(f"{base}.{alias.name}", in_function) for alias in node.names)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = inside or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
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


@pytest.mark.parametrize("room", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_every_room_has_a_place(room):
    assert room in ROOMS


def test_the_top_level_is_small():
    assert len([*PACKAGE.glob("*.py")]) <= 10


@pytest.mark.parametrize(
    "rule, module, source",
    [
        ("the bare modules use the standard library", "ferjax.spec", "import numpy as np"),
        ("the bare modules use the standard library", "ferjax.cli", "from ferjax import losses"),
        ("the package itself imports nothing", "ferjax.__init__", "from ferjax import train"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.loop", "def f():\n  import jax.numpy"),
        (
            "runtime needs no jax and no TensorFlow",
            "ferjax.runtime.model",
            "from ferjax.evaluate.metrics import confusion",
        ),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.faces.finders", "import dlib"),
        ("runtime needs no jax and no TensorFlow", "ferjax.runtime.preprocessing", "from PIL import Image"),
        ("the numerics know no data, loop or file", "ferjax.models.resnet", "from ferjax.data.synthetic import clips"),
        ("the numerics know no data, loop or file", "ferjax.losses", "from ferjax.train import step"),
        ("the numerics know no data, loop or file", "ferjax.models.resnet", "from ..weights import checkpoint"),
        ("the numerics know no data, loop or file", "ferjax.augment", "from .export import to_tflite"),
        ("the numerics know no data, loop or file", "ferjax.prune.slim.rules", "from ferjax.train.loop import fit"),
        ("scores need numpy only", "ferjax.evaluate.metrics", "import jax"),
        ("TensorFlow enters in functions of data and export", "ferjax.data.store", "import tensorflow_datasets as t"),
        ("TensorFlow enters in functions of data and export", "ferjax.export", "class A:\n  import tensorflow.lite"),
        ("TensorFlow enters nowhere else", "ferjax.train.step", "def f():\n  from tensorflow import io"),
        ("ml_collections is for the train command", "ferjax.data", "if True:\n  from ml_collections import ConfigDict"),
        ("the library knows no script", "ferjax.train.experiment", "from configs import common"),
        ("the library knows no script", "ferjax.train.experiment", "import train"),
        ("linen stays in models and quant", "ferjax.train.step", "from flax import linen as nn"),
        ("linen stays in models and quant", "ferjax.weights.trained", "import flax.linen as nn"),
        ("weights imports no later room", "ferjax.weights.trained", "def f():\n  from ferjax.train import step"),
        ("runtime imports no later room", "ferjax.runtime.faces.boxes", "from ferjax.data import load"),
    ],
)
def test_a_breach_is_found(rule, module, source):
    assert violations(RULES[rule], module, source)


@pytest.mark.parametrize(
    "rule, module, source",
    [
        (
            "the bare modules use the standard library",
            "ferjax.spec",
            "import json\nfrom ferjax.errors import InputError",
        ),
        (
            "runtime needs no jax and no TensorFlow",
            "ferjax.runtime.faces.finders",
            "import cv2\ndef f():\n  import dlib",
        ),
        (
            "runtime needs no jax and no TensorFlow",
            "ferjax.runtime.preprocessing",
            "if TYPE_CHECKING:\n  from PIL import Image\ndef f():\n  from PIL import ImageOps",
        ),
        ("the numerics know no data, loop or file", "ferjax.train.loop", "from ferjax import data, weights"),
        ("TensorFlow enters in functions of data and export", "ferjax.export", "def f():\n  import tensorflow as tf"),
        ("the library knows no script", "ferjax.compress", "from ferjax import export, train"),
        ("linen stays in models and quant", "ferjax.models.deit", "from flax import linen as nn"),
        ("linen stays in models and quant", "ferjax.weights.checkpoint", "from flax import traverse_util"),
        ("train imports no later room", "ferjax.train.loop", "from ferjax.weights import checkpoint"),
    ],
)
def test_what_is_allowed_passes(rule, module, source):
    assert violations(RULES[rule], module, source) == []


def test_every_rule_is_known_to_find_a_breach():
    marks = test_a_breach_is_found.pytestmark
    assert {case[0] for case in marks[0].args[1]} >= {rule for rule in RULES if "no later room" not in rule}


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
    modules.remove("ferjax.train.commands")
    assert {"ferjax.train.step", "ferjax.data", "ferjax.models"} <= set(modules)
    done = import_without(WITHOUT_TENSORFLOW, *modules)
    assert done.returncode == 0, done.stderr


def test_the_bare_modules_import_on_a_bare_python():
    bare = "name not in sys.stdlib_module_names and name != 'ferjax'"
    done = import_without(bare, *(name for name in BARE if "__" not in name))
    assert done.returncode == 0, done.stderr
    assert "blocked: numpy" in import_without(bare, "ferjax.evaluate.metrics").stderr


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow_datasets", "ml_collections"])
def test_the_blocker_blocks(module):
    assert f"blocked: {module}" in import_without(WITHOUT_TENSORFLOW, module).stderr
