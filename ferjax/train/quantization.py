"""Where quantisation-aware training begins: normalisations folded, ranges observed, the contract saying so.

Used by training (the group `quant` of a configuration) and by `ferjax.compress`, which stops there.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, errors
from ferjax.quant import rounding
from ferjax.spec import ModelSpec
from ferjax.weights import trained

OBSERVERS = ("min_max", "percentile")
_IMAGES, _BATCH = 256, 32


class Prepared(NamedTuple):
    """A network ready to train.

    Attributes:
      spec: its contract; `architecture_args` say `folded` and `quantization` names the rounding where there is any.
      variables: to begin with; of a network that rounds, with the collection "ranges".
      module: the Flax network, computing in the training's dtype.
      apply: for the train step; for evaluation see `ferjax.weights.trained.create`.
    """

    spec: ModelSpec
    variables: dict[str, Any]
    module: Any
    apply: Callable[..., Any]


def prepare(
    spec: ModelSpec,
    variables: Mapping[str, Any],
    *,
    images: np.ndarray,
    batches_per_epoch: int,
    dtype: Any = jnp.float32,
    bits: int = 0,
    observer: str = "min_max",
    percentile: float = 99.9,
    decay: float = 0.99,
    freeze_epochs: float = 0.0,
) -> Prepared:
    """Makes a network feel its integers, if that is asked for.

    Args:
      spec: its contract, in floats.
      variables: to begin with.
      images: uint8 (N, H, W, C) training images, of which 256 show the ranges that training starts from.
      batches_per_epoch: in one pass over the training set, each micro-batch counted, for `freeze_epochs`.
      dtype: of the computation.
      bits: of the weights, 8 or 4, activations have 8; 0 stays in floats.
      observer: what a batch says about a range: "min_max" its ends, "percentile" what lies between percentiles.
      percentile: of that observer, see `quantized.percentile`.
      decay: of the ranges' moving average over batches, in [0, 1).
      freeze_epochs: epochs after which ranges stay; 0 never.

    Raises:
      InputError: for an unknown name or width, a value outside its range, or a start that rounds already where
        `bits` is 0.
    """
    if bits not in (0, *trained.TRAINED.values()):
        raise errors.InputError(f"quant.bits must be 8 or 4, the width of the weights, or 0 for floats; got {bits!r}")
    if observer not in OBSERVERS:
        raise errors.unknown("quant.observer", observer, OBSERVERS)
    if not freeze_epochs >= 0:
        raise errors.InputError(f"quant.freeze_epochs must not be negative, got {freeze_epochs}")
    if not bits:
        if rounded := trained.weight_bits(spec):
            raise errors.InputError(
                f"the run to start from was quantised to {rounded}-bit weights: set quant.bits={rounded} to train it on"
            )
        module = trained.create(spec, dtype=dtype).module
        return Prepared(spec, dict(variables), module, module.apply)
    observe = rounding.percentile(percentile) if observer == "percentile" else rounding.min_max
    freeze = round(freeze_epochs * batches_per_epoch) if freeze_epochs else None
    spec, variables = quantise(spec, variables, images, bits=bits, observe=observe)
    if freeze is not None:
        variables["ranges"] = {**variables["ranges"], "seen": jnp.zeros((), jnp.float32)}
    module = trained.create(spec, dtype=dtype).module
    apply = rounding.make_apply(module, weight_bits=bits, observe=observe, decay=decay, freeze=freeze)
    return Prepared(spec, variables, module, apply)


def fold(spec: ModelSpec, variables: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns the contract and the variables of the same network without batch normalisations."""
    module = trained.create(spec).module
    folded, changed = rounding.fold(module, variables, spec.input_shape)
    if folded is module:
        return spec, changed
    size = sum(leaf.size for leaf in jax.tree.leaves(changed["params"]))
    return spec.replace(architecture_args={**spec.architecture_args, "folded": True}, parameters=size), changed


def quantise(
    spec: ModelSpec,
    variables: Mapping[str, Any],
    images: np.ndarray,
    *,
    bits: int,
    observe: rounding.Observer = rounding.min_max,
) -> tuple[ModelSpec, dict[str, Any]]:
    """Folds a network and finds the ranges of its activations: quantisation without training.

    Args:
      spec: its contract.
      variables: its variables; ranges that are there are found anew.
      images: uint8 (N, H, W, C), of which 256 are drawn; a range is the mean of what their batches show.
      bits: of the weights, 8 or 4.
      observe: what a batch says about a range.

    Returns:
      The contract and the variables of the network that rounds.
    """
    spec, changed = fold(spec, {k: v for k, v in variables.items() if k != "ranges"})
    module = trained.create(spec).module
    empty = rounding.initial_ranges(module, spec.input_shape)
    apply = rounding.make_apply(module, weight_bits=bits, observe=observe)
    look = jax.jit(functools.partial(apply, train=False, mutable=["ranges"]))
    chosen = np.random.default_rng(0).permutation(len(images))[:_IMAGES]
    seen = []
    for batch in np.split(chosen, range(_BATCH, len(chosen), _BATCH)):
        inputs = augment.normalize(augment.to_float(jnp.asarray(images[batch])), mean=spec.mean, std=spec.std)
        seen.append(look({**changed, "ranges": empty}, inputs)[1]["ranges"])
    ranges = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *seen)
    name = next(name for name, width in trained.TRAINED.items() if width == bits)
    return spec.replace(quantization=name), {**changed, "ranges": ranges}
