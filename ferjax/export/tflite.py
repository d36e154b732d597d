"""Makes TFLite files by jax2tf and TensorFlow's converter; each function takes a Conversion and returns a file."""

import dataclasses
from typing import Any

from ferjax import models
from ferjax.export import flatbuffer
from ferjax.export.conversion import Apply, Conversion, import_tensorflow
from ferjax.quant import rounding
from ferjax.weights import Trained


def float32(source: Conversion) -> bytes:
    """Returns the network in float32."""
    return source.float32


def float16(source: Conversion) -> bytes:
    """Stores weights in half precision; the runtime converts them to float32 once, when it loads the file."""

    def convert(converter: Any) -> bytes:
        tensorflow = import_tensorflow()
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tensorflow.float16]
        return converter.convert()

    return source.convert(convert)


def dynamic_range(source: Conversion) -> bytes:
    """Stores int8 weights and quantizes activations to int8 with a range computed for each image.

    Depthwise convolutions stay in float32: XNNPACK has no dynamic-range kernel for them, and LiteRT's own splits the
    delegated graph and synchronizes threads each time. A MicroExpNet takes 0.13 ms instead of 0.22 ms on one thread,
    and 0.16 ms instead of 24 ms on two threads when other processes use the cores.

    Fully connected layers have one scale for all channels, because runtimes before TensorFlow Lite 2.17, such as
    tflite-runtime 2.14, do not load a scale per channel.
    """
    return _dynamic_range(source, channel_scales=False)


def dynamic_range_by_channel(source: Conversion) -> bytes:
    """As `dynamic_range`, with a scale per channel in fully connected layers: requires TensorFlow Lite 2.17."""
    return _dynamic_range(source, channel_scales=True)


def _dynamic_range(source: Conversion, *, channel_scales: bool) -> bytes:
    def convert(converter: Any) -> bytes:
        converter.optimizations = [import_tensorflow().lite.Optimize.DEFAULT]
        converter._experimental_disable_per_channel_quantization_for_dense_layers = not channel_scales
        return converter.convert()

    return flatbuffer.unpacked_weights(source.convert(convert), "DEPTHWISE_CONV_2D")


def weight_only(source: Conversion) -> bytes:
    """Stores int8 weights, which the runtime dequantizes when it loads the file; computes in float32."""
    return flatbuffer.integer_weights(source.float32)


def static_int8(source: Conversion) -> bytes:
    """Computes in int8 with static ranges of the calibration images; input and output stay float32."""

    def convert(converter: Any) -> bytes:
        tensorflow, images = import_tensorflow(), source.calibration
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([images[i : i + 1]] for i in range(len(images)))
        converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter.convert()

    return source.convert(convert)


def qat(source: Conversion) -> bytes:
    """Computes with 8-bit weights and activations, in the ranges of quantization-aware training.

    Args:
      source: a network with folded normalizations and observed ranges, see `ferjax.quant.rounding`.

    Raises:
      InputError: if a range was never observed.
    """
    return _strict(source, weight_bits=8)


def int4(source: Conversion) -> bytes:
    """Computes as `qat`, with 4-bit weights; raises InputError if a range was never observed."""
    return _strict(source, weight_bits=4)


def _strict(source: Conversion, *, weight_bits: int) -> bytes:
    """Converts fake quantization to integers, by a private switch of the converter.

    Without the switch, the converter silently keeps fake quantization as floating-point operations.
    """

    def marked(network: Trained) -> Apply:
        module = models.for_export(network.module)
        return rounding.make_marked(module, network.variables, weight_bits=weight_bits)

    def convert(converter: Any) -> bytes:
        converter._experimental_strict_qdq = True
        return converter.convert()

    # Hard-swish stays in float32, because LiteRT's int8 kernel is inaccurate and slow: a MicroExpNet goes from 97.3 %
    # agreement and 0.42 ms to 99.9 % and 0.24 ms.
    return flatbuffer.in_floats(dataclasses.replace(source, bind=marked).convert(convert), "HARD_SWISH")
