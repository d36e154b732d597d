"""TFLite files: jax2tf, then TensorFlow's converter; each function takes a Network and returns a file."""

from typing import Any

import numpy as np

from ferjax.export import flatbuffer
from ferjax.export.conversion import Network, import_tensorflow


def float32(network: Network) -> bytes:
    """Returns the network as it is."""
    return network.float32


def float16(network: Network) -> bytes:
    """Stores weights in half precision; the runtime turns them into floats once, when it loads the file."""

    def convert(converter: Any) -> bytes:
        tensorflow = import_tensorflow()
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tensorflow.float16]
        return converter.convert()

    return network.convert(convert)


def dynamic_range(network: Network) -> bytes:
    """Stores int8 weights; activations are rounded to int8 as they come, with a range found for each image.

    Depthwise convolutions compute in floats: XNNPACK has none of this kind, and LiteRT's own end its run of operations
    each time and wait for each other's threads. A MicroExpNet takes 0.13 ms for 0.22 on one thread, and on two, where
    other processes keep the cores busy, 0.16 for 24.
    """

    def convert(converter: Any) -> bytes:
        converter.optimizations = [import_tensorflow().lite.Optimize.DEFAULT]
        return converter.convert()

    return flatbuffer.unpacked_weights(network.convert(convert), "DEPTHWISE_CONV_2D")


def weight_only(network: Network) -> bytes:
    """Stores int8 weights that are turned into floats when the file is loaded; computes in float32."""
    return flatbuffer.integer_weights(network.float32)


def static_int8(network: Network) -> bytes:
    """Computes in int8 throughout, in ranges that the calibration images showed; its edge stays float32."""

    def convert(converter: Any) -> bytes:
        tensorflow = import_tensorflow()
        _calibrate(converter, network.calibration)
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter.convert()

    return network.convert(convert)


def _calibrate(converter: Any, images: np.ndarray) -> None:
    converter.optimizations = [import_tensorflow().lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))
