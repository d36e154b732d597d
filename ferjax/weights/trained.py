"""A trained network: its spec and its variables, whether from a run, from a file or made in memory."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from ferjax import models
from ferjax.quant import rounding
from ferjax.spec import ModelSpec

TRAINED = {"qat": 8, "int4": 4}  # `ModelSpec.quantization` of a network that rounds -> bits of its weights


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      spec: which network it is, how its pixels go in, what its logits mean. Where `quantization` is in `TRAINED`, its
        kernels and activations are rounded.
      variables: {"params": …, other collections}; of a network that rounds, with the collection "ranges".
    """

    spec: ModelSpec
    variables: Mapping[str, Any]

    @property
    def module(self) -> Any:
        """The Flax network, computing in float32; InputError if there is none of that name."""
        return self.module_in(jnp.float32)

    @property
    def apply(self) -> Callable[..., Any]:
        """The function of `apply_of`, computing in float32."""
        return self.apply_of(self.module)

    def module_in(self, dtype: Any) -> Any:
        """Returns the Flax network that computes in a dtype; what the spec says of it counts for training alone.

        Raises:
          InputError: if there is no such network.
        """
        arguments = {**self.spec.architecture_args, "dtype": dtype}
        return models.create(self.spec.architecture, num_classes=len(self.spec.class_names), **arguments)

    def apply_of(self, module: Any) -> Callable[..., Any]:
        """Returns what calls a form of this network's module, rounding where the spec says so.

        Returns:
          (variables, images, train=…, mutable=…, rngs=…) -> logits, and changed collections if any is mutable.
        """
        bits = weight_bits(self.spec)
        return rounding.make_apply(module, weight_bits=bits) if bits else module.apply


def weight_bits(spec: ModelSpec) -> int:
    """Returns the width of a network's integer weights, 0 for a network in floats."""
    return TRAINED.get(spec.quantization, 0)
