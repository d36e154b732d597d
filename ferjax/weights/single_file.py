"""Reads and writes a trained network as one .safetensors file: `--config.init.pretrained=NAME.safetensors`.

The file stores the float variables under their paths, such as "params/stem/conv/kernel", and the spec in its metadata
under "ferjax".
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import traverse_util

from ferjax import cli, folders
from ferjax.errors import InputError
from ferjax.spec import ModelSpec
from ferjax.weights import checkpoint
from ferjax.weights.state_dict import read_state_dict
from ferjax.weights.trained import Trained, weight_bits

SUFFIX, KEY = ".safetensors", "ferjax"


def save(path: str | os.PathLike[str], network: Trained) -> None:
    """Writes the variables and the spec of a float network atomically.

    Args:
      path: a .safetensors file; an existing file is replaced.
      network: the network.

    Raises:
      InputError: if the network is quantized or its normalizations are folded, because training from this file would
        start a different network.
    """
    from safetensors.numpy import save as to_bytes

    spec = network.spec
    if weight_bits(spec) or spec.architecture_args.get("folded"):
        why = f"quantization {spec.quantization!r}" if weight_bits(spec) else "folded normalizations"
        raise InputError(f"this {spec.architecture} has {why}: give the float run that it started from")
    flat = traverse_util.flatten_dict(dict(network.variables), sep="/")
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in sorted(flat.items())}
    with folders.atomic_file(path) as part:
        part.write_bytes(to_bytes(tensors, metadata={KEY: spec.to_json()}))


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Returns whether `save` wrote a file; False for a missing or damaged file."""
    return _spec_json(path) is not None


def load(source: str | os.PathLike[str], kind: str = "best") -> Trained:
    """Reads a trained network from a workdir or from a file that `save` wrote.

    Args:
      source: the workdir or the .safetensors file.
      kind: "best" or "last" checkpoint of a workdir.

    Raises:
      InputError: if the source is missing, damaged, or not written by ferjax.
    """
    if Path(source).suffix != SUFFIX:
        if Path(source).is_file():
            what = f"the workdir of a training run, or its {SUFFIX} file of `ferjax weights`"
            raise InputError(f"{os.fspath(source)} is no trained network: give {what}")
        return checkpoint.read(source, kind)[0]
    tensors = read_state_dict(Path(source))
    text = _spec_json(source)
    if text is None:
        raise InputError(f"{os.fspath(source)} has no spec: it was not written by ferjax")
    spec = ModelSpec.from_json(text)
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    if spec.params_sha256 and checkpoint.fingerprint(variables) != spec.params_sha256:
        raise InputError(f"{os.fspath(source)} is damaged: its weights do not match the hash in its spec")
    return Trained(spec, variables)


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax weights`."""
    parser = cli.parser("weights", "Saves the best weights of a run as one .safetensors file with the spec.")
    parser.add_argument("--model", required=True, metavar="WORKDIR", type=Path, help="workdir of a training run")
    cli.add_out(parser, "the .safetensors file")
    options = parser.parse_args(argv)
    if options.out.suffix != SUFFIX or not options.out.absolute().parent.is_dir():
        raise InputError(f"--out must be a {SUFFIX} file in an existing folder, got {options.out}")
    network, _ = checkpoint.read(options.model)
    save(options.out, network)
    print(f"saved {options.out}: {network.spec.architecture}, {network.spec.parameters:,} parameters")


def _spec_json(path: str | os.PathLike[str]) -> str | None:
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix != SUFFIX or not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(KEY)
    except SafetensorError:
        return None
