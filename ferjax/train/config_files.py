"""Finds and imports configuration files: shipped ones by name, others by path."""

import ast
import importlib.util
import pathlib
import sys
import types
from typing import Any, NamedTuple

from ferjax import errors

_PACKAGE = pathlib.Path(__file__).parents[1]
_LIST = "`ferjax train --list` prints the names"


class ConfigFile(NamedTuple):
    """A configuration given on a command line.

    Attributes:
      name: the name that a run records, such as "configs/resnet20.py:demo".
      path: the file.
      arguments: the text after the colon, or "".
    """

    name: str
    path: pathlib.Path
    arguments: str


def shipped_folder() -> pathlib.Path:
    """Returns the folder of the shipped configurations: in the wheel, or at the top of a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def list_names() -> list[str]:
    """Returns the names of the shipped configurations, such as "resnet20" or "compress/qat"."""
    folder = shipped_folder()
    files = (p.relative_to(folder).with_suffix("") for p in folder.rglob("*.py") if p.name != "common.py")
    return sorted((p.as_posix() for p in files if not p.name.startswith("_")), key=lambda name: ("/" in name, name))


def describe() -> str:
    """Returns a line for each shipped configuration: its name and the first line of its docstring."""
    names = list_names()
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {_summary(shipped_folder() / f'{name}.py')}" for name in names)


def find(text: str) -> ConfigFile:
    """Finds the file of a configuration.

    Args:
      text: NAME[:arguments] or FILE.py[:arguments], such as "resnet20:demo" or "mine/a.py". A file in the working
        directory takes precedence over a shipped one of the same path.

    Raises:
      InputError: if there is no such configuration.
    """
    given, _, arguments = text.partition(":")
    path = pathlib.Path(given)
    if path.suffix == ".py" and path.is_file():
        return ConfigFile(text, path, arguments)
    name = path.with_suffix("").as_posix().removeprefix("configs/") if path.suffix in ("", ".py") else given
    shipped = shipped_folder() / f"{name}.py"
    if name in list_names():
        return ConfigFile(f"configs/{name}.py{text[len(given) :]}", shipped, arguments)
    error = errors.unknown("configuration", given, list_names())
    near = str(error).partition(" Accepted: ")[0]
    raise errors.InputError(f"{near} Accepted: a shipped name or a .py file; {_LIST}.")


def recorded_name(text: str) -> str:
    """Returns the name that a run records: "configs/NAME.py:arguments" for shipped files, others unchanged."""
    path, colon, arguments = text.partition(":")
    if pathlib.Path(path).is_relative_to(shipped_folder()):
        path = f"configs/{pathlib.Path(path).relative_to(shipped_folder()).as_posix()}"
    return f"{path}{colon}{arguments}"


def load(file: ConfigFile) -> types.ModuleType:
    """Imports a configuration file; raises InputError if it cannot be imported or has no `get_config`."""
    make_importable()
    found = importlib.util.spec_from_file_location(file.path.stem, file.path)
    if found is None or found.loader is None:
        raise errors.InputError(f"{file.path} is not a Python file: a configuration is a .py file with get_config(arg)")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise errors.InputError(f"{file.path} cannot be imported: {error}") from error
    if not hasattr(module, "get_config"):
        raise errors.InputError(f"{file.path} is not a configuration: it defines no get_config(arg)")
    return module


def make_importable() -> None:
    """Makes `from configs import common` work in a configuration from any working directory."""
    if "configs" not in sys.modules:
        package: Any = types.ModuleType("configs")
        package.__path__ = [str(shipped_folder()), str(pathlib.Path("configs").absolute())]
        sys.modules["configs"] = package


def _summary(path: pathlib.Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
