"""Implements the operations of the layers in forms that XLA's CPU backend runs fast.

Values and gradients are those of XLA's own forms; `ferjax.models.operations` selects between them.
"""

import jax


def wanted() -> bool:
    """Returns whether the default device is a CPU."""
    return jax.default_backend() == "cpu"
