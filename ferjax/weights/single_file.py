"""Trained weights in one file, to be trained on: `--config.init.pretrained=NAME.safetensors`.

The file holds the variables in floats under their paths, such as "params/stem/conv/kernel", and in its metadata, under
"ferjax", the contract of the run: which network they belong to, how its pixels go in, what its logits mean. It loads
without running anything, and everything that reads safetensors reads it.
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
    """Writes a network's variables with its spec, in one step.

    Args:
      path: a .safetensors file; it is replaced.
      network: in floats.

    Raises:
      InputError: if the network rounds its weights, or its normalisations are folded into them: training on from such
        weights as if they were plain ones would not give the same network.
    """
    from safetensors.numpy import save as to_bytes

    spec = network.spec
    if weight_bits(spec) or spec.architecture_args.get("folded"):
        rounds = f"rounds its weights (quantization {spec.quantization!r})"
        why = rounds if weight_bits(spec) else "has its normalisations folded into its weights"
        raise InputError(f"this {spec.architecture} {why}: give the run that it started from")
    flat = traverse_util.flatten_dict(dict(network.variables), sep="/")
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in sorted(flat.items())}
    with folders.atomic_file(path) as part:
        part.write_bytes(to_bytes(tensors, metadata={KEY: spec.to_json()}))


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file was written by `save`; False for what is missing, damaged or of another kind."""
    return _contract(path) is not None


def load(source: str | os.PathLike[str], kind: str = "best") -> Trained:
    """Reads a trained network from either form in which one is kept: a run's folder, or a file that `save` wrote.

    Args:
      source: the folder or the file.
      kind: "best" or "last" checkpoint of a run; a file holds one.

    Raises:
      InputError: if the source is missing or damaged, a file was not written by `save`, or its weights are not those
        of its spec.
    """
    if Path(source).suffix != SUFFIX:
        return checkpoint.read(source, kind)[0]
    tensors = read_state_dict(Path(source))
    text = _contract(source)
    if text is None:
        raise InputError(f"{os.fspath(source)} carries no ferjax contract: it was not written by ferjax")
    spec = ModelSpec.from_json(text)
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    if spec.params_sha256 and checkpoint.fingerprint(variables) != spec.params_sha256:
        raise InputError(f"{os.fspath(source)} is damaged or was changed: its weights are not those of its contract")
    return Trained(spec, variables)


def main(argv: Sequence[str]) -> None:
    """Writes the best weights of a run into a file."""
    parser = cli.parser("weights", "Saves a run's best weights as one .safetensors file with their spec.")
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="a run's folder")
    cli.add_out(parser, "the .safetensors file")
    options = parser.parse_args(argv)
    if options.out.suffix != SUFFIX or not options.out.absolute().parent.is_dir():
        raise InputError(f"--out must be a {SUFFIX} file in an existing folder, got {options.out}")
    network, _ = checkpoint.read(options.workdir)
    save(options.out, network)
    print(f"saved {options.out}: {network.spec.architecture}, {network.spec.parameters:,} parameters")


def _contract(path: str | os.PathLike[str]) -> str | None:
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix != SUFFIX or not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(KEY)
    except SafetensorError:
        return None
