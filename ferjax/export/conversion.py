"""What is converted: a trained network as one TensorFlow function of one image, and the images that show its ranges."""

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
_FAR, _FEW, _BATCH = 6.0, 0.05, 32


def as_trained(network: Trained) -> Apply:
    """Returns apply(image, mutable=…) of a network in evaluation mode, as training and scoring compute it."""
    module = models.for_export(network.module)
    return partial(network.apply_of(module), network.variables, train=False)


def logits(apply: Apply, image: jax.Array) -> jax.Array:
    """Returns a network's answer."""
    return apply(image)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A trained network on its way into files, with what several files share.

    Attributes:
      network: in float32.
      examples: float32 (N, height, width, channels), normalised training images.
      function: (apply, image (1, height, width, channels)) -> logits (1, classes); a tuple of arrays that begins with
        the logits where layers are compared.
      bind: network -> apply(image, mutable=…), the variables inside.
    """

    network: Trained
    examples: np.ndarray
    function: Callable[[Apply, jax.Array], Any] = logits
    bind: Callable[[Trained], Apply] = as_trained

    @property
    def apply(self) -> Apply:
        """The network as a function of images, what `bind` makes."""
        return self.bind(self.network)

    @cached_property
    def calibration(self) -> np.ndarray:
        """Those examples that show integers the ranges of activations, see `typical`."""
        return typical(self.apply, self.examples)

    @cached_property
    def traced(self) -> tuple[Any, Any]:
        """TensorFlow's concrete function of one image called "image", and the object that keeps it alive.

        The batch is exactly one: with a free batch the graph computes shapes at run time, and is 3 to 50 times slower.
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
        """The float32 TFLite file, from which every ONNX file is made."""
        return self.convert(lambda converter: converter.convert())

    def convert(self, run: Callable[[Any], bytes]) -> bytes:
        """Calls `run` with a fresh TFLiteConverter of this network and returns the file that it makes."""
        tensorflow = import_tensorflow()
        concrete, holder = self.traced
        with quiet():
            return run(tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], holder))


def calibration_images(spec: ModelSpec, train: Split, *, count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Draws images and normalises them as the network's input.

    Args:
      spec: of the network.
      train: the split that it was trained on.
      count: number of images; all if there are fewer.
      seed: of the draw.

    Returns:
      float32 (count, H, W, C).

    Raises:
      InputError: if the images are not of the spec's shape.
    """
    if train.images.shape[1:] != spec.input_shape:
        raise errors.InputError(
            f"calibration images are of shape {train.images.shape[1:]}, the network takes {spec.input_shape}: "
            "prepare the data at the size and colour that it was trained on"
        )
    return normalize(spec, train.images[subsets.balanced(train.labels, count, seed=seed)])


def typical(apply: Callable[..., Any], images: np.ndarray) -> np.ndarray:
    """Leaves out images at which a network runs away: one of them widens the ranges of integers for all others.

    A batch normalisation holds an image back by the batch's own variance while it trains, not afterwards; through many
    blocks what stands out grows. Of a MobileNetV3-Small, five of 256 images reached 17 to 390 times the maximum of the
    others: its int8 file gave 32 % of the network's answers with them, 95 % without. Where nothing runs away (maxima
    stay below 6 times their median), all images are kept.

    Args:
      apply: (images, mutable=["intermediates"]) -> (logits, {"intermediates": …}) in evaluation mode.
      images: float32 (N, H, W, C), normalised.

    Returns:
      Those that stay below 6 times the median of the images' largest activations at every named intermediate; of those
      that do not, the least far ones are kept, too, until 95 % are.
    """

    @jax.jit
    def maxima(images: jax.Array) -> dict[str, jax.Array]:
        _, state = apply(images, mutable=["intermediates"])
        return {name: jnp.abs(value.reshape(len(images), -1)).max(1) for name, value in tapped(state).items()}

    parts = [maxima(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
    largest = np.stack([np.concatenate([part[name] for part in parts]) for name in parts[0]]).astype(np.float32)
    usual = np.maximum(np.median(largest, 1, keepdims=True), np.finfo(np.float32).tiny)
    ratio = (largest / usual).max(0)
    return images[ratio <= max(_FAR, np.sort(ratio)[-1 - int(_FEW * len(ratio))])]


def normalize(spec: ModelSpec, images: np.ndarray) -> np.ndarray:
    """Turns uint8 images (N, H, W, C) into a network's float32 input."""
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    return (images.astype(np.float32) / np.float32(255) - mean) / std


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
