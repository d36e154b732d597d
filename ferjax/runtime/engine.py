"""One way to run a TFLite or an ONNX file: a function from its input array to its output array.

ai-edge-litert or onnxruntime is imported when a file of its kind is opened. Nothing is known here of faces or classes.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ferjax.errors import InputError, unknown

# Name on the command line -> onnxruntime's name.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}

_THREADS = 1024  # more than any processor has; the runtimes fall over what a system cannot start
_PROCESSOR = pathlib.Path("/proc/cpuinfo")


class MissingProvider(InputError):
    """The file is sound, but nothing here runs it on the provider asked for."""


class Port(NamedTuple):
    """The input or the output of a network.

    Attributes:
      shape: static sizes; a free first axis counts as 1, any other free axis as -1.
      dtype: of the array.
      scale: a quantised value q stands for scale * (q - zero_point); 0 for a network that takes or gives floats.
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
      input: what `run` takes.
      output: what `run` returns.
      run: maps an array of the input's shape and dtype to a new array of the output's.
    """

    runtime: str
    input: Port
    output: Port
    run: Callable[[np.ndarray], np.ndarray]


def open_engine(path: str | os.PathLike[str], *, threads: int, provider: str) -> Engine:
    """Loads a .tflite or .onnx file into its runtime.

    Args:
      path: the file.
      threads: that one inference may use, 1..1024.
      provider: "cpu", and for .onnx files also "cuda", "tensorrt" or "coreml" where onnxruntime has it.

    Raises:
      InputError: if the file, the runtime or the provider is missing, or the file cannot be loaded.
    """
    path = pathlib.Path(path)
    if provider not in PROVIDERS:
        raise unknown("provider", provider, PROVIDERS)
    if not 1 <= threads <= _THREADS:
        raise InputError(f"threads must be in 1..{_THREADS}, got {threads}")
    if not path.is_file():
        raise InputError(f"there is no model file {str(path)!r}")
    kind = path.suffix.lower()
    if kind == ".tflite":
        if provider != "cpu":
            raise MissingProvider(
                f"provider {provider!r} is not here: LiteRT runs .tflite files on cpu; take the .onnx file"
            )
        return _litert(path, threads)
    if kind == ".onnx":
        return _onnxruntime(path, threads, provider)
    raise InputError(f"{str(path)!r} is no model file: accepted are .tflite and .onnx files")


def saturates() -> bool:
    """Whether onnxruntime adds products of 8-bit weights in 16 bits on this processor, and cuts off what is too large.

    It does on x86 processors without VNNI. Known for Linux; False elsewhere.
    """
    try:
        words = set(_PROCESSOR.read_text().split())
    except OSError:
        return False
    return "avx2" in words and not {"avx512_vnni", "avx_vnni"} & words


class _Silence:
    """Standard error led to nowhere for as long as any thread wants it."""

    def __init__(self) -> None:
        self._lock, self._wanted, self._kept = threading.Lock(), 0, -1

    def begin(self) -> None:
        with self._lock:
            self._wanted += 1
            if self._wanted > 1:
                return
            self._kept = -1
            with contextlib.suppress(OSError):  # standard error is closed, as for a daemon, or too many files are open
                nowhere = os.open(os.devnull, os.O_WRONLY)
                try:
                    self._kept = os.dup(2)
                    os.dup2(nowhere, 2)
                finally:
                    os.close(nowhere)

    def end(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted and self._kept >= 0:
                os.dup2(self._kept, 2)
                os.close(self._kept)


_silence = _Silence()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps LiteRT, which no setting silences, from writing about its delegate on standard error."""
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


def _litert(path: pathlib.Path, threads: int) -> Engine:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(f"{path} needs ai-edge-litert: pip install ai-edge-litert, or take an .onnx file") from error
    try:
        with quiet():
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
    free = details["shape_signature"]
    shape = tuple(-1 if axis and free[axis] < 0 else int(n) for axis, n in enumerate(details["shape"]))
    return Port(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))


def _onnxruntime(path: pathlib.Path, threads: int, provider: str) -> Engine:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime: pip install onnxruntime, or take a .tflite file") from error
    here = [name for name, ort_name in PROVIDERS.items() if ort_name in onnxruntime.get_available_providers()]
    if provider not in here:
        raise _missing(provider, here)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin while idle take the cores from OpenCV and the camera.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    chosen = [PROVIDERS[provider]] + [PROVIDERS["cpu"]] * (provider != "cpu")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=chosen)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise _broken(path, "onnxruntime", error) from error
    if PROVIDERS[provider] not in session.get_providers():
        raise _missing(provider, [name for name in here if PROVIDERS[name] in session.get_providers()])
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
        raise InputError(f"{path} does not say the shape of {value.name!r}: export it again with its shapes")
    shape = tuple(n if isinstance(n, int) else -1 if axis else 1 for axis, n in enumerate(value.shape))
    names = {"float": "float32", "double": "float64"}
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    try:
        return Port(shape, np.dtype(names.get(kind, kind)))
    except TypeError as error:
        raise InputError(f"{path} has {value.type} at {value.name!r}, which numpy has no arrays of") from error


def _check_single(path: pathlib.Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise InputError(f"{path} has {inputs} inputs and {outputs} outputs: not a classifier, which has one of each")


def _missing(provider: str, here: list[str]) -> MissingProvider:
    return MissingProvider(f"provider {provider!r} is not here: onnxruntime offers {', '.join(here)} on this machine")


def _broken(path: pathlib.Path, runtime: str, error: Exception) -> InputError:
    return InputError(f"{path} cannot be loaded by {runtime}; copy or export it again ({' '.join(str(error).split())})")
