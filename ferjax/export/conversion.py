"""What is converted: a Flax network with its variables, as one TensorFlow function of one image."""

import contextlib
import dataclasses
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from ferjax import errors, models
from ferjax.export.representative import typical
from ferjax.spec import ModelSpec
from ferjax.weights import trained

Apply = Callable[..., Any]


def as_trained(network: "Network") -> Apply:
    """Returns apply(image, mutable=…) of a network in evaluation mode, as training and scoring compute it."""
    return partial(trained.apply_of(network.spec, network.module), network.variables, train=False)


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network and what a converter may need of it.

    Attributes:
      spec: its contract.
      module: the Flax network, see `ferjax.models.for_export`.
      variables: {"params": …, other collections}.
      examples: float32 (N, height, width, channels), normalised training images.
      function: (apply, image (1, height, width, channels)) -> logits (1, classes); a tuple of arrays that begins with
        the logits where layers are compared.
      bind: network -> apply(image, mutable=…), the variables inside.
    """

    spec: ModelSpec
    module: Any
    variables: Any
    examples: np.ndarray
    function: Callable[[Apply, jax.Array], Any]
    bind: Callable[["Network"], Apply] = as_trained

    @classmethod
    def of(cls, spec: ModelSpec, variables: Any, examples: np.ndarray) -> "Network":
        """Returns the network that a spec describes, computing logits in float32."""
        return cls(spec, models.for_export(trained.create(spec).module), variables, examples, logits)

    @cached_property
    def calibration(self) -> np.ndarray:
        """Those examples that show integers the ranges of activations, see `examples.typical`."""
        return typical(self.bind(self), self.examples)

    @cached_property
    def traced(self) -> tuple[Any, Any]:
        """TensorFlow's concrete function of one image called "image", and the object that keeps it alive.

        The batch is exactly one: with a free batch the graph computes shapes at run time, and is 3 to 50 times slower.
        """
        tensorflow = import_tensorflow()
        with quiet():
            from jax.experimental import jax2tf

            jax_function = partial(self.function, self.bind(self))
            converted = jax2tf.convert(jax_function, with_gradient=False, native_serialization_platforms=["cpu"])
            holder = tensorflow.Module()
            holder.function = tensorflow.function(
                converted,
                autograph=False,
                input_signature=[tensorflow.TensorSpec((1, *self.spec.input_shape), tensorflow.float32, name="image")],
            )
            return holder.function.get_concrete_function(), holder

    @cached_property
    def float32(self) -> bytes:
        """The float32 TFLite file, from which every ONNX file is made."""
        return self.convert(lambda converter: converter.convert())

    def convert(self, run: Callable[[Any], bytes]) -> bytes:
        """Calls `run` with a fresh TFLiteConverter of this network and returns the file that it makes."""
        tensorflow = import_tensorflow()
        concrete, holder = self.traced
        with quiet():
            return run(tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], holder))


def logits(apply: Apply, image: jax.Array) -> jax.Array:
    """Returns a network's answer."""
    return apply(image)


def import_tensorflow() -> Any:
    """Returns the tensorflow module, loaded without its greetings.

    Raises:
      InputError: if it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet():
            import tensorflow
    except ModuleNotFoundError as error:
        raise errors.InputError(f'export needs {error.name}: pip install "ferjax[export]"') from error
    return tensorflow


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the converters' chatter, which C++ writes past Python, off the terminal; an error shows it after all."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.TemporaryFile() as chatter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for descriptor in (1, 2):
            os.dup2(chatter.fileno(), descriptor)
        failed = True
        try:
            yield
            failed = False
        finally:
            for descriptor, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)
            if failed:
                chatter.seek(0)
                sys.stderr.write(chatter.read()[-4000:].decode(errors="replace"))
