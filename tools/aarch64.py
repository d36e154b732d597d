"""Runs the live loop as on a Raspberry Pi, under QEMU, and compares its answers with those of this machine.

    apt install qemu-user
    python -m tools.aarch64

On Debian, without root: unpacks Debian's Python for arm64, installs the wheel with the extra `edge` beside it, and runs
`ferjax live` on rendered portraits and a rendered film. About three minutes and 500 MB; a second run takes one minute.
Exits with 1 if an answer differs. Emulated times mean nothing.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ferjax import cli, errors
from ferjax.data import EXPRESSIONS
from ferjax.data.synthetic import clips, rendering

ROOT = pathlib.Path(__file__).parent.parent
TOLERANCE = 0.03  # of a confidence: video decoders of two processors differ by up to 2 in 255
_PORTRAITS = 4  # of each expression


class Machine(NamedTuple):
    """A computer to emulate.

    QEMU 7.2 runs int8 kernels of its default processor wrongly. The libraries read /proc/cpuinfo, and crash if it is
    that of another architecture.
    """

    name: str
    processor: str
    part: str
    features: str

    def cpuinfo(self) -> str:
        """Returns the text of /proc/cpuinfo for two cores."""
        lines = ["CPU implementer\t: 0x41", "CPU architecture: 8", "CPU variant\t: 0x0", f"CPU part\t: {self.part}"]
        lines += ["CPU revision\t: 3", f"Features\t: {self.features}"]
        return "".join("\n".join([f"processor\t: {core}", *lines, "", ""]) for core in range(2))


MACHINES = (
    Machine("Raspberry Pi 4", "cortex-a72", "0xd08", "fp asimd evtstrm crc32 cpuid"),
    Machine(
        "Raspberry Pi 5",
        "cortex-a76",
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
)


class Difference(NamedTuple):
    """What differs between two logs of the same frames.

    Attributes:
      entries: entries, one per face and frame.
      labels: entries with another label, or that one log lacks.
      confidence: largest difference of a confidence, in 0..1.
    """

    entries: int
    labels: int
    confidence: float


def compare(one: Sequence[dict], other: Sequence[dict]) -> Difference:
    """Compares the entries of two logs of `ferjax live`, by frame and track."""
    first, second = ({(entry["frame"], entry["track"]): entry for entry in log} for log in (one, other))
    shared = first.keys() & second.keys()
    labels = len(first.keys() ^ second.keys()) + sum(first[k]["label"] != second[k]["label"] for k in shared)
    confidence = max((abs(first[k]["confidence"] - second[k]["confidence"]) for k in shared), default=0.0)
    return Difference(len(first.keys() | second.keys()), labels, confidence)


def unpack_python(folder: pathlib.Path) -> pathlib.Path:
    """Downloads and unpacks Debian's Python for arm64, of the release of this machine; returns its root folder."""
    root, state = folder / "root", folder / "apt"
    if root.exists():
        return root
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    places = {"State::Lists": "lists", "Cache": "cache", "State::Status": "status"}
    options = [f"-oDir::{key}={state.absolute() / name}" for key, name in places.items()]
    options += [
        "-oAPT::Architecture=arm64",
        "-oDebug::NoLocking=1",
        f"-oAPT::Sandbox::User={os.environ.get('USER', 'root')}",
    ]
    for command in (
        ["update"],
        ["install", "--yes", "--download-only", "--no-install-recommends", "python3", "libstdc++6"],
    ):
        subprocess.run(["apt-get", "-qq", *options, *command], check=True)
    part = folder / "root.part"
    shutil.rmtree(part, ignore_errors=True)
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, part], check=True)
    (part / "proc").mkdir()
    return part.rename(root)


def install(folder: pathlib.Path, version: str) -> pathlib.Path:
    """Builds the wheel and installs it for arm64 with the extra `edge`; returns the folder of packages."""
    target, wheels = folder / "packages", folder / "wheels"
    shutil.rmtree(target, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("ferjax-*.whl")
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 37)]
    binary = [f"--python-version={version}", "--only-binary=:all:", *platforms, "--platform=manylinux2014_aarch64"]
    subprocess.run([*pip, "install", "--target", target, *binary, f"{wheel}[edge]"], check=True)
    return target


def render(folder: pathlib.Path) -> dict[str, list[str]]:
    """Renders the inputs; returns name -> arguments of `ferjax live`."""
    portraits = folder / "portraits"
    portraits.mkdir(exist_ok=True)
    labels = np.repeat(np.arange(len(EXPRESSIONS)), _PORTRAITS)
    for number, image in enumerate(rendering.render_faces(labels, seed=0, size=256, channels=3)):
        Image.fromarray(image).save(portraits / f"{number:02}.png")
    clips.write_clip("changing", folder / "film.mp4", seconds=2)
    film = ["--source", str(folder / "film.mp4")]
    return {"portraits": ["--source", str(portraits), "--detector", "none"], "film": film}


def live(command: Sequence[str], packages: pathlib.Path, arguments: Sequence[str], log: pathlib.Path) -> list[dict]:
    """Runs `ferjax live` of a folder of packages, without a window; returns the entries of its log."""
    log.unlink(missing_ok=True)
    run = [*command, "-m", "ferjax", "live", *arguments, "--no-display", "--log", str(log)]
    subprocess.run(
        run, check=True, cwd=log.parent, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True
    )
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each machine and input; exits with 1 if answers differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/aarch64"), help="folder of all files")
    folder = parser.parse_args(argv).out.absolute()
    for tool, package in (("qemu-aarch64", "qemu-user"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if not shutil.which(tool):
            raise errors.InputError(f"requires {tool}: apt install {package}")
    folder.mkdir(parents=True, exist_ok=True)
    root = unpack_python(folder)
    (python,) = root.glob("usr/bin/python3.[0-9]*[0-9]")
    packages, differs = install(folder, python.name.removeprefix("python")), False
    print(f"{python.name} of arm64, packages: {', '.join(sorted(p.name[:-10] for p in packages.glob('*.dist-info')))}")
    for kind, arguments in render(folder).items():
        expected = live([sys.executable], ROOT, arguments, folder / f"{kind}.jsonl")
        for machine in MACHINES:
            (root / "proc" / "cpuinfo").write_text(machine.cpuinfo())
            command = ["qemu-aarch64", "-L", str(root), "-cpu", machine.processor, str(python)]
            log = folder / f"{kind}_{machine.processor}.jsonl"
            found = compare(live(command, packages, arguments, log), expected)
            same = f"{found.entries - found.labels} of {found.entries} labels equal"
            print(f"{machine.name}, {kind}: {same}, confidences within {found.confidence:.4f}", flush=True)
            differs |= found.labels > 0 or found.confidence > TOLERANCE or not found.entries
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    cli.run(main)
