"""Tests the contents and the outputs of every kind of file for a small network of each family."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from ferjax import export, models
from ferjax.export import conversion, diagnosis, flatbuffer, onnx_graph, tflite
from ferjax.export.conversion import normalize
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import quick, tiny_networks

SMALL = {
    "baseline_cnn5": {"widths": [8, 16]},
    "resnet20": {"depths": [1, 1], "widths": [8, 16], "stem_width": 8},
    "mini_xception": {"widths": [8, 8]},
    "microexpnet": {"width": 0.25, "stem_stride": 1, "attention": 8, "head_hidden": [16]},
    "efficientnet_lite0": {"widths": [8, [8] + [16] * 15, [8] * 16, 16]},
    "deit_tiny": {"depth": 1, "width": 16, "heads": 2, "patch": 8, "grid": [2, 2]},
}


SIZES = {
    "microexpnet": (32, 32),  # its last map is still one of 2x2
    "efficientnet_lite0": (36, 36),  # maps of 18, 9, 5, 3 and 2: even and odd, which SAME pads differently
}


def spec_of(name):
    return ModelSpec(
        class_names=("a", "b", "c"),
        input_size=SIZES.get(name, (16, 16)),
        color_order="rgb",
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.2, 0.3),
        architecture=name,
        architecture_args=SMALL[name],
    )


@functools.cache
def small(name):
    spec = spec_of(name)
    images = np.random.default_rng(0).integers(0, 256, (8, *spec.input_shape)).astype(np.uint8)
    module = models.create(name, num_classes=3, **SMALL[name])
    inputs = normalize(spec, images)
    variables = quick.jit(functools.partial(module.init, train=False))(jax.random.key(0), inputs)
    rng = np.random.default_rng(1)

    def perturbed(path, value):
        """Perturbs every bias, mean and variance, so that an omitted one changes the output."""
        value = np.asarray(value)
        spread = {"bias": 0.1, "mean": 0.1, "scale": 0.2, "var": 0.2}.get(path[-1].key, 0)
        return (value + spread * rng.uniform(-1, 1, value.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(perturbed, variables)
    return conversion.Conversion(Trained(spec, variables), inputs)


@functools.cache
def blob(name, kind, quantization):
    row = next(r for r in export.FORMATS if (r.format, r.quantization) == (kind, quantization))
    return row.make(small(name))


def answers(name, made):
    """The file's logits for the calibration images."""
    inputs = small(name).calibration
    if made[4:8] == b"TFL3":
        interpreter = Interpreter(model_content=made)
        interpreter.allocate_tensors()
        feed, fetch = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
        found = []
        for image in inputs:
            interpreter.set_tensor(feed, image[None])
            interpreter.invoke()
            found.append(interpreter.get_tensor(fetch))
        return np.concatenate(found)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in planes])


def wanted(name):
    source = small(name)
    return np.asarray(quick.jit(functools.partial(source.function, source.apply))(source.calibration))


def error(name, made):
    truth = wanted(name)
    return np.abs(answers(name, made) - truth).max() / truth.std()


def operators(made):
    return collections.Counter(node.op_type for node in onnx.load_from_string(made).graph.node)


LIMITS = {"none": 1e-4, "float16": 0.02, "dynamic": 0.25, "int8": 0.25, "weight-only": 0.1}
EACH_ONCE = [
    ("resnet20", "tflite", "float16"),
    ("resnet20", "onnx", "float16"),
    ("resnet20", "tflite", "none"),
    ("resnet20", "onnx", "none"),
    ("resnet20", "tflite", "int8"),
    ("resnet20", "onnx", "int8"),
    ("resnet20", "tflite", "weight-only"),
    ("mini_xception", "onnx", "none"),
    ("resnet20", "onnx", "weight-only"),
    ("microexpnet", "onnx", "none"),
    ("resnet20", "tflite", "dynamic"),
    ("microexpnet", "tflite", "dynamic"),
    ("deit_tiny", "onnx", "none"),
    ("deit_tiny", "onnx", "dynamic"),
]
# What networks are offered that were not trained in integers; test_qat has the others.
ALL = [(n, r.format, r.quantization) for n in SMALL for r in export.choose(spec_of(n))]


@pytest.mark.parametrize(
    ("name", "kind", "quantization"),
    EACH_ONCE + [pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in EACH_ONCE],
)
def test_a_file_answers_as_the_network_does(name, kind, quantization):
    assert error(name, blob(name, kind, quantization)) < LIMITS[quantization]


@pytest.mark.parametrize("name", ["resnet20", "mini_xception", "microexpnet", "efficientnet_lite0", "deit_tiny"])
def test_tflite_has_built_in_operations_only_and_folded_normalizations(name):
    found = flatbuffer.operations(small(name).float32)
    known = set(vars(__import__("ai_edge_litert.schema_py_generated", fromlist=["x"]).BuiltinOperator)) - {"CUSTOM"}
    assert set(found) <= known - {"DELEGATE"}
    if name != "deit_tiny":
        assert not {"SUB", "RSQRT", "TRANSPOSE", "RESHAPE"} & set(found)


@pytest.mark.parametrize("name", ["resnet20", "mini_xception", "microexpnet", "efficientnet_lite0"])
def test_convolutional_onnx_has_no_transposition_and_folded_normalizations(name):
    found = operators(blob(name, "onnx", "none"))
    assert found["Conv"] and found["GlobalAveragePool"]
    assert not {"Transpose", "ReduceSum", "BatchNormalization", "Sub", "Div"} & set(found)


def test_tensorflows_padding_is_no_operation_of_its_own():
    assert "PAD" in flatbuffer.operations(small("microexpnet").float32)
    assert "PAD" not in flatbuffer.operations(small("efficientnet_lite0").float32)
    assert not operators(blob("efficientnet_lite0", "onnx", "none"))["Pad"]


def test_hard_swish_is_one_operation_in_both_formats():
    assert flatbuffer.operations(small("microexpnet").float32)["HARD_SWISH"] == 18
    found = operators(blob("microexpnet", "onnx", "none"))
    assert found["HardSwish"] == 18 and found["HardSigmoid"] == 9 and not found["Clip"]


def test_gelu_is_one_operation_in_tflite_and_one_that_onnxruntime_fuses(tmp_path):
    assert flatbuffer.operations(small("deit_tiny").float32)["GELU"] == 1
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(blob("deit_tiny", "onnx", "none"), options, providers=["CPUExecutionProvider"])
    assert operators((tmp_path / "fused.onnx").read_bytes())["Gelu"] == 1


def test_int8_files_multiply_integers():
    for position in (0, 1):
        assert flatbuffer.tensor_types(blob("resnet20", "tflite", "int8"), "CONV_2D", position) == {"INT8"}
    found = operators(blob("resnet20", "onnx", "int8"))
    assert found["QuantizeLinear"] >= found["Conv"] and not found["Relu"]


@pytest.mark.parametrize(("name", "quantization"), [("resnet20", "int8"), ("deit_tiny", "dynamic")])
def test_onnx_products_do_not_saturate_without_vnni(name, quantization):
    """Two products of a byte and a weight must fit into 16 bits, with sign: 2 * 255 * 64 = 32640."""
    model = onnx.load_from_string(blob(name, "onnx", quantization))
    stored = [onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer]
    weights = [values for values in stored if values.dtype == np.int8 and values.ndim > 1]
    assert len(weights) > 3 and max(np.abs(values.astype(int)).max() for values in weights) == 64


def test_depthwise_convolutions_stay_float_where_ranges_are_found_for_each_image():
    made = blob("microexpnet", "tflite", "dynamic")
    assert flatbuffer.tensor_types(made, "DEPTHWISE_CONV_2D", 1) == {"FLOAT32"}
    assert "INT8" in flatbuffer.tensor_types(made, "CONV_2D", 1)
    assert flatbuffer.tensor_types(made, "DEQUANTIZE", 0) == {"INT8"}  # their weights, stored as they were
    assert flatbuffer.unpacked_weights(made, "DEPTHWISE_CONV_2D") == made


def test_the_oldest_runtime_follows_from_the_operations():
    assert flatbuffer.least_runtime(blob("resnet20", "tflite", "none")) == "2.0.0"
    assert flatbuffer.least_runtime(blob("resnet20", "tflite", "weight-only")) == "2.7.0"
    assert flatbuffer.least_runtime(blob("microexpnet", "tflite", "dynamic")) == "2.7.0"
    assert flatbuffer.least_runtime(tflite.dynamic_range_by_channel(small("microexpnet"))) == "2.17.0"


def test_weights_only_are_smaller_and_unpacked_once(tmp_path):
    for kind in ("tflite", "onnx"):
        assert len(blob("resnet20", kind, "weight-only")) < len(blob("resnet20", kind, "none"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    made = blob("resnet20", "onnx", "weight-only")
    onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    assert operators(made)["Cast"] and not operators((tmp_path / "fused.onnx").read_bytes())["Cast"]


def test_channels_are_quantized_to_half_a_step():
    weights = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    weights[:, 2] = 0
    integers, scales = flatbuffer.quantize_channels(weights, 1)
    assert integers.dtype == np.int8 and scales.shape == (4,) and np.abs(integers).max() == 127
    assert (np.abs(integers * scales[:, None] - weights) <= scales[:, None] / 2 * 1.0001).all()


def test_names_are_short():
    model = onnx.load_from_string(blob("resnet20", "onnx", "none"))
    assert [v.name for v in model.graph.input] == ["image"] and [v.name for v in model.graph.output] == ["logits"]
    assert max(len(name) for node in model.graph.node for name in (*node.input, *node.output)) < 24


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_more_than_ten_layers_are_compared_in_their_order(kind):
    arguments = {**SMALL["deit_tiny"], "depth": 10}
    spec = small("deit_tiny").network.spec.replace(architecture="deit_tiny_distilled", architecture_args=arguments)
    module = models.create(spec.architecture, num_classes=3, **arguments)
    image = np.zeros((1, *spec.input_shape), np.float32)
    variables = tiny_networks.variables(module, spec.input_shape)
    row = next(r for r in export.FORMATS if (r.format, r.quantization) == (kind, "none"))
    images = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    source = conversion.Conversion(Trained(spec, variables), image)
    found = diagnosis.layers(row.make, source, images)
    assert [layer.name for layer in found[2:-1]] == [*(f"stage{i}" for i in range(1, 11)), "embedding"]
    assert max(layer.error for layer in found) < 1e-5


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_layers_are_compared_in_their_order(kind):
    row = next(r for r in export.FORMATS if (r.format, r.quantization) == (kind, "none"))
    images = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    found = diagnosis.layers(row.make, small("resnet20"), images)
    assert [layer.name for layer in found] == ["stage0", "stage1", "stage2", "embedding", "logits"]
    assert max(layer.error for layer in found) < 1e-5


def test_the_first_layer_that_departs_is_named():
    def spoil(source):
        """The second stage's convolution loses a channel."""
        spec, variables = source.network.spec, jax.tree.map(np.copy, source.network.variables)
        variables["params"]["layer2_0"]["conv1"]["conv"]["kernel"][..., 0] = 0
        return tflite.float32(dataclasses.replace(source, network=Trained(spec, variables)))

    images = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    found = diagnosis.layers(spoil, small("resnet20"), images)
    assert diagnosis.first(found).name == "stage2"


def test_numbers_at_the_end_of_names():
    assert [onnx_graph.number(name) for name in ("a:0", "a_12", "a")] == [0, 12, 0]
