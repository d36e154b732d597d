"""Tests that the files of quantization-aware trained networks compute what training computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import quant
from ferjax.errors import InputError
from ferjax.export import flatbuffer, onnx_file, tflite
from ferjax.quant import rounding as quant_rounding
from tests.support import small_files
from tests.support import tiny_networks as tiny
from tests.support.integer_networks import as_source, observed
from tests.support.small_files import run_tflite

MULTIPLY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")


def on_the_biases_grid(variables, layers):
    """Rounds biases to multiples of input scale · kernel scale, the grid of an integer file's 32-bit biases."""
    params = jax.tree.map(lambda x: x, variables["params"])
    for (module, layer), source in layers.items():
        range_ = functools.reduce(lambda tree, key: tree[key], source, variables["ranges"])
        step = quant.activation_grid(range_["low"], range_["high"]).scale
        step = step * quant.weight_grid(params[module][layer]["kernel"]).scale
        params[module][layer]["bias"] = jnp.round(params[module][layer]["bias"] / step) * step
    return {**variables, "params": params}


def test_a_small_network_agrees_bit_for_bit():
    variables, x, apply = observed("baseline_cnn3")
    sources = {
        ("conv1", "conv"): (),
        ("conv2", "conv"): ("conv1", "q"),
        ("conv3", "conv"): ("conv2", "q"),
    }
    # elsewhere fake quantization rounds biases itself; these two read a pooled map
    variables = on_the_biases_grid(variables, {layer: sources[layer] for layer in list(sources)[1:]})
    expected = apply(variables)
    source = as_source("baseline_cnn3", variables, x)
    plain = tiny.logits(source.network.module, {"params": variables["params"]}, x)
    assert np.abs(expected - plain).max() > 0.01  # rounding is felt
    blob = tflite.qat(source)
    np.testing.assert_array_equal(run_tflite(blob, x), np.float32(expected))


@pytest.mark.parametrize(
    "name",
    [n if n == "resnet20" else pytest.param(n, marks=pytest.mark.slow) for n in tiny.SMALL],
)
def test_every_product_is_of_integers(name):
    """What the converter's private switch is for: without it, the same graph stays in floating point."""
    variables, x, apply = observed(name)
    given = as_source(name, variables, x)
    blob = tflite.qat(given)
    counts = flatbuffer.operations(blob)
    present = [op for op in MULTIPLY if op in counts]
    assert present
    for op in present:
        assert flatbuffer.tensor_types(blob, op, 0) == {"INT8"} == flatbuffer.tensor_types(blob, op, 1), op
    expected = apply(variables)
    logits = run_tflite(blob, x)
    # TFLite's int8 softmax and GELU are tables and approximations, so these networks depart further; its hard-swish
    # would be one, but is computed in floats
    share = 0.2 if name.startswith("deit") else 0.1
    if "HARD_SWISH" in counts:
        assert flatbuffer.tensor_types(blob, "HARD_SWISH", 0) == {"FLOAT32"}
        share = 1e-6
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.9
    assert np.abs(logits - expected).max() < share * np.abs(expected).max()


def test_onnx_holds_the_same_integers_unsigned():
    import onnx
    from onnx import numpy_helper

    variables, x, _ = observed("baseline_cnn5")
    given = as_source("baseline_cnn5", variables, x)
    blob = onnx_file.qat(given)
    model = onnx.load_from_string(blob)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rounding = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    activations = {stored[n.input[2]].dtype for n in rounding if n.input[0] not in stored}
    weights = {stored[n.input[0]].dtype for n in rounding if n.input[0] in stored and stored[n.input[0]].ndim > 1}
    assert activations == {np.dtype(np.uint8)} and weights == {np.dtype(np.int8)}
    step = float(quant.activation_grid(**variables["ranges"]["head"]["q"]).scale)
    assert np.abs(small_files.run_onnx_as_written(blob, x) - run_tflite(tflite.qat(given), x)).max() <= 1.01 * step


@pytest.mark.parametrize("name", [pytest.param("deit_tiny", marks=pytest.mark.slow), "deit_tiny_distilled"])
def test_onnx_of_a_transformer_joins_its_constant_tokens_with_unsigned_patches(name):
    variables, x, apply = observed(name)
    expected, logits = (
        apply(variables),
        small_files.run_onnx_as_written(onnx_file.qat(as_source(name, variables, x)), x),
    )
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.9
    assert np.abs(logits - expected).max() < 0.2 * np.abs(expected).max()


def test_four_bit_weights():
    variables, x, apply = observed("baseline_cnn5", weight_bits=4)
    given = as_source("baseline_cnn5", variables, x)
    blob = tflite.int4(given)
    assert flatbuffer.tensor_types(blob, "CONV_2D", 1) == {"INT4"}
    assert flatbuffer.tensor_types(blob, "FULLY_CONNECTED", 1) == {"INT8"}  # few weights, for older runtimes
    assert flatbuffer.least_runtime(blob) == "2.11.0"
    assert len(blob) < 0.75 * len(tflite.qat(given))
    expected = apply(variables)
    assert np.abs(run_tflite(blob, x) - expected).max() < 0.1 * np.abs(expected).max()


def test_a_range_never_observed_is_named():
    module, _, shape = tiny.create("baseline_cnn3")
    folded, variables = quant_rounding.fold(module, tiny.variables(module, shape), shape)
    x = tiny.images(shape)
    with pytest.raises(InputError, match=r"the range of the image was never observed \(0 of \d+ were\): train with"):
        tflite.qat(as_source("baseline_cnn3", {**variables, "ranges": quant_rounding.initial_ranges(folded, shape)}, x))
    with pytest.raises(InputError, match=r"ranges were never observed \(0 of 0 were\)"):
        tflite.qat(as_source("baseline_cnn3", variables, x))
