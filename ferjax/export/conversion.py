"""Converts a trained network to a TensorFlow function of one image, and selects the calibration images."""

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
import jax.numpy as jnp
import numpy as np

from ferjax import errors, models
from ferjax.data import Split, subsets
from ferjax.models.layers import tapped
from ferjax.spec import ModelSpec
from ferjax.weights import Trained

Apply = Callable[..., Any]
IMAGES = 256
_OUTLIER, _REMOVED, _BATCH = 6.0, 0.05, 32


def as_trained(network: Trained) -> Apply:
    """Returns apply(image, mutable=…) of a network in evaluation mode."""
    module = models.for_export(network.module)
    return partial(network.apply_of(module), network.variables, train=False)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A trained network to convert, with the intermediate results that several files share.

    Attributes:
      network: the network, in float32.
      examples: normalized training images, float32 (N, height, width, channels).
      function: (apply, image (1, height, width, channels)) -> logits (1, classes), or a tuple of arrays that starts
        with the logits.
      bind: network -> apply(image, mutable=…), with the variables bound.
    """

    network: Trained
    examples: np.ndarray
    function: Callable[[Apply, jax.Array], Any] = lambda apply, image: apply(image)
    bind: Callable[[Trained], Apply] = as_trained

    @property
    def apply(self) -> Apply:
        """The network as a function of images."""
        return self.bind(self.network)

    @cached_property
    def calibration(self) -> np.ndarray:
        """The calibration images: the examples without activation outliers."""
        return without_outliers(self.apply, self.examples)

    @cached_property
    def traced(self) -> tuple[Any, Any]:
        """The concrete TensorFlow function of one image named "image", and the object that keeps it alive.

        The batch size is 1: with a dynamic batch the graph computes shapes at run time and is 3 to 50 times slower.
        """
        tensorflow, shape = import_tensorflow(), (1, *self.network.spec.input_shape)
        with quiet():
            from jax.experimental import jax2tf

            jax_function = partial(self.function, self.apply)
            converted = jax2tf.convert(jax_function, with_gradient=False, native_serialization_platforms=["cpu"])
            holder = tensorflow.Module()
            holder.function = tensorflow.function(
                converted,
                autograph=False,
                input_signature=[tensorflow.TensorSpec(shape, tensorflow.float32, name="image")],
            )
            return holder.function.get_concrete_function(), holder

    @cached_property
    def float32(self) -> bytes:
        """The float32 TFLite file, the source of all ONNX files."""
        return self.convert(lambda converter: converter.convert())

    def convert(self, run: Callable[[Any], bytes]) -> bytes:
        """Returns the file that `run` makes with a new TFLiteConverter of this network."""
        tensorflow = import_tensorflow()
        concrete, holder = self.traced
        with quiet():
            return run(tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], holder))


def calibration_images(spec: ModelSpec, train: Split, *, count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Returns `count` class-balanced training images, or all if fewer, as network inputs float32 (count, H, W, C)."""
    return normalize(spec, train.images[subsets.balanced(train.labels, count, seed=seed)])


def without_outliers(apply: Callable[..., Any], images: np.ndarray) -> np.ndarray:
    """Returns the images without activation outliers, which would widen the integer ranges for all other images.

    Batch normalization bounds an outlier during training, by the variance of its batch, but not in evaluation, where it
    grows from block to block. In a MobileNetV3-Small, five of 256 images reached 17 to 390 times the maximum of the
    others; with them its int8 file agreed with 32 % of the network's predictions, without them with 95 %.

    Args:
      apply: (images, mutable=["intermediates"]) -> (logits, {"intermediates": …}) in evaluation mode.
      images: float32 (N, H, W, C), normalized.

    Returns:
      The images whose largest activation is at most 6 times its median over the images, at every intermediate. At least
      95 % of the images are kept, those with the smallest ratios.
    """

    @jax.jit
    def maxima(images: jax.Array) -> dict[str, jax.Array]:
        _, state = apply(images, mutable=["intermediates"])
        return {name: jnp.abs(value.reshape(len(images), -1)).max(1) for name, value in tapped(state).items()}

    parts = [maxima(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    largest = np.stack([np.concatenate([part[name] for part in parts]) for name in parts[0]]).astype(np.float32)
    median = np.maximum(np.median(largest, 1, keepdims=True), np.finfo(np.float32).tiny)
    ratio = (largest / median).max(0)
    return images[ratio <= max(_OUTLIER, np.sort(ratio)[-1 - int(_REMOVED * len(ratio))])]


def normalize(spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    """Returns uint8 images (N, H, W, C) as float32 network inputs."""
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


def import_tensorflow() -> Any:
    """Imports tensorflow without its log messages; raises InputError if it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet():
            import tensorflow
    except ModuleNotFoundError as error:
        raise errors.InputError(f'export requires {error.name}: pip install "ferjax[export]"') from error
    return tensorflow


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the output of the converters, which C++ writes to the file descriptors; shows it after an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.TemporaryFile() as output, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        failed = True
        try:
            yield
            failed = False
        finally:
            for descriptor, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)
            if failed:
                output.seek(0)
                sys.stderr.write(output.read()[-4000:].decode(errors="replace"))
