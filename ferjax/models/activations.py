"""Provides the activations by name."""

from collections.abc import Callable
from functools import partial

import jax
from flax import linen as nn

from ferjax.errors import unknown


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Returns relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return nn.relu6(x + 3.0) * (1 / 6)


def hard_swish(x: jax.Array) -> jax.Array:
    """Returns x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return x * hard_sigmoid(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Returns the tanh approximation of GELU."""
    return nn.gelu(x, approximate=True)


# A composite, so that TFLite and ONNX files hold one operator: erf alone becomes dozens of them.
_marked_gelu = jax.lax.composite(
    lambda x, approximate: nn.gelu(x, approximate=False),
    name="aten.gelu.default",
)


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """Returns the exact GELU, which pretrained transformers need (Hendrycks and Gimpel 2016)."""
    return _marked_gelu(x, approximate="none")


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(partial(nn.gelu, approximate=False), primals, tangents)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "hard_swish": hard_swish,
    "hard_sigmoid": hard_sigmoid,
    "sigmoid": nn.sigmoid,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "linear": lambda x: x,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation with a name in `ACTIVATIONS`; raises InputError for an unknown name."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
