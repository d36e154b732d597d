"""The network that a contract describes, ready to be called: in floats, or rounding as it was trained to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from ferjax import models
from ferjax.quant import rounding
from ferjax.spec import ModelSpec

TRAINED = {"qat": 8, "int4": 4}  # `ModelSpec.quantization` of a network that rounds -> bits of its weights


class Network(NamedTuple):
    """What `create` returns.

    Attributes:
      module: the Flax network.
      apply: (variables, images, train=…, mutable=…, rngs=…) -> logits, and changed collections if any is mutable.
    """

    module: Any
    apply: Callable[..., Any]


def create(spec: ModelSpec, *, dtype: Any = jnp.float32) -> Network:
    """Returns the network of a contract; its variables come from the same checkpoint.

    Args:
      spec: a float network's or, where `quantization` is in `TRAINED`, one whose kernels and activations are rounded.
      dtype: of the computation; what the contract may say of it counts for training alone.

    Raises:
      InputError: if there is no such network.
    """
    arguments = {**spec.architecture_args, "dtype": dtype}
    module = models.create(spec.architecture, num_classes=len(spec.class_names), **arguments)
    return Network(module, apply_of(spec, module))


def apply_of(spec: ModelSpec, module: Any) -> Callable[..., Any]:
    """Returns the apply function of a module that was made for a contract, see `Network`."""
    bits = weight_bits(spec)
    return rounding.make_apply(module, weight_bits=bits) if bits else module.apply


def weight_bits(spec: ModelSpec) -> int:
    """Returns the width of a network's integer weights, 0 for a network in floats."""
    return TRAINED.get(spec.quantization, 0)
