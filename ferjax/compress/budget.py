"""Measures the size and latency of a network as a file, and finds the best network within a file size."""

import pathlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from ferjax import cli, errors, export, models, runtime
from ferjax import spec as specs
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
    """Returns the best network whose exported TFLite file has at most `target` bytes.

    A network that fits is returned unchanged. Otherwise, for each bit width of the weights, one threshold on the
    channel scores of all layers gives the largest network that fits; the one with the smallest loss is returned.

    Args:
      network: the network, in float32.
      target: size of the file in bytes, with the spec.
      slopes: network -> gradients of its parameters for the channel scores, or None for magnitudes.
      images: uint8 (N, H, W, C) training images, for ranges and losses.
      labels: int (N,) labels of the images.

    Raises:
      InputError: if the network is quantized, or no bit width fits.
    """
    if trained.weight_bits(network.spec):
        raise errors.InputError(f"--target-bytes requires a float network, got {network.spec.quantization}")
    try:
        channels = bool(groups(network))
    except errors.InputError:  # no rules for this architecture
        channels = False
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
        how = "minimum channels" if channels else "its channels cannot be removed"
        raise errors.InputError(
            f"{network.spec.architecture} does not fit into {target:,} bytes: the smallest file has "
            f"{smallest[bits]:,} ({_named(bits)}, {how})"
        )
    return min(candidates, key=lambda candidate: loss(candidate, images, labels))


def file_bytes(network: Trained) -> int:
    """Returns the size in bytes of the TFLite file that `ferjax export` makes of a network, with the spec."""
    spec = network.spec
    quantization = spec.quantization if trained.weight_bits(spec) else "none"
    row = export.choose(spec, ["tflite"], [quantization])[0]
    third = 1 / 3  # the longest decimal form, so that the spec is at least as long as the exported one
    known = {"temperature": third, "abstention_threshold": third, "accuracy": {"validation": third}}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        path.write_bytes(row.make(Conversion(network, np.zeros(0))))
        specs.embed(path, spec.replace(quantization=quantization, params_sha256="0" * 64, macs=10**9, **known))
        return path.stat().st_size


def latency(spec: ModelSpec) -> slim.CostFn:
    """Returns a cost function for `ferjax.prune.slim.choose`: module -> milliseconds for one image.

    It is the median of 100 passes of the float32 TFLite file on this machine, with one thread.
    """
    image = np.zeros((1, *spec.input_shape), np.uint8)
    plain = spec.replace(quantization="none")

    def milliseconds(module: Any) -> float:
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), np.zeros(image.shape, np.float32), train=False))
        variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), dict(shapes))
        apply = partial(models.for_export(module).apply, variables, train=False)
        source = Conversion(Trained(plain, variables), np.zeros(0), bind=lambda _: apply)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.tflite"
            path.write_bytes(source.float32)
            specs.embed(path, plain)
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
    """Returns the largest network that fits with a bit width, or the size of the smallest one if none fits."""
    shape = network.spec.input_shape

    def price(module: Any) -> float:
        return _payload(module, shape, bits)

    def made(plain: Trained) -> tuple[Trained, float, int]:
        rounded = plain if bits == 32 else train_quantization.quantize(plain, images, bits=bits)
        return rounded, price(plain.module), file_bytes(rounded)

    whole, payload, size = made(network)
    if size <= target or not scored:
        return whole if size <= target else size
    least = {group.name: np.sort(np.argsort(-scored[group.name])[: group.least]) for group in groups(network)}
    least = {name: stay for name, stay in least.items() if len(stay) < len(scored[name])}
    best, floor, held = made(refreshed(cut(network, least), images))
    if held > target:
        return held
    for _ in range(_TRIES):  # the overhead of the file hardly depends on the widths, so this converges
        plain = slimmed(network, scored, price, max(floor, payload + target - size))
        if price(plain.module) == payload:
            break
        candidate, payload, size = made(refreshed(plain, images))
        if held < size <= target:
            best, held = candidate, size
    return best


def _payload(module: Any, shape: tuple[int, int, int], bits: int) -> float:
    """Returns the bytes of the parameters in a file, with a scale and a zero point per channel of integer kernels."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)["params"]
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kernel = path_name(path).endswith("kernel")
        total += leaf.size * (bits / 8 if kernel else 4)
        total += 12 * leaf.shape[-1] if kernel and bits < 32 else 0
    return total


def _named(bits: int) -> str:
    return "floats" if bits == 32 else f"{bits}-bit weights"
