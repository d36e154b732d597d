"""What a network costs as a file: its bytes and its milliseconds, and the best network that a size allows."""

import pathlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from ferjax import cli, errors, export, models, runtime
from ferjax import spec as contract
from ferjax.compress.channels import cut, groups, loss, refreshed, scores, slimmed
from ferjax.export.conversion import Conversion
from ferjax.prune import slim
from ferjax.spec import ModelSpec
from ferjax.train import quantization as train_quantization
from ferjax.trees import path_name
from ferjax.weights import Trained, trained

WIDTHS = (32, 8, 4)  # bits of the weights, 32 for floats
_TRIES = 6


def fit(
    network: Trained, target: int, *, slopes: Callable[[Trained], Any], images: np.ndarray, labels: np.ndarray
) -> Trained:
    """Returns the best network whose exported TFLite file takes no more than a number of bytes.

    A network that fits as it is stays so. Else, for each width of the weights, one threshold on the channels' scores
    gives the largest network that fits; of these the one with the smallest loss is taken. So no layer needs a setting
    of its own (Valverde's claim), and what a width costs is measured, not assumed.

    Args:
      network: to begin with, in floats.
      target: the file's bytes, spec included.
      slopes: network -> gradients of its parameters for the channels' scores, or None for their magnitude.
      images: uint8 (N, H, W, C) training images, for ranges and losses.
      labels: int (N,) of them.

    Raises:
      InputError: if the network rounds already, or no width fits: the smallest file is named.
    """
    if trained.weight_bits(network.spec):
        raise errors.InputError("--target-bytes chooses the bits: start from a run in floats")
    channels = _slimmable(network)
    scored = scores(network, slopes(network)) if channels else {}
    candidates, smallest = [], {}
    for bits in WIDTHS:
        candidate = _largest(network, scored, bits, target, images)
        if candidate is network:
            return network
        if isinstance(candidate, int):
            smallest[bits] = candidate
        else:
            candidates.append(candidate)
            cli.note(f"{_named(bits)}: {file_bytes(candidate):,} bytes, {candidate.spec.parameters:,} parameters")
    if not candidates:
        bits = min(smallest, key=lambda b: smallest[b])
        how = "every group of channels at its least" if channels else "it has no rules for removing channels"
        raise errors.InputError(
            f"{network.spec.architecture} does not fit into {target:,} bytes: the smallest file has "
            f"{smallest[bits]:,} ({_named(bits)}, {how})"
        )
    return min(candidates, key=lambda candidate: loss(candidate, images, labels))


def file_bytes(network: Trained) -> int:
    """Returns the size of the TFLite file that export.py makes of a network, spec included."""
    with tempfile.TemporaryDirectory() as folder:
        return _written(network, pathlib.Path(folder)).stat().st_size


def latency(spec: ModelSpec) -> slim.CostFn:
    """Returns the cost of a module in milliseconds for one image: its float32 TFLite file on this machine, one thread.

    The median of a hundred passes, for `ferjax.prune.slim.choose`; a machine that does other things measures them too.

    Args:
      spec: of the network, for its input.
    """
    image = np.zeros((1, *spec.input_shape), np.uint8)
    plain = spec.replace(quantization="none")  # what a network that rounds costs in floats

    def milliseconds(module: Any) -> float:
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros(image.shape, np.float32), train=False))
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), dict(shapes))
        apply = partial(models.for_export(module).apply, variables, train=False)
        source = Conversion(Trained(plain, variables), np.zeros(0), bind=lambda _: apply)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            path.write_bytes(source.float32)
            contract.embed(path, plain)
            loaded, times = runtime.load(path, threads=1), []
            for _ in range(120):
                started = time.perf_counter()
                loaded.logits(image)
                times.append(1e3 * (time.perf_counter() - started))
        return float(np.median(times[20:]))

    return milliseconds


def _largest(
    network: Trained, scored: dict[str, np.ndarray], bits: int, target: int, images: np.ndarray
) -> Trained | int:
    """Returns the largest network of a width that fits, or the size of the smallest there is."""
    shape = network.spec.input_shape

    def price(module: Any) -> float:
        return _payload(module, shape, bits)

    def made(plain: Trained) -> tuple[Trained, float, int]:
        rounded = _rounded(plain, bits, images)
        return rounded, price(plain.module), file_bytes(rounded)

    whole, payload, size = made(network)
    if size <= target or not scored:
        return whole if size <= target else size
    least = {group.name: np.sort(np.argsort(-scored[group.name])[: group.least]) for group in groups(network)}
    least = {name: stay for name, stay in least.items() if len(stay) < len(scored[name])}
    best, floor, held = made(refreshed(cut(network, least), images))
    if held > target:
        return held
    for _ in range(_TRIES):  # what a file holds beside its numbers hardly depends on the widths
        plain = slimmed(network, scored, price, max(floor, payload + target - size))
        if price(plain.module) == payload:
            break
        candidate, payload, size = made(refreshed(plain, images))
        if held < size <= target:
            best, held = candidate, size
    return best


def _rounded(network: Trained, bits: int, images: np.ndarray) -> Trained:
    return network if bits == 32 else train_quantization.quantize(network, images, bits=bits)


def _payload(module: Any, shape: tuple[int, int, int], bits: int) -> float:
    """Returns the bytes of a network's numbers in a file; integer kernels have a scale and a zero point a channel."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)["params"]
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kernel = path_name(path).endswith("kernel")
        total += leaf.size * (bits / 8 if kernel else 4)
        total += 12 * leaf.shape[-1] if kernel and bits < 32 else 0
    return total


def _written(network: Trained, folder: pathlib.Path) -> pathlib.Path:
    spec = network.spec
    quantization = spec.quantization if trained.weight_bits(spec) else "none"
    row = export.choose(spec, ["tflite"], [quantization])[0]
    path = folder / "model.tflite"
    path.write_bytes(row.make(Conversion(network, np.zeros(0))))
    third = 1 / 3  # all its digits: the spec is priced as long as what is measured later can make it
    known = {"temperature": third, "abstention_threshold": third, "accuracy": {"validation": third}}
    contract.embed(path, spec.replace(quantization=quantization, params_sha256="0" * 64, macs=10**9, **known))
    return path


def _slimmable(network: Trained) -> bool:
    try:
        return bool(groups(network))
    except errors.InputError:
        return False


def _named(bits: int) -> str:
    return "floats" if bits == 32 else f"{bits}-bit weights"
