"""Defines the state of a run and the sums of an epoch, arrays only.

Random keys are `fold_in(key(seed), step)` and are not stored, so a resumed run equals an uninterrupted one bit for bit.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Arrays = Mapping[str, Any]


class TrainState(NamedTuple):
    """The training state.

    Attributes:
      step: int32 scalar, number of optimizer steps so far.
      params: parameters, float32.
      collections: the other variables, such as {"batch_stats": …}.
      opt_state: the optax state.
      ema: moving average of all variables, or {}.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    ema: Any

    def variables(self) -> dict[str, Any]:
        """Returns the variables for evaluation: the moving average if there is one, else the current variables."""
        return self.ema or {"params": self.params, **self.collections}


class Sums(NamedTuple):
    """Sums over the steps of one epoch, on the device.

    Attributes:
      loss: float32, sum of the per-example losses.
      correct: int32, examples whose largest logit is that of their largest target.
      examples: int32.
      steps: int32.
      grad_norm: float32, sum over steps of the gradient's global norm, before clipping.
      update_norm: float32, sum over steps of the update's global norm.
      bad: int32, steps whose loss or gradient was not finite.
      first_bad: int32, the first such step, or the largest int32.
      agreed: int32, examples for which student and teacher predict the same class; () without a teacher.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array
    steps: jax.Array
    grad_norm: jax.Array
    update_norm: jax.Array
    bad: jax.Array
    first_bad: jax.Array
    agreed: Any = ()

    @classmethod
    def zero(cls, *, taught: bool = False) -> "Sums":
        """Returns zero sums, with or without a teacher."""
        real, whole = jnp.result_type(float), jnp.int32
        zeros = [jnp.zeros((), t) for t in (real, whole, whole, whole, real, real, whole)]  # one buffer each: donated
        first_bad = jnp.array(np.iinfo(np.int32).max, whole)
        return cls._make([*zeros, first_bad, jnp.zeros((), whole) if taught else ()])

    def add(self, other: "Sums") -> "Sums":
        """Adds two sums."""
        total = jax.tree.map(jnp.add, self, other)
        return total._replace(first_bad=jnp.minimum(self.first_bad, other.first_bad))


def init_state(variables: Mapping[str, Any], tx: optax.GradientTransformation, *, ema: bool = False) -> TrainState:
    """Returns the state of step 0 for {"params": …, other collections}; `ema` adds a moving average."""
    params = variables["params"]
    collections = {k: v for k, v in variables.items() if k != "params"}

    @jax.jit  # one program: a compilation for each shape takes half a second
    def start(variables: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return tx.init(variables["params"]), jax.tree.map(jnp.copy, variables) if ema else {}

    return TrainState(jnp.zeros((), jnp.int32), params, collections, *start(dict(variables)))
