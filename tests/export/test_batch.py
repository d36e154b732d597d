"""ONNX files for several images in one run."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

from ferjax import data, errors, export, models, runtime
from ferjax import spec as specs
from ferjax.evaluate.calibration import softmax
from ferjax.export import commands, formats, onnx_file, parity
from ferjax.export.conversion import Conversion
from ferjax.spec import ModelSpec
from ferjax.weights import Trained
from tests.support import small_files, tiny_networks
from tests.support.untrained_runs import DATA, write_run

QUICK = ("resnet20", "resemotenet")
CONVOLUTIONAL = [name for name in models.list_models() if models.family(name, {}) != models.TRANSFORMER]


def source(name):
    module, arguments, shape = tiny_networks.create(name)
    channels = shape[2]
    spec = ModelSpec(
        class_names=tuple("abcdefg"),
        input_size=shape[:2],
        color_order="gray" if channels == 1 else "rgb",
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        architecture=name,
        architecture_args=arguments,
    )
    images = np.random.default_rng(0).normal(size=(9, *shape)).astype(np.float32)
    return Conversion(Trained(spec, tiny_networks.variables(module, shape)), images)


def run(blob, images):
    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in CONVOLUTIONAL if n not in QUICK)]
)
def test_a_file_for_several_images_answers_as_the_one_for_one(name):
    made = source(name)
    images = np.ascontiguousarray(made.examples.transpose(0, 3, 1, 2))
    for row in export.choose(made.network.spec, ["onnx"]):
        one = row.make(made)
        wanted = np.concatenate([run(one, image[None]) for image in images])
        free = onnx_file.with_batch_size(one, 0)
        for count in (1, 2, 9):
            np.testing.assert_allclose(run(free, images[:count]), wanted[:count], atol=1e-5)
        np.testing.assert_allclose(run(onnx_file.with_batch_size(one, 4), images[:4]), wanted[:4], atol=1e-5)
        model = onnx.load_from_string(free)
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 8 and model.opset_import[0].version == 18
        if (
            row.quantization == "none" and name != "efficientnet_lite0"
        ):  # its maps here are too small for OpenCV's padding
            net = cv2.dnn.readNetFromONNX(np.frombuffer(free, np.uint8))
            for count in (1, 5):
                net.setInput(images[:count])
                np.testing.assert_allclose(net.forward(), wanted[:count], atol=1e-4)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The workdir of an untrained network, and its data."""
    folder = tmp_path_factory.mktemp("batch")
    write_run(folder / "run", data.load("synthetic_faces", data_dir=folder / "data", **DATA))
    return folder


def command(work, out, *arguments):
    commands.main([str(a) for a in ("--model", work / "run", "--data-dir", work / "data", "--out", out, *arguments)])


@pytest.mark.parametrize(("text", "size"), [("any", 0), ("4", 4)])
def test_the_spec_and_the_runtime_know_the_number(work, tmp_path, text, size):
    command(work, tmp_path / "out", "--quantization", "none", "--batch", text)
    path = tmp_path / "out" / "baseline_cnn5.onnx"
    assert specs.read(path).batch_size == size
    assert specs.read(path.with_suffix(".tflite")).batch_size == 1
    images = data.load("synthetic_faces", data_dir=work / "data", **DATA).splits["validation"].images
    one_by_one = runtime.load(path.with_suffix(".tflite")).logits(images)
    np.testing.assert_allclose(runtime.load(path).logits(images), one_by_one, atol=1e-3)
    assert ("images per run" in path.with_name(f"{path.name}.md").read_text()) and size != 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "5000", ""])
def test_an_invalid_number_is_rejected(work, tmp_path, text):
    with pytest.raises(errors.InputError, match=r"--batch must be .* or any"):
        command(work, tmp_path / "out", f"--batch={text}")
    assert list(tmp_path.iterdir()) == []


def test_tflite_files_take_one_image(work, tmp_path):
    with pytest.raises(errors.InputError, match="add --format onnx"):
        command(work, tmp_path / "out", "--format", "tflite", "--batch", "any")


def test_transformers_take_one_image():
    spec = source("resnet20").network.spec.replace(architecture="deit_tiny", architecture_args={})
    rows = export.choose(spec)
    formats.check_batch_size(spec, rows, 1)
    with pytest.raises(errors.InputError, match="deit_tiny is a transformer"):
        formats.check_batch_size(spec, rows, 0)


def test_the_gate_sees_a_graph_that_is_wrong_for_several_images_only(tmp_path):
    spec = small_files.GRAY.replace(batch_size=0)
    path = small_files.onnx_file(tmp_path / "a.onnx", spec, batch=0)
    images = small_files.images(spec, 40)
    probabilities = softmax(small_files.expected_logits(spec, images)).astype(np.float32)
    truth = parity.Reference(spec, images, probabilities[:34].argmax(1), probabilities)
    assert parity.faults(parity.compare(path, truth), formats.EXACT) == []
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "right"
    first = onnx.numpy_helper.from_array(np.array([0]), "first")
    model.graph.initializer.append(first)
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["right", "first"], ["of the first"], axis=0),
            onnx.helper.make_node("Sub", ["right", "of the first"], ["difference"]),
            onnx.helper.make_node("Add", ["right", "difference"], ["logits"]),
        ]
    )
    onnx.save(model, path)
    specs.embed(path, spec)
    one = runtime.load(path)
    np.testing.assert_allclose(one.logits(images[3:4]), small_files.expected_logits(spec, images[3:4]), atol=1e-4)
    assert parity.faults(parity.compare(path, truth), formats.EXACT)
