"""Loads TFLite and ONNX files behind one interface: a function from input array to output array.

ai-edge-litert or onnxruntime is imported when a file of its format is opened.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ferjax.errors import InputError, unknown
from ferjax.folders import native

_MAX_THREADS = 1024  # the runtimes crash if the system cannot start the threads
_PROCESSOR = pathlib.Path("/proc/cpuinfo")


class MissingProvider(InputError):
    """The provider is not available on this machine; the file may be valid."""


class Port(NamedTuple):
    """The input or output of a network.

    Attributes:
      shape: static sizes; a dynamic first axis is 1, other dynamic axes are -1.
      dtype: of the array.
      scale: a quantized value q represents scale * (q - zero_point); 0 for floats.
      zero_point: see `scale`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0


class Engine(NamedTuple):
    """A loaded network with one input and one output.

    Attributes:
      runtime: "LiteRT" or "ONNX Runtime".
      input: shape and dtype of the argument of `run`.
      output: shape and dtype of the result of `run`.
      run: maps an input array to a new output array.
    """

    runtime: str
    input: Port
    output: Port
    run: Callable[[np.ndarray], np.ndarray]


def open_engine(path: str | os.PathLike[str], *, threads: int, provider: str) -> Engine:
    """Loads a .tflite or .onnx file.

    Args:
      path: the file.
      threads: threads of one inference, 1..1024.
      provider: "cpu"; for .onnx files also any execution provider of the installed onnxruntime, such as "cuda",
        "tensorrt", "openvino" or "coreml".

    Raises:
      InputError: if the file, the runtime or the provider is missing, or the file cannot be loaded.
    """
    path = pathlib.Path(native(path))
    if not 1 <= threads <= _MAX_THREADS:
        raise InputError(f"threads must be in 1..{_MAX_THREADS}, got {threads}")
    if not path.is_file():
        raise InputError(f"model file {str(path)!r} does not exist")
    kind = path.suffix.lower()
    if kind == ".tflite":
        if provider != "cpu":
            raise MissingProvider(
                f"provider {provider!r} is not available for .tflite files, which run on cpu: use the .onnx file"
            )
        return _litert(path, threads)
    if kind == ".onnx":
        return _onnxruntime(path, threads, provider)
    raise InputError(f"{str(path)!r} is not a model file; accepted: .tflite, .onnx")


def int8_saturates() -> bool:
    """Returns whether int8 products saturate in onnxruntime on this processor.

    On x86 processors without VNNI, onnxruntime accumulates pairs of 8-bit products in 16 bits. The processor is only
    detected on Linux; elsewhere the result is False.
    """
    try:
        words = set(_PROCESSOR.read_text(encoding="utf-8").split())
    except OSError:
        return False
    return "avx2" in words and not {"avx512_vnni", "avx_vnni"} & words


class _StderrRedirect:
    """Redirects standard error to the null device while at least one thread uses it."""

    def __init__(self) -> None:
        self._lock, self._users, self._saved = threading.Lock(), 0, -1

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._saved = -1
            with contextlib.suppress(OSError):  # standard error is closed, or too many files are open
                null = os.open(os.devnull, os.O_WRONLY)
                try:
                    self._saved = os.dup(2)
                    os.dup2(null, 2)
                finally:
                    os.close(null)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._saved >= 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)


_redirect = _StderrRedirect()


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Suppresses native output on standard error; LiteRT has no setting to silence its delegate messages."""
    _redirect.begin()
    try:
        yield
    finally:
        _redirect.end()


def _litert(path: pathlib.Path, threads: int) -> Engine:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(f"{path} requires ai-edge-litert: pip install ai-edge-litert, or use an .onnx file") from error
    try:
        with silence_stderr():
            interpreter = Interpreter(str(path), num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _broken(path, "LiteRT", error) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    _check_single(path, len(inputs), len(outputs))
    feed, fetch = inputs[0]["index"], outputs[0]["index"]

    def run(batch: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(feed, batch)
        interpreter.invoke()
        return interpreter.get_tensor(fetch)

    return Engine("LiteRT", _litert_port(inputs[0]), _litert_port(outputs[0]), run)


def _litert_port(details: dict[str, Any]) -> Port:
    scale, zero_point = details["quantization"]
    signature = details["shape_signature"]  # -1 for a dynamic axis
    shape = tuple(-1 if axis and signature[axis] < 0 else int(n) for axis, n in enumerate(details["shape"]))
    return Port(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))


def _onnxruntime(path: pathlib.Path, threads: int, provider: str) -> Engine:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} requires onnxruntime: pip install onnxruntime, or use a .tflite file") from error
    known, available = (
        {name.removesuffix("ExecutionProvider").lower(): name for name in names}
        for names in (onnxruntime.get_all_providers(), onnxruntime.get_available_providers())
    )
    if provider not in known:
        raise unknown("provider", provider, known)
    if provider not in available:
        raise _missing(provider, available)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Idle spinning threads take the cores from OpenCV and the camera.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    chosen = list(dict.fromkeys([available[provider], available["cpu"]]))
    try:
        session = onnxruntime.InferenceSession(path, options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise _broken(path, "onnxruntime", error) from error
    if available[provider] not in session.get_providers():  # for example, its libraries are missing
        raise _missing(provider, [name for name in available if available[name] in session.get_providers()])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check_single(path, len(inputs), len(outputs))
    feed, fetch = inputs[0].name, [outputs[0].name]
    return Engine(
        "ONNX Runtime",
        _onnx_port(path, inputs[0]),
        _onnx_port(path, outputs[0]),
        lambda batch: session.run(fetch, {feed: batch})[0],
    )


def _onnx_port(path: pathlib.Path, value: Any) -> Port:
    if not value.shape:
        raise InputError(f"{path} has no shape for {value.name!r}: export it again with shapes")
    shape = tuple(n if isinstance(n, int) else -1 if axis else 1 for axis, n in enumerate(value.shape))
    names = {"float": "float32", "double": "float64"}
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    try:
        return Port(shape, np.dtype(names.get(kind, kind)))
    except TypeError as error:
        raise InputError(f"{path} has type {value.type} at {value.name!r}, which numpy does not support") from error


def _check_single(path: pathlib.Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise InputError(f"{path} has {inputs} inputs and {outputs} outputs; a classifier has one of each")


def _missing(provider: str, available: Iterable[str]) -> MissingProvider:
    here = ", ".join(sorted(available))
    return MissingProvider(f"provider {provider!r} is not available; onnxruntime has {here} here")


def _broken(path: pathlib.Path, runtime: str, error: Exception) -> InputError:
    return InputError(f"{runtime} cannot load {path}: copy or export it again ({' '.join(str(error).split())})")
