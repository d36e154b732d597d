"""Quantization on the integer grid of TFLite and ONNX: fake-quant, folding, networks that round as the file will."""

from ferjax.quant.grid import (
    BITS,
    Grid,
    activation_grid,
    fake_quant,
    fake_quant_weights,
    fold_batch_norm,
    mark,
    quantize,
    uniform_quantize,
    weight_grid,
)

__all__ = [
    "BITS",
    "Grid",
    "activation_grid",
    "fake_quant",
    "fake_quant_weights",
    "fold_batch_norm",
    "mark",
    "quantize",
    "uniform_quantize",
    "weight_grid",
]
