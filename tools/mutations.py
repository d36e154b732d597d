"""Gives damaged files to the commands: each must end with exit code 0, or with 2 and one line.

    python -m tools.mutations --count 500                     all kinds, about an hour on two cores
    python -m tools.mutations --count 50 --kinds zip mp4

A file of each kind is changed at random: bytes are replaced, removed, inserted or repeated, or the end is cut off. Each
command runs in a process of its own. What fails is kept in --out with its output.
"""

import argparse
import contextlib
import importlib
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ferjax import __main__ as command_line
from ferjax import cli, errors
from ferjax.data import EXPRESSIONS
from ferjax.data.synthetic import rendering
from ferjax.runtime import shipped

SECONDS = 60
Make = Callable[[pathlib.Path], pathlib.Path]  # folder -> the sound file in it
Arguments = Callable[[pathlib.Path, pathlib.Path], list[str]]  # file, empty folder -> arguments of ferjax


class Kind(NamedTuple):
    """A kind of file: how to make a sound one, the command that reads it, and a module that all its runs import."""

    make: Make
    command: Arguments
    module: str = "ferjax.__main__"


class Failure(NamedTuple):
    """A damaged file that a command did not take well."""

    path: pathlib.Path
    reason: str
    output: str


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a copy with one to eight random changes."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        at, length = int(rng.integers(len(changed) + 1)), int(rng.integers(1, 17))
        noise = rng.integers(0, 256, length, np.uint8).tobytes()
        change = rng.integers(5)
        if change == 0:
            changed[at : at + length] = noise[: len(changed) - at]
        elif change == 1:
            del changed[at : at + length]
        elif change == 2:
            changed[at:at] = noise
        elif change == 3:
            changed[at:at] = changed[at : at + 64]
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def check(kind: str, *, count: int, folder: pathlib.Path, seed: int = 0, seconds: float = SECONDS) -> list[Failure]:
    """Damages the file of a kind `count` times and gives each copy to its command.

    Args:
      kind: one of KINDS.
      count: number of damaged copies.
      folder: where the files of failures stay.
      seed: seed of the changes.
      seconds: time after which a command counts as hanging.
    """
    importlib.import_module(KINDS[kind].module)  # once, before the fork: JAX takes seconds to import
    sound = KINDS[kind].make(folder)
    if failure := _run(kind, sound, seconds):
        raise errors.InputError(f"the undamaged {sound} fails: {failure.reason}\n{failure.output}")
    rng = np.random.default_rng(seed)
    data, failures = sound.read_bytes(), []
    for number in cli.progress(range(count), what=kind):
        path = sound.with_name(f"{sound.stem}_{number}{sound.suffix}")
        path.write_bytes(damaged(data, rng))
        failure = _run(kind, path, seconds)
        if failure:
            failures.append(failure)
            path.with_suffix(".txt").write_text(f"{failure.reason}\n{failure.output}", errors="replace")
        else:
            path.unlink()
    return failures


def _run(kind: str, path: pathlib.Path, seconds: float) -> Failure | None:
    """Runs the command of a kind on one file in a child process; returns None if it took the file well."""
    with tempfile.TemporaryDirectory() as empty:
        log = pathlib.Path(empty) / "output"
        child = os.fork()
        if not child:
            _child(KINDS[kind].command(path, pathlib.Path(empty)), log)
        code = _wait(child, seconds)
        output = log.read_text(errors="replace") if log.exists() else ""
    if code is None:
        return Failure(path, f"still running after {seconds:g} s", output)
    lines = [line for line in output.splitlines() if line.startswith("ferjax: error")]
    if code not in (0, 2) or "Traceback" in output or (code == 2 and len(lines) != 1):
        return Failure(path, f"exit code {code}, {len(lines)} error lines", output)
    return None


def _child(arguments: list[str], log: pathlib.Path) -> None:
    """Runs ferjax with its output in a file and ends the process."""
    code = 70
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, errors="replace", closefd=False) for n in (1, 2))
        command_line.run(arguments[0], arguments[1:])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _wait(child: int, seconds: float) -> int | None:
    """Returns the exit code of a child, negative for a signal; None if it had to be killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _quietly(*arguments: str) -> None:
    """Runs ferjax without its output in a process of its own: this one forks, which JAX's threads forbid."""
    subprocess.run([sys.executable, "-m", "ferjax", *arguments], check=True, capture_output=True)


def _shipped(suffix: str) -> Make:
    def make(folder: pathlib.Path) -> pathlib.Path:
        source = shipped.FOLDER / f"mini_xception{suffix}"
        return pathlib.Path(shutil.copy(source, folder / source.name))

    return make


def _onnx(folder: pathlib.Path) -> pathlib.Path:
    model = str(shipped.FOLDER / "mini_xception.safetensors")
    empty = ["--data-dir", str(folder / "data"), "--out", str(folder / "export")]
    _quietly("export", "--model", model, "--format", "onnx", "--quantization", "none", *empty)
    return (folder / "export" / "mini_xception.onnx").rename(folder / "mini_xception.onnx")


def _checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """Writes three tensors with names of torchvision's ResNet-18, in PyTorch's zip format."""
    path = folder / "resnet18.pth"
    rng = np.random.default_rng(0)
    tensors = {"conv1.weight": rng.normal(size=(64, 3, 7, 7)), "bn1.weight": np.ones(64), "fc.bias": np.zeros(7)}
    with zipfile.ZipFile(path, "w") as archive:
        storages = {name: np.float32(value).tobytes() for name, value in tensors.items()}
        archive.writestr("archive/data.pkl", _pickled({name: value.shape for name, value in tensors.items()}))
        for number, content in enumerate(storages.values()):
            archive.writestr(f"archive/data/{number}", content)
    return path


def _pickled(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Pickles a state dict of float32 tensors as PyTorch does, in protocol 2."""
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()  # noqa: E731
    whole = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    parts = [b"\x80\x02}("]
    for number, (name, shape) in enumerate(shapes.items()):
        size = int(np.prod(shape))
        strides = [size // int(np.prod(shape[: axis + 1])) for axis in range(len(shape))]
        storage = [b"(", text("storage"), b"ctorch\nFloatStorage\n", text(str(number)), text("cpu"), whole(size), b"tQ"]
        lists = [b"(", *map(whole, shape), b"t(", *map(whole, strides), b"t"]
        parts += [text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", *storage, whole(0), *lists, b"\x89}tR"]
    return b"".join([*parts, b"u."])


def _faces(folder: pathlib.Path, count: int = 6) -> list[pathlib.Path]:
    """Renders faces of two classes as PNG files faces/<class>/N.png."""
    paths = []
    for label, name in enumerate(("happy", "sad")):
        (folder / "faces" / name).mkdir(parents=True, exist_ok=True)
        labels = np.full(count, EXPRESSIONS.index(name))
        for number, image in enumerate(rendering.render_faces(labels, seed=label, size=48, channels=1)):
            paths.append(folder / "faces" / name / f"{number}.png")
            Image.fromarray(image[..., 0]).save(paths[-1])
    return paths


def _zip(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for face in _faces(folder):
            archive.write(face, face.relative_to(folder))
    return path


def _table(folder: pathlib.Path) -> pathlib.Path:
    lines = [f"{face.relative_to(folder)},{face.parent.name}" for face in _faces(folder)]
    path = folder / "labels.csv"
    path.write_text("\n".join(["path,label", *lines]) + "\n")
    return path


def _film(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "film.mp4"
    _quietly("clip", "moving", "--seconds", "1", "--out", str(path))
    return path


def _predict(file: pathlib.Path, empty: pathlib.Path) -> list[str]:
    _faces(empty, count=1)
    return ["predict", str(file), str(empty / "faces"), "--out", str(empty / "out.csv")]


def _start(config: str) -> Arguments:
    """Returns a training that reads the weights and ends at the next group of the configuration, before it compiles."""
    small = [f"--config.data.{split}=14" for split in ("train", "validation", "test")]

    def arguments(file: pathlib.Path, empty: pathlib.Path) -> list[str]:
        stop = ["--config.optim.name=none", "--workdir", str(empty / "run"), "--data_dir", str(file.parent / "data")]
        return ["train", "--config", config, f"--config.init.pretrained={file}", *small, *stop]

    return arguments


def _prepare(kind: str) -> Arguments:
    return lambda file, empty: ["prepare", kind, "--source", str(file), "--name", "x", "--data-dir", str(empty)]


def _live(file: pathlib.Path, empty: pathlib.Path) -> list[str]:
    return ["live", "--source", str(file), "--no-display", "--log", str(empty / "log.jsonl")]


_EXPERIMENT = "ferjax.train.experiment"
KINDS = {
    "tflite": Kind(_shipped(".tflite"), _predict),
    "onnx": Kind(_onnx, _predict),
    "safetensors": Kind(_shipped(".safetensors"), _start("mini_xception:demo"), _EXPERIMENT),
    "pth": Kind(_checkpoint, _start("resnet18:demo"), _EXPERIMENT),
    "zip": Kind(_zip, _prepare("folder")),
    "csv": Kind(_table, _prepare("csv")),
    "mp4": Kind(_film, _live),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each kind; exits with 1 if a command failed on a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of files (default: all)")
    parser.add_argument("--count", type=int, default=500, help="damaged files of each kind (default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages (default: 0)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/mutations"), help="folder of failures")
    options = parser.parse_args(argv)
    found = 0
    for kind in options.kinds:
        folder = options.out / kind
        folder.mkdir(parents=True, exist_ok=True)
        failures = check(kind, count=options.count, folder=folder, seed=options.seed)
        found += len(failures)
        print(f"{kind}: {options.count} damaged files, {len(failures)} failures", flush=True)
        for failure in failures[:5]:
            print(f"  {failure.path}: {failure.reason}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    cli.run(main)
