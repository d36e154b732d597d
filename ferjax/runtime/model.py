"""An exported classifier: pixels in, probabilities by class name out, with the preprocessing of its training.

Everything it needs to know comes from the contract in the file (`ferjax.spec`); numpy and one runtime suffice.
OpenCV is imported where a colour crop has to become grey.
"""

import functools
import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ferjax import spec as contract
from ferjax.cli import note
from ferjax.errors import InputError
from ferjax.runtime import shipped
from ferjax.runtime.engine import Engine, open_engine, saturates
from ferjax.spec import ModelSpec

UNCERTAIN = contract.UNCERTAIN


class Prediction(NamedTuple):
    """The answer for one face.

    Attributes:
      label: the most probable class, or "uncertain" where its probability is below the abstention threshold.
      confidence: probability of the most probable class, in 0..1.
      probabilities: class name -> probability, in the order of the contract; they sum to 1.
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]


def load(path: str | os.PathLike[str] | None = None, *, threads: int = 2, provider: str = "cpu") -> "Model":
    """Loads a model that comes with the package, or a .tflite or .onnx file written by export.py.

    Args:
      path: the file, or the name of a shipped model (`ferjax models` lists them); the default one if
        not given.
      threads: that one inference may use, at least 1.
      provider: "cpu", and for .onnx files also "cuda", "tensorrt" or "coreml" where onnxruntime has it.

    Raises:
      InputError: if the file is missing, cut short, without contract or not what its contract says; if no model is
        shipped under that name; if its runtime or the provider is missing.
    """
    path = shipped.find(path)
    spec = contract.read(path)
    engine = open_engine(path, threads=threads, provider=provider)
    if engine.runtime == "ONNX Runtime" and provider == "cpu" and spec.quantization == "qat" and saturates():
        note(
            f"{os.fspath(path)} has 8-bit weights, whose products saturate in ONNX Runtime on this processor (it lacks "
            "VNNI): expect other answers than the network's, and take the .tflite file"
        )
    return Model(spec, engine, os.fspath(path))


class NotFinite(InputError):
    """A network answered with something that is no number."""


class Model:
    """A loaded classifier. Threads that share it take turns: one for each is faster.

    Attributes:
      spec: the contract that the file carries.
    """

    def __init__(self, spec: ModelSpec, engine: Engine, name: str = "the model"):
        self.spec = spec
        self._engine, self._name = engine, name
        _check_fit(spec, engine, name)
        # A pixel has 256 values: normalisation, and quantisation where the file takes integers, are looked up.
        self._table = _input_table(spec, engine)
        self._offsets = np.arange(0, 256 * spec.channels, 256, dtype=np.intp)
        self._places = np.empty(spec.input_shape, np.intp)
        self._batch = np.zeros(engine.input.shape, engine.input.dtype)
        last = engine.input.shape[1:] == spec.input_shape
        self._slots = self._batch if last else self._batch.transpose(0, 2, 3, 1)
        self._turn = threading.Lock()
        self._try()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
          images: uint8 (N, H, W, C) of the spec's size and colour order.

        Returns:
          float32 (N, classes); N may be 0.

        Raises:
          InputError: for another dtype or shape.
          NotFinite: an InputError, if the network answers with something that is not finite.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != self.spec.input_shape:
            found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            wanted = ", ".join(map(str, self.spec.input_shape))
            raise InputError(f"{self._name} takes uint8 images of shape (N, {wanted}), got {found}")
        logits = np.empty((len(images), len(self.spec.class_names)), np.float32)
        size = len(self._slots)
        for start in range(0, len(images), size):
            count = min(size, len(images) - start)
            with self._turn:
                for slot, image in zip(self._slots, images[start : start + count], strict=False):
                    np.add(image, self._offsets, out=self._places)
                    self._table.take(self._places, out=slot, mode="clip")
                answer, output = self._engine.run(self._batch)[:count], self._engine.output
            if output.scale:
                answer = (answer.astype(np.float32) - output.zero_point) * output.scale
            logits[start : start + count] = answer
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(1).sum())
            raise NotFinite(
                f"{self._name} gives non-finite logits for {bad} of {len(logits)} images: the file is broken"
            )
        return logits

    def _try(self) -> None:
        """Runs the network once: a file that was damaged in its middle loads."""
        try:
            self._engine.run(self._batch)
        except Exception as error:  # the runtimes' exceptions have no common base class
            why = " ".join(str(error).split())
            raise InputError(f"{self._name} is loaded but does not run; copy or export it again ({why})") from error

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns softmax(logits / temperature) as float32 (N, classes); takes and raises what `logits` does."""
        scaled = self.logits(images) / np.float32(self.spec.temperature)
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def prepare(self, face: np.ndarray) -> np.ndarray:
        """Turns a cropped face into the pixels that the network takes.

        As a data set is prepared: colour becomes grey by ITU-R 601 luma, grey is copied to three channels, and a crop
        of another size is cut to the largest centred part of the spec's proportions and resized by the filter of
        Pillow's BILINEAR, which sees every pixel where it shrinks. A crop of the right size keeps its pixels.

        Args:
          face: uint8 (h, w) or (h, w, 1) grey, or (h, w, 3) BGR, of any size.

        Returns:
          uint8 (H, W, C); it may share memory with `face`.

        Raises:
          InputError: if it is empty, not uint8 or of another shape; if OpenCV is needed and missing.
        """
        _check_face(face)
        image, (height, width, channels) = face.reshape(*face.shape[:2], -1), self.spec.input_shape
        if channels == 1 and image.shape[2] == 3:
            cv2 = _opencv("colour to grey")
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if image.shape[:2] != (height, width):
            part = _centre(image, height, width)
            planes = np.moveaxis(part.reshape(*part.shape[:2], -1), 2, 0).astype(np.float32)
            planes = np.floor(planes @ _triangle(part.shape[1], width).T + 0.5)  # Pillow rounds between the two, too
            planes = np.floor(_triangle(part.shape[0], height) @ planes + 0.5)
            image = np.moveaxis(planes, 0, 2).astype(np.uint8)
        image = image.reshape(height, width, -1)
        if image.shape[2] < channels:
            return np.repeat(image, channels, axis=2)
        return image[..., ::-1] if self.spec.color_order == "rgb" else image

    def decide(self, probabilities: np.ndarray) -> Prediction:
        """Names the answer that float (classes,) probabilities give, "uncertain" below the abstention threshold."""
        values = [float(p) for p in probabilities]
        confidence = max(values)
        sure = confidence >= self.spec.abstention_threshold
        label = self.spec.class_names[values.index(confidence)] if sure else UNCERTAIN
        return Prediction(label, confidence, dict(zip(self.spec.class_names, values, strict=True)))

    def predict(self, face: np.ndarray) -> Prediction:
        """Answers for one cropped face; takes what `prepare` takes."""
        return self.decide(self.probabilities(self.prepare(face)[None])[0])


@functools.lru_cache(maxsize=256)
def _triangle(old: int, new: int) -> np.ndarray:
    """Returns float32 (new, old), what each old pixel adds to each new one; the filter is wider where it shrinks."""
    step = old / new
    places = (np.arange(new) + 0.5) * step
    weights = np.maximum(0.0, 1 - np.abs(np.arange(old) + 0.5 - places[:, None]) / max(step, 1.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _centre(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the largest centred part whose sides are as height to width."""
    rows, columns = image.shape[:2]
    part_rows = max(1, min(rows, round(columns * height / width)))
    part_columns = max(1, min(columns, round(rows * width / height)))
    top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
    return image[top : top + part_rows, left : left + part_columns]


def _opencv(purpose: str) -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"turning {purpose} needs OpenCV: pip install opencv-python-headless") from error
    return cv2


def _input_table(spec: ModelSpec, engine: Engine) -> np.ndarray:
    """Returns what the network is fed for pixel p of channel c at [256 c + p], in the input's dtype."""
    pixels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    mean, std = (np.array(v, np.float32)[:, None] for v in (spec.mean, spec.std))
    table, port = (pixels - mean) / std, engine.input
    if port.scale:
        limits = np.iinfo(port.dtype)
        table = np.clip(np.rint(table / port.scale) + port.zero_point, limits.min, limits.max)
    return table.astype(port.dtype).ravel()


def _check_fit(spec: ModelSpec, engine: Engine, name: str) -> None:
    height, width, channels = spec.input_shape
    classes, (feed, output) = len(spec.class_names), (engine.input, engine.output)
    fits = feed.shape[1:] in ((height, width, channels), (channels, height, width)) and output.shape[1:] == (classes,)
    if not fits or feed.shape[0] != output.shape[0] or feed.shape[0] < 1:
        raise InputError(
            f"{name} maps {feed.shape} to {output.shape}, but its contract says one image of {spec.input_shape} to "
            f"{classes} classes: it is a network for another task"
        )
    for port in (feed, output):
        if not (port.dtype == np.float32 or (port.scale and port.dtype.kind in "iu")):
            raise InputError(
                f"{name} computes with {port.dtype} at its edge; accepted are float32 and quantised integers"
            )


def _check_face(face: np.ndarray) -> None:
    if not isinstance(face, np.ndarray) or face.dtype != np.uint8:
        kind = face.dtype if isinstance(face, np.ndarray) else type(face).__name__
        raise InputError(f"a face must be a uint8 array as OpenCV gives it, got {kind}; was the image read at all?")
    if face.ndim not in (2, 3) or face.shape[2:] not in ((), (1,), (3,)) or 0 in face.shape:
        raise InputError(f"a face must be (h, w) grey or (h, w, 3) BGR and not empty, got {face.shape}")
