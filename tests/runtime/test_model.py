import os
import pickle
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
import onnx
import pytest

from ferjax import spec as specs
from ferjax.errors import InputError
from ferjax.runtime import UNCERTAIN, Model, load
from ferjax.runtime import engine as engines
from ferjax.runtime import model as models
from ferjax.runtime.engine import open_engine
from tests.support import ROOT, small_files
from tests.support.small_files import GRAY, RGB


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def make(request, tmp_path_factory):
    """Writes a file of either format and returns its path."""
    write = {"tflite": small_files.tflite_file, "onnx": small_files.onnx_file}[request.param]
    folder = tmp_path_factory.mktemp("files")
    return lambda spec=GRAY, **more: write(folder / f"model.{request.param}", spec, **more)


@pytest.mark.parametrize("spec", [GRAY, RGB, RGB.replace(color_order="bgr")], ids=["gray", "rgb", "bgr"])
def test_logits_are_those_of_the_normalized_pixels(make, spec):
    pixels = small_files.images(spec)
    pixels[0], pixels[1] = 0, 255
    model = load(make(spec))
    assert model.spec == spec
    logits = model.logits(pixels)
    assert logits.dtype == np.float32 and logits.shape == (8, 3)
    np.testing.assert_allclose(logits, small_files.expected_logits(spec, pixels), atol=2e-5)
    assert model.logits(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize("spec", [GRAY, RGB], ids=["gray", "rgb"])
def test_int8_inputs_are_quantized(tmp_path, spec):
    path = small_files.tflite_file(tmp_path / "int8.tflite", spec, int8=True)
    engine = open_engine(path, threads=1, provider="cpu")
    assert engine.input.dtype == np.int8 and engine.output.dtype == np.int8 and engine.input.scale > 0
    pixels = small_files.images(spec, 64)
    fed = (pixels / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    quantized = np.clip(np.rint(fed / engine.input.scale) + engine.input.zero_point, -128, 127).astype(np.int8)
    direct = np.concatenate([engine.run(q[None]) for q in quantized]).astype(np.float32)
    model = load(path)
    np.testing.assert_array_equal(model.logits(pixels), (direct - engine.output.zero_point) * engine.output.scale)
    wanted = small_files.expected_logits(spec, pixels)
    assert np.abs(model.logits(pixels) - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_with_channels_first_or_a_larger_batch(tmp_path, batch):
    pixels = small_files.images(RGB, 7)
    path = small_files.onnx_file(tmp_path / "model.onnx", RGB, batch=batch, channels_first=True)
    np.testing.assert_allclose(load(path).logits(pixels), small_files.expected_logits(RGB, pixels), atol=2e-5)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_file_for_any_number_of_images_runs_once_for_many(tmp_path, channels_first):
    pixels, spec = small_files.images(RGB, 40), RGB.replace(batch_size=0)
    path = small_files.onnx_file(tmp_path / "model.onnx", spec, batch=0, channels_first=channels_first)
    engine, counts = open_engine(path, threads=1, provider="cpu"), []
    model = Model(spec, engine._replace(run=lambda batch: counts.append(len(batch)) or engine.run(batch)))
    counts.clear()
    np.testing.assert_allclose(model.logits(pixels), small_files.expected_logits(RGB, pixels), atol=2e-5)
    assert sum(counts) == 40 and len(counts) < 10
    counts.clear()
    model.predict(pixels[0])
    assert counts == [1]
    assert model.logits(pixels[:0]).shape == (0, 3)


def test_a_file_for_one_image_whose_spec_says_any_number_is_an_error(tmp_path):
    path = small_files.onnx_file(tmp_path / "model.onnx", RGB.replace(batch_size=0), batch=1)
    with pytest.raises(InputError, match="does not run"):
        load(path)


def test_temperature_flattens_and_keeps_the_order(make):
    pixels = small_files.images(GRAY)
    path = make(GRAY)
    plain = load(path).probabilities(pixels)
    wanted = np.exp(small_files.expected_logits(GRAY, pixels))
    np.testing.assert_allclose(plain, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    specs.embed(path, GRAY.replace(temperature=3.0))
    flat = load(path).probabilities(pixels)
    wanted = np.exp(small_files.expected_logits(GRAY, pixels) / 3)
    np.testing.assert_allclose(flat, wanted / wanted.sum(1, keepdims=True), atol=1e-5)
    assert (flat.argmax(1) == plain.argmax(1)).all() and (flat.max(1) < plain.max(1)).all()


def test_predict_names_the_class_and_abstains_below_the_threshold(make):
    face = small_files.images(GRAY, 1)[0]
    model = load(make())
    answer = model.predict(face)
    probabilities = model.probabilities(face[None])[0]
    assert list(answer.probabilities) == list(GRAY.class_names)
    assert list(answer.probabilities.values()) == [float(p) for p in probabilities]
    assert answer.label == GRAY.class_names[probabilities.argmax()] and answer.confidence == probabilities.max()
    for threshold, label in ((answer.confidence, answer.label), (np.nextafter(answer.confidence, 1), UNCERTAIN)):
        unsure = load(make(GRAY.replace(abstention_threshold=float(threshold)))).predict(face)
        assert unsure.label == label and unsure.probabilities == answer.probabilities


@pytest.mark.parametrize("order, kept", [("rgb", [2, 1, 0]), ("bgr", [0, 1, 2])])
def test_prepare_puts_the_channels_in_the_specs_order(tmp_path, order, kept):
    model = load(small_files.onnx_file(tmp_path / "m.onnx", RGB.replace(color_order=order)))
    face = small_files.images(RGB, 1)[0]
    np.testing.assert_array_equal(model.prepare(face), face[..., kept])
    gray = face[..., 0]
    np.testing.assert_array_equal(model.prepare(gray), np.repeat(gray[..., None], 3, 2))


def test_prepare_makes_gray_by_luma_and_keeps_the_proportions(tmp_path):
    model = load(small_files.onnx_file(tmp_path / "m.onnx"))
    rng = np.random.default_rng(0)
    same = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
    assert np.abs(model.prepare(same)[..., 0] - same @ np.array([0.114, 0.587, 0.299])).max() <= 1
    ramp = np.repeat(np.array([[0], [120], [240]], np.uint8), 3, 1)
    rows = model.prepare(ramp)[:, 0, 0]
    assert rows.shape == (6,) and rows[0] == 0 and rows[-1] == 240 and (np.diff(rows.astype(int)) >= 0).all()
    assert len(set(rows.tolist())) > 3  # interpolated
    wide = rng.integers(0, 256, (6, 9)).astype(np.uint8)
    np.testing.assert_array_equal(model.prepare(wide)[..., 0], wide[:, 2:7])
    tall = rng.integers(0, 256, (24, 10)).astype(np.uint8)
    np.testing.assert_array_equal(model.prepare(tall), model.prepare(tall[6:18]))
    same = rng.integers(0, 256, (6, 5)).astype(np.uint8)
    np.testing.assert_array_equal(model.prepare(same)[..., 0], same)


@pytest.mark.parametrize(
    "face, message",
    [
        (None, "must be a uint8 array, got NoneType"),
        (np.zeros((6, 5), np.float32), "got float32"),
        (np.zeros((0, 5), np.uint8), r"not empty, got \(0, 5\)"),
        (np.zeros((6, 5, 4), np.uint8), r"\(h, w, 3\) BGR and not empty, got \(6, 5, 4\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
    ],
)
def test_an_invalid_face_array_is_an_error(tmp_path, face, message):
    model = load(small_files.onnx_file(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match=message):
        model.predict(face)


@pytest.mark.parametrize("pixels", [np.zeros((2, 5, 6, 1), np.uint8), np.zeros((2, 6, 5, 1), np.float32), [[1]]])
def test_logits_take_pixels_of_the_spec_only(tmp_path, pixels):
    model = load(small_files.onnx_file(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match=r"takes uint8 images of shape \(N, 6, 5, 1\), got"):
        model.logits(pixels)


def test_non_finite_logits_are_an_error(tmp_path):
    path = small_files.onnx_file(tmp_path / "broken.onnx", bias=[0, np.nan, 0])
    with pytest.raises(InputError, match="non-finite logits for 2 of 2 images"):
        load(path).logits(small_files.images(GRAY, 2))


def test_invalid_files_are_one_line_errors(make, tmp_path):
    with pytest.raises(InputError, match="has no ferjax spec"):
        load(make(embed=False))
    path = make()
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / path.name)
    whole, cut = path.read_bytes(), tmp_path / f"cut{path.suffix}"
    for size in (0, 3, len(whole) // 2, len(whole) - 20):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"truncated|empty|not a TFLite model|no ferjax spec|damaged"):
            load(cut)
    with pytest.raises(InputError, match="is not UTF-8: rename it"):
        load(path.rename(tmp_path / os.fsdecode(b"caf\xe9" + os.fsencode(path.suffix))))


@pytest.mark.parametrize(
    "other",
    [GRAY.replace(input_size=(5, 6)), RGB, GRAY.replace(class_names=("face", "none"))],
    ids=["size", "color", "classes"],
)
def test_a_network_that_does_not_match_its_spec_is_an_error(make, other):
    path = make()
    specs.embed(path, other)
    with pytest.raises(InputError, match=r"maps \(1, 6, 5, 1\) to \(1, 3\), "):
        load(path)


@pytest.mark.parametrize("name, runtime", [("junk.tflite", "LiteRT"), ("junk.onnx", "onnxruntime")])
def test_a_damaged_network_is_named_with_its_runtime(tmp_path, name, runtime):
    path = tmp_path / name
    graph = b"\x08\x0a\x3a\x06" + b"\x0a\x04\xff\xff\xff\xff"
    path.write_bytes(graph if path.suffix == ".onnx" else b"\xff\xff\xff\x7fTFL3" + bytes(range(64)))
    specs.embed(path, GRAY)
    with pytest.raises(InputError, match=f"{runtime} cannot load .*junk"):
        load(path)


@pytest.mark.parametrize("package, install", [("ai_edge_litert", "ai-edge-litert"), ("onnxruntime", "onnxruntime")])
def test_a_missing_runtime_is_named_with_its_install_line(tmp_path, monkeypatch, package, install):
    suffix, write = (
        (".onnx", small_files.onnx_file) if package == "onnxruntime" else (".tflite", small_files.tflite_file)
    )
    path = write(tmp_path / f"m{suffix}")
    for name in (package, f"{package}.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"requires {install}: pip install {install}"):
        load(path)


ALONE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in {"ferjax", "numpy", RUNTIME} | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

RUNTIME, path = sys.argv[1:]
sys.meta_path.insert(0, Blocker())
import numpy as np
import ferjax.runtime
from ferjax.errors import InputError
model = ferjax.runtime.load(path)
face = np.arange(30, dtype=np.uint8).reshape(6, 5)
print(model.predict(face).confidence)
for shape in ((9, 9), (6, 5, 3)):
    try:
        model.predict(np.zeros(shape, np.uint8))
    except InputError as error:
        print(error)
"""


def test_files_run_with_nothing_but_numpy_and_their_runtime(make, tmp_path):
    path = make()
    runtime = "onnxruntime" if path.suffix == ".onnx" else "ai_edge_litert"
    done = subprocess.run([sys.executable, "-c", ALONE, runtime, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    confidence, *errors = done.stdout.splitlines()
    face = np.arange(30, dtype=np.uint8).reshape(6, 5)
    assert float(confidence) == pytest.approx(load(path).predict(face).confidence, abs=1e-6)
    assert len(errors) == 2 and all("require Pillow: pip install pillow" in error for error in errors)


def test_the_fastest_file_of_a_folder_is_loaded(tmp_path, tmp_path_factory, capsys, monkeypatch):
    for name in ("a.onnx", "b.onnx"):
        small_files.onnx_file(tmp_path / name, GRAY)
    run = Model.logits

    def slow(model, images):
        if model._name.endswith("a.onnx"):
            time.sleep(0.01)
        return run(model, images)

    monkeypatch.setattr(Model, "logits", slow)
    chosen = pickle.loads(pickle.dumps(load(tmp_path)))
    assert chosen._name.endswith("b.onnx")
    assert "b.onnx is the fastest" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no \.tflite or \.onnx files"):
        load(tmp_path_factory.mktemp("empty"))
    small_files.onnx_file(tmp_path / "c.onnx", GRAY.replace(architecture="other"))
    with pytest.raises(InputError, match="several networks"):
        load(tmp_path)


def test_provider_and_threads_are_checked(tmp_path):
    onnx_path = small_files.onnx_file(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"unknown provider 'tensort'\. Did you mean 'tensorrt'"):
        load(onnx_path, provider="tensort")
    with pytest.raises(InputError, match=r"provider 'coreml' is not available; onnxruntime has .*cpu here"):
        load(onnx_path, provider="coreml")
    with pytest.raises(InputError, match=r"'cuda' .*\.tflite"):
        load(small_files.tflite_file(tmp_path / "m.tflite"), provider="cuda")
    with pytest.raises(InputError, match=r"threads must be in 1\.\.1024"):
        load(onnx_path, threads=0)


@pytest.mark.parametrize(
    ("processor", "quantization", "said"),
    [
        ("flags\t\t: fpu avx avx2 fma", "qat", True),
        ("flags\t\t: fpu avx avx2 avx512f avx512_vnni", "qat", False),
        ("flags\t\t: fpu avx avx2 avx_vnni", "qat", False),
        ("Features\t: fp asimd asimddp", "qat", False),
        ("flags\t\t: fpu avx avx2 fma", "int8", False),
        (None, "qat", False),
    ],
)
def test_saturating_int8_weights_are_reported(tmp_path, monkeypatch, capsys, processor, quantization, said):
    """Without VNNI, onnxruntime adds products of 8-bit weights in 16 bits; int8 files use 7 bits."""
    monkeypatch.setattr(engines, "_PROCESSOR", tmp_path / "cpuinfo")
    if processor is not None:
        (tmp_path / "cpuinfo").write_text(processor + "\n")
    spec = GRAY.replace(quantization=quantization)
    load(small_files.tflite_file(tmp_path / "m.tflite", spec))
    assert "VNNI" not in capsys.readouterr().err
    load(small_files.onnx_file(tmp_path / "m.onnx", spec))
    assert ("saturate in ONNX Runtime on this processor" in capsys.readouterr().err) == said


def test_a_network_that_does_not_run_is_an_error_at_load(make):
    def broken(_):  # LiteRT's error for a file with 512 bytes zeroed
        raise RuntimeError("Input tensor 18 lacks data\n")

    engine = open_engine(make(), threads=1, provider="cpu")._replace(run=broken)
    with pytest.raises(InputError, match=r"^x loads but does not run: .*again \(Input tensor 18 lacks data\)"):
        Model(GRAY, engine, "x")


def test_threads_may_share_a_model(make):
    model, pixels = load(make()), small_files.images(GRAY, 400)
    expected = model.logits(pixels)
    with futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: model.logits(pixels[i : i + 1])[0], range(400)))
    np.testing.assert_array_equal(answers, expected)


POOL = """
import multiprocessing
import os
import sys
import numpy as np
from ferjax.runtime import load

if __name__ == "__main__":
    model, faces = load(sys.argv[2], threads=1), np.load(sys.argv[3])
    os.chdir("/")  # the file is found from any folder
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        answer = pool.apply(model.logits, (faces,))
    print((answer == model.logits(faces)).all())
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_model_goes_to_the_processes_of_a_pool(make, tmp_path, method):
    path = make()
    (tmp_path / "pool.py").write_text(POOL)
    np.save(tmp_path / "faces.npy", small_files.images(GRAY, 4))
    command = [sys.executable, tmp_path / "pool.py", method, path.name, tmp_path / "faces.npy"]
    seen = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path.parent, env=seen, capture_output=True, text=True, timeout=100)
    assert done.stdout == "True\n", done.stderr


def test_answers_of_a_provider_are_compared_with_the_cpu(tmp_path, monkeypatch, capsys):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    face = np.arange(30, dtype=np.uint8).reshape(6, 5)
    answer = load(path, provider="azure").predict(face)  # in onnxruntime's wheel; it runs local files on the CPU
    assert answer == load(path).predict(face) and capsys.readouterr().err == ""

    def wrong(*a, provider, **k):
        engine = open_engine(*a, provider=provider, **k)
        return engine if provider == "cpu" else engine._replace(run=lambda batch: engine.run(batch)[:, ::-1])

    monkeypatch.setattr(models, "open_engine", wrong)
    load(path, provider="azure")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "provider azure" in said and "differ" in said


def test_a_pickle_keeps_the_options_and_needs_the_file(tmp_path, monkeypatch):
    path = small_files.onnx_file(tmp_path / "m.onnx")
    opened = []
    monkeypatch.setattr(models, "open_engine", lambda *a, **k: opened.append(k) or open_engine(*a, **k))
    stored = pickle.dumps(load(path, threads=3))
    pickle.loads(stored)
    assert opened == [{"threads": 3, "provider": "cpu"}] * 2
    path.unlink()
    with pytest.raises(InputError, match=r"m\.onnx"):
        pickle.loads(stored)


def test_concurrent_loads_restore_standard_error():
    before = os.fstat(2)
    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load("mini_xception"), range(40)))
    assert (os.fstat(2).st_dev, os.fstat(2).st_ino) == (before.st_dev, before.st_ino)


@pytest.mark.parametrize(("shape", "kind", "said"), [(None, "FLOAT", "shape"), ([1, 30], "STRING", "STRING|string")])
def test_unsupported_ports_are_an_error(tmp_path, shape, kind, said):
    helper, number = onnx.helper, getattr(onnx.TensorProto, kind)
    ports = [helper.make_tensor_value_info(name, number, shape) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "foreign", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "f.onnx")
    with pytest.raises(InputError, match=said):
        open_engine(tmp_path / "f.onnx", threads=1, provider="cpu")
