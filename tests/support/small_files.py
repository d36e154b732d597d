"""Exported files of a few hundred bytes with logits known in closed form: flatten, one matrix, one bias."""

import functools
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ferjax import spec as contract
from ferjax.spec import ModelSpec

NAMES = ("angry", "happy", "sad")
GRAY = ModelSpec(
    class_names=NAMES,
    input_size=(6, 5),
    color_order="gray",
    mean=(0.4,),
    std=(0.25,),
    architecture="linear",
    parameters=93,
    macs=90,
)
RGB = GRAY.replace(color_order="rgb", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def weights(spec):
    rng = np.random.default_rng(7)
    pixels = int(np.prod(spec.input_shape))
    classes = len(spec.class_names)
    return rng.normal(0, 0.5, (pixels, classes)).astype(np.float32), np.linspace(-0.2, 0.3, classes, dtype=np.float32)


def images(spec, count=8):
    return np.random.default_rng(3).integers(0, 256, (count, *spec.input_shape)).astype(np.uint8)


def expected_logits(spec, pixels):
    """What the network of a spec must answer, in float64."""
    matrix, bias = weights(spec)
    fed = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    return fed.reshape(len(pixels), -1) @ matrix.astype(np.float64) + bias


def run_onnx_as_written(model, images):
    """Runs an ONNX file, by path or as bytes, on normalised images (N, H, W, C), and returns its first outputs.

    The graph is not fused into integer kernels, whose products saturate on processors without VNNI.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    planes = np.asarray(images).transpose(0, 3, 1, 2)
    return np.concatenate([session.run(None, {"image": image[None]})[0] for image in planes])


def onnx_file(path, spec=GRAY, *, batch=1, channels_first=False, bias=None, embed=True):
    """Writes a file for `batch` images in one run, for any number if 0."""
    matrix, default = weights(spec)
    height, width, channels = spec.input_shape
    first = batch or "batch"
    shape = [first, channels, height, width] if channels_first else [first, height, width, channels]
    consts = {
        "matrix": matrix.T,  # OpenCV 4.6 reads no other form
        "bias": default if bias is None else np.asarray(bias, np.float32),
        "flat": np.array([batch, -1], np.int64),
    }
    turn = [helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 2, 3, 1])] if channels_first else []
    nodes = [
        *turn,
        helper.make_node("Reshape", ["turned" if turn else "image", "flat"], ["row"]),
        helper.make_node("Gemm", ["row", "matrix", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [first, len(spec.class_names)])],
        [numpy_helper.from_array(v, k) for k, v in consts.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"author": "someone"})
    onnx.save(model, path)
    if embed:
        contract.embed(path, spec)
    return path


def tflite_file(path, spec=GRAY, *, int8=False, embed=True):
    path.write_bytes(_tflite(spec.input_shape, spec.mean, spec.std, int8))
    if embed:
        contract.embed(path, spec)
    return path


@functools.cache
def _tflite(shape, mean, std, int8):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    spec = GRAY.replace(color_order="gray" if shape[2] == 1 else "rgb", mean=mean, std=std)
    matrix, bias = weights(spec)

    @tf.function(input_signature=[tf.TensorSpec((1, *shape), tf.float32, name="image")])
    def network(image):
        return tf.matmul(tf.reshape(image, (1, -1)), matrix) + bias

    module = tf.Module()
    module.network = network
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()], module)
    if int8:
        fed = (images(spec, 64) / np.float32(255) - np.float32(mean)) / np.float32(std)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None]] for x in fed)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def run_tflite(blob, x):
    """Returns the logits of a TFLite file for normalized images (N, H, W, C)."""
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
