"""Classifies cropped faces with an exported model, with the preprocessing of its training.

Preprocessing and class names come from the spec in the file (`ferjax.spec`). Requires numpy and one runtime; Pillow
only to resize faces and to convert color to gray.
"""

import functools
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

import ferjax.spec
from ferjax.cli import counted, note
from ferjax.errors import InputError
from ferjax.runtime import preprocessing, shipped
from ferjax.runtime.engine import Engine, int8_saturates, open_engine
from ferjax.spec import UNCERTAIN, ModelSpec

_PROVIDER_TOLERANCE = 0.01  # of a probability, between a provider and the CPU
_LARGEST_BATCH = 16  # of a file for any number of images: larger ones take more memory and no less time per image


class Prediction(NamedTuple):
    """The prediction for one face.

    Attributes:
      label: the most probable class, or "uncertain" if its probability is below the abstention threshold.
      confidence: probability of the most probable class, in 0..1.
      probabilities: class name -> probability, in the order of the spec; they sum to 1.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]


def load(path: str | os.PathLike[str] | None = None, *, threads: int = 2, provider: str = "cpu") -> "Model":
    """Loads a .tflite or .onnx file, or a model of the package.

    Args:
      path: a file written by `ferjax export`, or a name from `ferjax models` (default: the default model). Of a folder
        with files of one network, the fastest on this machine is loaded and named.
      threads: threads of one inference, at least 1.
      provider: "cpu"; for .onnx files also any execution provider of the installed onnxruntime, such as "cuda",
        "tensorrt", "openvino" or "coreml". Its probabilities are compared with the CPU's.

    Raises:
      InputError: if the file is missing, truncated, has no spec or does not match it; if the name is unknown; if the
        runtime or the provider is missing.
    """
    path = shipped.find(path)
    if path.is_dir():
        return _fastest(path, threads, provider)
    spec = ferjax.spec.read(path)
    engine = open_engine(path, threads=threads, provider=provider)
    if engine.runtime == "ONNX Runtime" and provider == "cpu" and spec.quantization == "qat" and int8_saturates():
        note(
            f"{os.fspath(path)}: products of 8-bit weights saturate in ONNX Runtime on this processor, which lacks "
            "VNNI. Predictions differ from the network's: use the .tflite file"
        )
    reload = functools.partial(load, os.path.abspath(path), threads=threads, provider=provider)
    model = Model(spec, engine, os.fspath(path), reload)
    if provider != "cpu":
        _compare(model, load(path, threads=threads), provider)
    return model


def milliseconds(models: Mapping[str, "Model"], *, rounds: int = 5, seconds: float = 0.1) -> dict[str, float]:
    """Returns the median time for one image by name, in milliseconds.

    The models alternate, so that other load on the machine affects all of them.

    Args:
      models: loaded models by name.
      rounds: turns of each model, after one for warm-up.
      seconds: length of a turn; a turn has at least one image.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            image, end = np.zeros((1, *model.spec.input_shape), np.uint8), time.perf_counter() + seconds
            while time.perf_counter() < end or len(times[name]) < turn:
                start = time.perf_counter()
                model.logits(image)
                if turn:  # round 0 is the warm-up
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(measured)) for name, measured in times.items()}


def _fastest(folder: pathlib.Path, threads: int, provider: str) -> "Model":
    kinds = (".tflite", ".onnx") if provider == "cpu" else (".onnx",)
    files = sorted(path for path in folder.iterdir() if path.suffix in kinds)
    if not files:
        raise InputError(f"{folder} has no {' or '.join(kinds)} files: give a file, or write one with `ferjax export`")
    models = {path.name: load(path, threads=threads, provider=provider) for path in files}
    networks = sorted({model.spec.architecture for model in models.values()})
    if len(networks) > 1:
        raise InputError(f"{folder} has files of several networks ({', '.join(networks)}): give a file")
    times = milliseconds(models, seconds=0.01)
    best = min(times, key=times.__getitem__)
    others = ", ".join(f"{name} {value:.2f}" for name, value in times.items() if name != best)
    note(f"{folder}: {best} is the fastest file here, {times[best]:.2f} ms an image{others and f' ({others})'}")
    return models[best]


class NotFinite(InputError):
    """The network returned NaN or infinity."""


class Model:
    """A loaded classifier. It is thread-safe; inferences are serialized by a lock.

    A model from `load` can be pickled, for example as an argument of a process pool: the pickle contains the path and
    the options, and the file is loaded again.

    Attributes:
      spec: the spec of the file.
    """

    def __init__(
        self, spec: ModelSpec, engine: Engine, name: str = "the model", reload: Callable[[], "Model"] | None = None
    ):
        self.spec = spec
        self._engine, self._name, self._reload = engine, name, reload
        _check_fit(spec, engine, name)
        # A pixel has 256 values: a table holds their normalized, and for integer inputs quantized, values.
        self._table = _input_table(spec, engine)
        self._offsets = np.arange(0, 256 * spec.channels, 256, dtype=np.intp)
        self._indices = np.empty(spec.input_shape, np.intp)
        size = engine.input.shape[0] if spec.batch_size else _LARGEST_BATCH
        self._batch = np.zeros((size, *engine.input.shape[1:]), engine.input.dtype)
        channels_last = engine.input.shape[1:] == spec.input_shape
        self._slots = self._batch if channels_last else self._batch.transpose(0, 2, 3, 1)
        self._lock = threading.Lock()
        self._check_runs()

    def __reduce__(self) -> tuple[Callable[[], "Model"], tuple[()]]:
        if self._reload is None:
            raise InputError(f"{self._name} cannot be pickled: only models from `load` can")
        return self._reload, ()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
          images: uint8 (N, H, W, C) in the size and color order of the spec.

        Returns:
          float32 (N, classes); N may be 0.

        Raises:
          InputError: for another dtype or shape.
          NotFinite: an InputError, if the logits are not finite.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != self.spec.input_shape:
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            expected = ", ".join(map(str, self.spec.input_shape))
            raise InputError(f"{self._name} takes uint8 images of shape (N, {expected}), got {found}")
        logits = np.empty((len(images), len(self.spec.class_names)), np.float32)
        size = len(self._slots)
        for start in range(0, len(images), size):
            count = min(size, len(images) - start)
            with self._lock:
                for slot, image in zip(self._slots, images[start : start + count], strict=False):
                    np.add(image, self._offsets, out=self._indices)
                    self._table.take(self._indices, out=slot, mode="clip")
                answer, output = self._run(count), self._engine.output
            if output.scale:
                answer = (answer.astype(np.float32) - output.zero_point) * output.scale
            logits[start : start + count] = answer
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(1).sum())
            raise NotFinite(
                f"{self._name} returns non-finite logits for {bad} of {counted(len(logits), 'image')}: export it again"
            )
        return logits

    def _run(self, count: int) -> np.ndarray:
        """Returns the output for the first `count` images of the buffer."""
        batch = self._batch if self.spec.batch_size else self._batch[:count]
        return self._engine.run(batch)[:count]

    def _check_runs(self) -> None:
        """Runs the network once, because a damaged file can load without an error."""
        try:
            self._run(2)
        except Exception as error:  # the runtimes' exceptions have no common base class
            reason = " ".join(str(error).split())
            raise InputError(f"{self._name} loads but does not run: copy or export it again ({reason})") from error

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns softmax(logits / temperature) as float32 (N, classes); arguments and errors as in `logits`."""
        scaled = self.logits(images) / np.float32(self.spec.temperature)
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def prepare(self, face: np.ndarray) -> np.ndarray:
        """Converts a cropped face to the size and color order of the spec, as the training data were prepared.

        Color is converted and another size resized as in `ferjax.runtime.preprocessing.fit`.

        Args:
          face: uint8 (h, w) or (h, w, 1) gray, or (h, w, 3) BGR, of any size.

        Returns:
          uint8 (H, W, C); it may share memory with `face`.

        Raises:
          InputError: if the array is empty, not uint8 or of another shape; if Pillow is required and missing.
        """
        _check_face(face)
        return preprocessing.to_input(face, self.spec)

    def decide(self, probabilities: np.ndarray) -> Prediction:
        """Returns the prediction for probabilities (classes,): "uncertain" below the abstention threshold."""
        values = [float(p) for p in probabilities]
        confidence = max(values)
        certain = confidence >= self.spec.abstention_threshold
        label = self.spec.class_names[values.index(confidence)] if certain else UNCERTAIN
        return Prediction(label, confidence, dict(zip(self.spec.class_names, values, strict=True)))

    def predict(self, face: np.ndarray) -> Prediction:
        """Classifies one cropped face; see `prepare` for the accepted arrays."""
        return self.decide(self.probabilities(self.prepare(face)[None])[0])


def _input_table(spec: ModelSpec, engine: Engine) -> np.ndarray:
    """Returns a table of network inputs in the input's dtype: entry 256 c + p is pixel value p of channel c."""
    pixels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None] for v in (spec.mean, spec.std))
    table, port = (pixels - mean) / std, engine.input
    if port.scale:
        limits = np.iinfo(port.dtype)
        table = np.clip(np.rint(table / port.scale) + port.zero_point, limits.min, limits.max)
    return table.astype(port.dtype).ravel()


def _compare(model: Model, reference: Model, provider: str) -> None:
    """Prints a note if the probabilities for random images differ from those of the CPU."""
    images = np.random.default_rng(0).integers(0, 256, (8, *model.spec.input_shape), dtype=np.uint8)
    difference = float(np.abs(model.probabilities(images) - reference.probabilities(images)).max())
    if difference > _PROVIDER_TOLERANCE:
        note(f"probabilities on provider {provider} differ from the CPU's by up to {difference:.3f}: check its results")


def _check_fit(spec: ModelSpec, engine: Engine, name: str) -> None:
    height, width, channels = spec.input_shape
    classes, (feed, output) = len(spec.class_names), (engine.input, engine.output)
    fits = feed.shape[1:] in ((height, width, channels), (channels, height, width)) and output.shape[1:] == (classes,)
    if not fits or feed.shape[0] != output.shape[0] or feed.shape[0] < 1:
        raise InputError(
            f"{name} maps {feed.shape} to {output.shape}, but its spec has input {spec.input_shape} and "
            f"{classes} classes: export it again"
        )
    for port in (feed, output):
        if not (port.dtype == np.float32 or (port.scale and port.dtype.kind in "iu")):
            raise InputError(f"{name} has an input or output of {port.dtype}; accepted: float32 and quantized integers")


def _check_face(face: np.ndarray) -> None:
    if not isinstance(face, np.ndarray) or face.dtype != np.uint8:
        kind = face.dtype if isinstance(face, np.ndarray) else type(face).__name__
        raise InputError(f"a face must be a uint8 array, got {kind}: check that the image was read")
    if face.ndim not in (2, 3) or face.shape[2:] not in ((), (1,), (3,)) or 0 in face.shape:
        raise InputError(f"a face must be (h, w) gray or (h, w, 3) BGR and not empty, got {face.shape}")
