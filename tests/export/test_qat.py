"""Tests that the files of quantization-aware trained networks compute what training computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import quant
from ferjax.errors import InputError
from ferjax.export import conversion, flatbuffer, onnx_file, tflite
from ferjax.quant import rounding as quant_rounding
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import quick, small_files
from tests.support import tiny_networks as tiny

MULTIPLY = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")


def observed(name, weight_bits=8):
    """A folded network with the ranges of 32 images, those images, and their outputs with fake quantization.

    Fake quantization runs in float64. In float32 a sum's last bits depend on the order in which a processor adds; a
    value that lies between two integers then becomes another one, and a deep network turns it into several steps.
    """
    module, _, shape = tiny.create(name)
    folded, variables = quant_rounding.fold(module, tiny.variables(module, shape), shape)
    x = tiny.images(shape, 32)
    apply = quant_rounding.make_apply(folded.clone(dtype=jnp.float64), weight_bits=weight_bits)

    def run(variables, **options):
        with jax.enable_x64(True):  # weights, ranges and scales stay in float32, as the file has them
            return quick.jit(functools.partial(apply, train=False, **options))(variables, np.float64(x))

    variables["ranges"] = quant_rounding.initial_ranges(folded, shape)
    _, ranges = run(variables, mutable=["ranges"])
    return {**variables, **ranges}, x, lambda variables: np.asarray(run(variables))


def as_source(name, variables, x):
    spec = ModelSpec(
        class_names=tuple("abcdefg"),
        input_size=x.shape[1:3],
        color_order="gray" if x.shape[-1] == 1 else "rgb",
        mean=(0.5,) * x.shape[-1],
        std=(0.25,) * x.shape[-1],
        architecture=name,
        architecture_args=tiny.SMALL[name][0] if name.startswith("deit") else {**tiny.SMALL[name][0], "folded": True},
    )
    return conversion.Conversion(Trained(spec, variables), np.asarray(x))


def run_tflite(blob, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=blob, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in np.asarray(x):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        logits.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(logits)


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


def test_four_bit_weights():
    variables, x, apply = observed("baseline_cnn5", weight_bits=4)
    given = as_source("baseline_cnn5", variables, x)
    blob = tflite.int4(given)
    assert flatbuffer.tensor_types(blob, "CONV_2D", 1) == {"INT4"}
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
