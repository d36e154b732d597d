"""Networks with the ranges of quantization-aware training, and their files' source."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.export import conversion
from ferjax.quant import rounding
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import quick
from tests.support import tiny_networks as tiny


def observed(name, weight_bits=8):
    """A folded network with the ranges of 32 images, those images, and their outputs with fake quantization.

    Fake quantization runs in float64. In float32 a sum's last bits depend on the order in which a processor adds; a
    value that lies between two integers then becomes another one, and a deep network turns it into several steps.
    """
    module, _, shape = tiny.create(name)
    folded, variables = rounding.fold(module, tiny.variables(module, shape), shape)
    x = tiny.images(shape, 32)
    apply = rounding.make_apply(folded.clone(dtype=jnp.float64), weight_bits=weight_bits)

    def run(variables, **options):
        with jax.enable_x64(True):  # weights, ranges and scales stay in float32, as the file has them
            return quick.jit(functools.partial(apply, train=False, **options))(variables, np.float64(x))

    variables["ranges"] = rounding.initial_ranges(folded, shape)
    _, ranges = run(variables, mutable=["ranges"])
    return {**variables, **ranges}, x, lambda variables: np.asarray(run(variables))


def as_source(name, variables, x):
    spec = ModelSpec(
        class_names=tuple("abcdefg"),
        input_size=x.shape[1:3],
        color_order="gray" if x.shape[-1] == 1 else "rgb",
        mean=(0.5,) * x.shape[-1],
        std=(0.25,) * x.shape[-1],
        architecture=name,
        architecture_args=tiny.SMALL[name][0] if name.startswith("deit") else {**tiny.SMALL[name][0], "folded": True},
    )
    return conversion.Conversion(Trained(spec, variables), np.asarray(x))
