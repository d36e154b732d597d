"""Prepares networks for quantization-aware training: folds normalizations and observes activation ranges.

Training uses it for the group `quant` of a configuration, `ferjax.compress` for quantization without training.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, errors
from ferjax.quant import rounding
from ferjax.weights import Trained, trained

OBSERVERS = ("min_max", "percentile")
_IMAGES, _BATCH = 256, 32


def prepare(
    network: Trained,
    *,
    images: np.ndarray,
    batches_per_epoch: int,
    dtype: Any = jnp.float32,
    bits: int = 0,
    observer: str = "min_max",
    percentile: float = 99.9,
    decay: float = 0.99,
    freeze_epochs: float = 0.0,
) -> tuple[Trained, Callable[..., Any]]:
    """Adds fake quantization to a network if `bits` is set.

    Args:
      network: the initial network.
      images: uint8 (N, H, W, C) training images; 256 of them calibrate the initial ranges.
      batches_per_epoch: micro-batches per epoch, for `freeze_epochs`.
      dtype: dtype of the computation.
      bits: bits of the weights, 8 or 4 (activations: 8); 0 disables quantization.
      observer: range of a batch: "min_max", or "percentile" to clip outliers.
      percentile: see `ferjax.quant.rounding.percentile`.
      decay: decay of the ranges' moving average over batches, in [0, 1).
      freeze_epochs: epochs after which the ranges stay fixed; 0 for never.

    Returns:
      The network to train, and the apply function of its train step.

    Raises:
      InputError: for an unknown observer or width, a value outside its range, or a quantized network with bits 0.
    """
    if bits not in (0, *trained.TRAINED.values()):
        raise errors.InputError(f"quant.bits must be 8, 4 or 0 (no quantization), got {bits!r}")
    if observer not in OBSERVERS:
        raise errors.unknown("quant.observer", observer, OBSERVERS)
    if not freeze_epochs >= 0:
        raise errors.InputError(f"quant.freeze_epochs must be 0 or more, got {freeze_epochs}")
    if not bits:
        if rounded := trained.weight_bits(network.spec):
            raise errors.InputError(
                f"quant.bits is 0, but the initial network has {rounded}-bit weights: set quant.bits={rounded}"
            )
        return network, network.module_in(dtype).apply
    observe = rounding.percentile(percentile) if observer == "percentile" else rounding.min_max
    freeze = round(freeze_epochs * batches_per_epoch) if freeze_epochs else None
    network = quantize(network, images, bits=bits, observe=observe)
    if freeze is not None:
        ranges = {**network.variables["ranges"], "seen": jnp.zeros((), jnp.float32)}
        network = network._replace(variables={**network.variables, "ranges": ranges})
    module = network.module_in(dtype)
    return network, rounding.make_apply(module, weight_bits=bits, observe=observe, decay=decay, freeze=freeze)


def fold(network: Trained) -> Trained:
    """Folds batch normalizations into the preceding layers."""
    spec, module = network.spec, network.module
    folded, changed = rounding.fold(module, network.variables, spec.input_shape)
    if folded is module:
        return Trained(spec, changed)
    size = sum(leaf.size for leaf in jax.tree.leaves(changed["params"]))
    return Trained(spec.replace(architecture_args={**spec.architecture_args, "folded": True}, parameters=size), changed)


def quantize(
    network: Trained, images: np.ndarray, *, bits: int, observe: rounding.Observer = rounding.min_max
) -> Trained:
    """Quantizes a network after training: folds normalizations and calibrates activation ranges.

    Args:
      network: the network; existing ranges are discarded.
      images: uint8 (N, H, W, C); 256 of them are drawn. A range is the mean over their batches.
      bits: bits of the weights, 8 or 4.
      observe: range of a batch.
    """
    folded = fold(network._replace(variables={k: v for k, v in network.variables.items() if k != "ranges"}))
    spec, module = folded.spec, folded.module
    empty = rounding.initial_ranges(module, spec.input_shape)
    apply = rounding.make_apply(module, weight_bits=bits, observe=observe)
    look = jax.jit(functools.partial(apply, train=False, mutable=["ranges"]))
    chosen = np.random.default_rng(0).permutation(len(images))[:_IMAGES]
    seen = []
    for batch in np.split(chosen, range(_BATCH, len(chosen), _BATCH)):
        inputs = augment.normalize(augment.to_float(jnp.asarray(images[batch])), mean=spec.mean, std=spec.std)
        seen.append(look({**folded.variables, "ranges": empty}, inputs)[1]["ranges"])
    ranges = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *seen)
    name = next(name for name, width in trained.TRAINED.items() if width == bits)
    return Trained(spec.replace(quantization=name), {**folded.variables, "ranges": ranges})
