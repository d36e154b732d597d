"""Defines Trained, a spec with variables."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from ferjax import models
from ferjax.quant import rounding
from ferjax.spec import ModelSpec

TRAINED = {"qat": 8, "int4": 4}  # `ModelSpec.quantization` of a network with fake quantization -> bits of its weights


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      spec: the spec; if its `quantization` is in `TRAINED`, kernels and activations have fake quantization.
      variables: {"params": …, other collections}; with fake quantization, also the collection "ranges".
    """

    spec: ModelSpec
    variables: Mapping[str, Any]

    @property
    def module(self) -> Any:
        """The Flax network in float32; InputError if the architecture is unknown."""
        return self.module_in(jnp.float32)

    @property
    def apply(self) -> Callable[..., Any]:
        """`apply_of` the module in float32."""
        return self.apply_of(self.module)

    def module_in(self, dtype: Any) -> Any:
        """Returns the Flax network with computation in `dtype`, or raises InputError for an unknown architecture."""
        arguments = {**self.spec.architecture_args, "dtype": dtype}
        return models.create(self.spec.architecture, num_classes=len(self.spec.class_names), **arguments)

    def apply_of(self, module: Any) -> Callable[..., Any]:
        """Returns the apply function of a module, with fake quantization if the spec has it.

        It is (variables, images, train=…, mutable=…, rngs=…) -> logits, and the changed collections if any is mutable.
        """
        bits = weight_bits(self.spec)
        return rounding.make_apply(module, weight_bits=bits) if bits else module.apply


def weight_bits(spec: ModelSpec) -> int:
    """Returns the bits of a network's integer weights, 0 for a float network."""
    return TRAINED.get(spec.quantization, 0)
