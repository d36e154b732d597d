"""Integer files of networks that were trained with quantisation: the very numbers that training saw.

The network comes with its normalisations folded and its ranges observed, see `ferjax.quant.rounding`; nothing is
calibrated here. Each function takes a Network and returns a file.
"""

import dataclasses
from typing import Any

import numpy as np

from ferjax.export import flatbuffer, onnx_graph
from ferjax.export.conversion import Apply, Network
from ferjax.quant import rounding


def tflite(network: Network) -> bytes:
    """Returns the network in integers, weights and activations of 8 bits: every product of two multiplies them.

    Args:
      network: its variables {"params": …, "ranges": …}.

    Raises:
      InputError: if a range was never observed.
    """
    return _strict(network, weight_bits=8)


def tflite_int4(network: Network) -> bytes:
    """Returns the network in integers, weights of 4 bits and activations of 8.

    Args:
      network: as for `tflite`, trained with 4-bit weights.

    Raises:
      InputError: if a range was never observed.
    """
    return _strict(network, weight_bits=4)


def onnx(network: Network) -> bytes:
    """Returns the same integers as QuantizeLinear and DequantizeLinear, activations unsigned.

    Unsigned activations (u8s8) run up to three times as fast on x86 processors as signed ones; the values are the same.

    Raises:
      InputError: if a range was never observed.
    """
    model = onnx_graph.from_tflite(tflite(network))
    make_unsigned(model)
    return model.SerializeToString()


def make_unsigned(model: Any) -> None:
    """Moves the activations of a QDQ model from int8 to uint8, in place: each zero point by 128.

    Args:
      model: an ONNX model; weights, which are dequantised from constants, stay int8.
    """
    from onnx import numpy_helper

    graph, stored = model.graph, onnx_graph.constants(model)
    moved: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in stored:
            continue
        name = node.input[2]
        zero_point = numpy_helper.to_array(stored[name])
        if zero_point.dtype != np.int8:
            continue
        if name not in moved:
            moved[name] = f"{name}/unsigned"
            unsigned = (zero_point.astype(np.int16) + 128).astype(np.uint8)
            graph.initializer.append(numpy_helper.from_array(unsigned, moved[name]))
        node.input[2] = moved[name]
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]


def _strict(network: Network, *, weight_bits: int) -> bytes:
    """Converts marked roundings to integers: the one place that uses the converter's private switch for it.

    Without the switch the converter keeps the marks as floating-point operations, and says nothing.
    """

    def marked(network: Network) -> Apply:
        return rounding.make_marked(network.module, network.variables, weight_bits=weight_bits)

    def convert(converter: Any) -> bytes:
        converter._experimental_strict_qdq = True
        return converter.convert()

    # Hard-swish stays in floats, rounded before and after as in training: LiteRT's in integers is coarse and slow.
    # Of a MicroExpNet, 97.3 % of training's answers and 0.42 ms became 99.9 % and 0.24 ms.
    return flatbuffer.in_floats(dataclasses.replace(network, bind=marked).convert(convert), "HARD_SWISH")
