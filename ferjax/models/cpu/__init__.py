"""Forms of the layers' operations that XLA's CPU backend runs fast; same values, same gradients.

`ferjax.models.operations` chooses between them and XLA's own.
"""

import jax


def wanted() -> bool:
    """Returns whether the default device is a CPU. Asked while a program is traced, and only here."""
    return jax.default_backend() == "cpu"
