"""The conversion of YuNet to TFLite, against the ONNX file."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ferjax.errors import InputError
from ferjax.runtime.engine import silence_stderr
from ferjax.runtime.web import yunet

CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def small_yunet(path):
    """Writes a network of YuNet's operations and outputs with few channels and random weights."""
    rng, nodes, stored = np.random.default_rng(0), [], []

    def add(kind, inputs, **attributes):
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def store(values):
        name = f"w{len(stored)}"
        stored.append(numpy_helper.from_array(values, name))
        return name

    def conv(x, before, after, kernel, *, group=1, stride=1):
        weights = rng.normal(0, 0.5, (after, before // group, kernel, kernel)).astype(np.float32)
        bias = rng.normal(0, 0.1, after).astype(np.float32)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return add("Conv", [x, store(weights), store(bias)], group=group, pads=pads, strides=strides)

    def halved(x):
        return add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])

    x = add("Relu", [conv("input", 3, 4, 3, stride=2)])
    x = halved(conv(conv(x, 4, 6, 1), 6, 6, 3, group=6))
    levels = [x := halved(x), x := halved(x), halved(x)]
    scales = store(np.array([1, 1, 2, 2], np.float32))
    wider = add("Resize", [levels[2], "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                nearest_mode="floor")  # fmt: skip
    levels[1] = add("Relu", [conv(add("Add", [levels[1], wider]), 6, 6, 1)])
    outputs = []
    for level, x in zip(yunet.LEVELS, levels, strict=True):
        for name, count in CHANNELS.items():
            head = add("Transpose", [conv(conv(x, 6, count, 1), count, count, 3, group=count)], perm=[0, 2, 3, 1])
            head = add("Reshape", [head, store(np.array([1, -1, count], np.int64))])
            head = add("Sigmoid", [head]) if count == 1 else head
            nodes[-1].output[0] = f"{name}_{level}"
            outputs.append(helper.make_tensor_value_info(f"{name}_{level}", TensorProto.FLOAT, [1, None, count]))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "yunet", [image], outputs, stored)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]), path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return small_yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


@pytest.mark.parametrize("width, height", [(64, 64), (320, 192), (256, 320)])
def test_every_size_gives_the_outputs_of_the_onnx_file(file, width, height):
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    image = np.random.default_rng(1).uniform(0, 1, (1, height, width, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(None, {"input": image.transpose(0, 3, 1, 2)}), strict=True))
    with silence_stderr():
        runner = Interpreter(model_content=yunet.to_tflite(file)).get_signature_runner(f"{width}x{height}")
        outputs = runner(image=image)
    assert set(outputs) == set(names)
    for name, values in outputs.items():
        kind, level = name.split("_")
        assert values.shape == (1, height // int(level), width // int(level), CHANNELS[kind])
        found = 1 / (1 + np.exp(-values)) if kind in ("cls", "obj") else values
        np.testing.assert_allclose(found.reshape(expected[name].shape), expected[name], rtol=1e-4, atol=1e-3)


def test_the_sizes_share_the_weights(file):
    assert len(yunet.to_tflite(file)) < len(yunet.SIZES) * 15_000


def test_the_smallest_size_that_fits_comes_first():
    assert list(yunet.SIZES) == sorted(yunet.SIZES, key=lambda size: size[0] * size[1])


@pytest.mark.parametrize("content", [b"", b"no protobuf", onnx.ModelProto(ir_version=8).SerializeToString()])
def test_another_file_is_one_line(tmp_path, content):
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(InputError, match="fetch yunet"):
        yunet.to_tflite(tmp_path / "other.onnx")
