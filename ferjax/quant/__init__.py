"""Provides fake quantization and BatchNorm folding on the integer grid of TFLite and ONNX."""

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
