"""The command `ferjax`: its verbs, what it imports, and what a wheel holds."""

import os
import re
import runpy
import subprocess
import sys
import tomllib

import pytest

import ferjax
from ferjax.__main__ import COMMANDS, main
from ferjax.train import config_files
from tests.support import ROOT

VERBS = [(name, command) for group in COMMANDS.values() for name, command in group.items()]


@pytest.mark.parametrize("name, command", VERBS, ids=[name for name, _ in VERBS])
def test_every_verb_has_a_function_that_explains_itself(name, command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and f"ferjax {name}" in said


def test_the_list_names_every_verb(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} == {name for name, _ in VERBS}


def test_an_unknown_verb_is_one_line_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "'trian'" in said and "'train'" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("arguments, heavy", [(["--help"], {"numpy", "cv2", "jax"}), (["live", "--help"], {"jax"})])
def test_a_command_imports_what_it_needs_when_it_is_chosen(arguments, heavy):
    code = (
        "import sys\nfrom ferjax.__main__ import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print('imported', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_a_missing_extra_is_one_line_with_the_install_command():
    code = "import sys; sys.modules['jax'] = None; from ferjax.__main__ import main; main(['evaluate', '--model', 'x'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "jax" in done.stderr and "pip install 'ferjax[train]'" in done.stderr


@pytest.mark.parametrize("name", ["train", "distill", "export", "live"])
def test_a_script_at_the_top_is_the_same_command(name, monkeypatch):
    called = []
    monkeypatch.setattr("ferjax.__main__.run", called.append)
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
    assert called == [name]


def test_the_wheel_lists_every_package_the_configurations_and_the_page():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    modules = {p.parent for p in (ROOT / "ferjax").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in modules}
    files_only = {"ferjax.runtime.models", "ferjax.runtime.serve.page", "ferjax.web"}
    configs = {p.parent for p in (ROOT / "configs").rglob("*.py")}
    packages |= {".".join(("ferjax", *folder.relative_to(ROOT).parts)) for folder in configs}
    assert listed == packages | files_only
    assert set(settings["tool"]["setuptools"]["package-data"]) == files_only
    assert settings["project"]["scripts"]["ferjax"] == "ferjax.__main__:main"


def test_a_configuration_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.find("resnet20:demo").name == "configs/resnet20.py:demo"
    assert config_files.find("configs/compress/qat.py").path == ROOT / "configs" / "compress" / "qat.py"
    own = tmp_path / "configs" / "mine.py"
    own.parent.mkdir()
    own.write_text("from configs import common\ndef get_config(arg=None):\n    return common.base()\n")
    assert config_files.load(config_files.find("configs/mine.py")).get_config().fit.epochs == 1


def test_a_configuration_that_is_not_there_names_the_nearest():
    with pytest.raises(ferjax.errors.InputError) as caught:
        config_files.find("resnet21")
    said = str(caught.value)
    assert "'resnet21'" in said and "'resnet20'" in said and "ferjax train --list" in said


def test_the_list_of_configurations_says_what_each_is(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0
    assert [line.split()[0] for line in lines] == config_files.list_names()
    assert all(re.match(r"\S+ {2,}\S", line) for line in lines)


@pytest.mark.parametrize("platform", ["cuda", pytest.param("nonsense", marks=pytest.mark.slow)])
def test_a_platform_that_jax_lacks_is_one_line(platform, tmp_path):
    (tmp_path / "best" / "000000001").mkdir(parents=True)  # a checkpoint is not called damaged
    env = os.environ | {"JAX_PLATFORMS": platform}
    for arguments in (["networks"], ["weights", "--out", tmp_path / "w.safetensors", "--model", tmp_path]):
        command = [sys.executable, "-m", "ferjax", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert f"JAX_PLATFORMS={platform}" in done.stderr


@pytest.mark.parametrize(
    ("variable", "command"),
    [
        ("JAX_ENABLE_X64", "networks"),
        ("MPLBACKEND", "evaluate"),
        pytest.param("JAX_PLATFORM_NAME", "networks", marks=pytest.mark.slow),
    ],
)
def test_a_variable_that_a_library_refuses_is_one_line(variable, command):
    env = os.environ | {variable: "none"}
    done = subprocess.run([sys.executable, "-m", "ferjax", command], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and variable in done.stderr


def test_a_working_directory_that_was_deleted_is_said(tmp_path):
    gone = tmp_path / "gone"
    code = "import os; from ferjax.__main__ import main; "
    code += f"os.mkdir({str(gone)!r}); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); "
    code += "main(['predict', 'resnet20', '/', '--out', 'a.csv'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "working directory no longer exists" in done.stderr
