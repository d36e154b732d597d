"""TFLite files: jax2tf, then TensorFlow's converter; each function takes a Conversion and returns a file."""

import dataclasses
from typing import Any

import numpy as np

from ferjax import models
from ferjax.export import flatbuffer
from ferjax.export.conversion import Apply, Conversion, import_tensorflow
from ferjax.quant import rounding
from ferjax.weights import Trained


def float32(source: Conversion) -> bytes:
    """Returns the network as it is."""
    return source.float32


def float16(source: Conversion) -> bytes:
    """Stores weights in half precision; the runtime turns them into floats once, when it loads the file."""

    def convert(converter: Any) -> bytes:
        tensorflow = import_tensorflow()
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tensorflow.float16]
        return converter.convert()

    return source.convert(convert)


def dynamic_range(source: Conversion) -> bytes:
    """Stores int8 weights; activations are rounded to int8 as they come, with a range found for each image.

    Depthwise convolutions compute in floats: XNNPACK has none of this kind, and LiteRT's own end its run of operations
    each time and wait for each other's threads. A MicroExpNet takes 0.13 ms for 0.22 on one thread, and on two, where
    other processes keep the cores busy, 0.16 for 24.
    """

    def convert(converter: Any) -> bytes:
        converter.optimizations = [import_tensorflow().lite.Optimize.DEFAULT]
        return converter.convert()

    return flatbuffer.unpacked_weights(source.convert(convert), "DEPTHWISE_CONV_2D")


def weight_only(source: Conversion) -> bytes:
    """Stores int8 weights that are turned into floats when the file is loaded; computes in float32."""
    return flatbuffer.integer_weights(source.float32)


def static_int8(source: Conversion) -> bytes:
    """Computes in int8 throughout, in ranges that the calibration images showed; its edge stays float32."""

    def convert(converter: Any) -> bytes:
        tensorflow = import_tensorflow()
        _calibrate(converter, source.calibration)
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter.convert()

    return source.convert(convert)


def qat(source: Conversion) -> bytes:
    """Computes in the integers that training saw, weights and activations of 8 bits; nothing is calibrated here.

    Args:
      source: its network has its normalisations folded and its ranges observed, see `ferjax.quant.rounding`.

    Raises:
      InputError: if a range was never observed.
    """
    return _strict(source, weight_bits=8)


def int4(source: Conversion) -> bytes:
    """Computes as `qat` does, weights of 4 bits; the network was trained with 4-bit weights.

    Raises:
      InputError: if a range was never observed.
    """
    return _strict(source, weight_bits=4)


def _calibrate(converter: Any, images: np.ndarray) -> None:
    converter.optimizations = [import_tensorflow().lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))


def _strict(source: Conversion, *, weight_bits: int) -> bytes:
    """Converts marked roundings to integers: the one place that uses the converter's private switch for it.

    Without the switch the converter keeps the marks as floating-point operations, and says nothing.
    """

    def marked(network: Trained) -> Apply:
        module = models.for_export(network.module)
        return rounding.make_marked(module, network.variables, weight_bits=weight_bits)

    def convert(converter: Any) -> bytes:
        converter._experimental_strict_qdq = True
        return converter.convert()

    # Hard-swish stays in floats, rounded before and after as in training: LiteRT's in integers is coarse and slow.
    # Of a MicroExpNet, 97.3 % of training's answers and 0.42 ms became 99.9 % and 0.24 ms.
    return flatbuffer.in_floats(dataclasses.replace(source, bind=marked).convert(convert), "HARD_SWISH")
