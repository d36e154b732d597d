"""Implements windowed convolutions and their gradients by oneDNN, if its library is installed.

The library comes from PyPI (`onednn-cpu-gomp`) and is called through `ctypes` from XLA's custom calls, so nothing is
compiled. Arrays keep XLA's order of axes; oneDNN chooses the order of the kernel, which is copied (microseconds).

On two cores, ResNet-20's train step (48x48, batch 64) needs 489 ms of CPU time instead of 731. Pointwise and depthwise
convolutions of EfficientNet-Lite0 became slower and are not served.
"""

import ctypes
import functools
import importlib.metadata
import os
import threading
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.models.cpu import ffi
from ferjax.models.xla import Padding

_TARGET = "ferjax_onednn_convolution"
_FORWARD, _INPUT_GRADIENT, _KERNEL_GRADIENT = range(3)

# Constants of dnnl_types.h
_CPU, _IN_ORDER, _FLOAT32, _ANY, _TRAINING, _DIRECT, _USER_SCRATCHPAD = 1, 1, 3, 1, 64, 1, 1
_SRC, _WEIGHTS, _DST, _SCRATCHPAD, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 33, 17, 80, 129, 145, 161
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS, _QUERY_SCRATCHPAD = 131, 132, 136
_ALIGNMENT = 64


def serves(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether oneDNN computes this convolution: float32, on the only device, the library is installed.

    XLA cannot split a custom call over several devices.
    """
    return x.dtype == kernel.dtype == jnp.float32 and jax.device_count() == 1 and _library() is not None


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding, size: tuple[int, ...]) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O), of so many rows and columns."""
    shape = (len(x), *size, kernel.shape[-1])
    return _call((x, kernel), shape, (_FORWARD, stride, *sum(pad, ()), *x.shape, *kernel.shape, *shape))


def gradients(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of x and of the kernel."""
    problem = (stride, *sum(pad, ()), *x.shape, *kernel.shape, *dy.shape)
    dx = _call((dy, kernel), x.shape, (_INPUT_GRADIENT, *problem))
    return dx, _call((x, dy), kernel.shape, (_KERNEL_GRADIENT, *problem))


def _call(arrays: tuple[jax.Array, ...], shape: tuple[int, ...], numbers: tuple[int, ...]) -> jax.Array:
    """Returns the result of one primitive. The second result is its working memory, which XLA plans with the rest."""
    problem = np.array(numbers, np.int64)
    plan = _borrow(problem.tobytes())
    _give_back(problem.tobytes(), plan)
    types = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((plan.memory,), jnp.uint8)
    return jax.ffi.ffi_call(_TARGET, types, vmap_method="sequential")(*arrays, problem=problem)[0]


class _Argument(Structure):
    _fields_ = [("index", c_int), ("memory", c_void_p)]


class _Plan:
    """One primitive with its memory objects, for one thread at a time; it stays for the life of the process.

    Attributes:
      memory: bytes of working memory: oneDNN's scratchpad, then the kernel in oneDNN's order.
    """

    def __init__(self, problem: bytes):
        kind, stride, top, bottom, left, right, *sizes = np.frombuffer(problem, np.int64).tolist()
        (n, height, width, inputs), (kh, kw, _, outputs), (_, rows, columns, _) = sizes[:4], sizes[4:8], sizes[8:]
        library, engine = _library(), _engine()
        x = _images(n, height, width, inputs)
        y = _images(n, rows, columns, outputs)
        shape = (outputs, inputs, kh, kw)
        plain = _described(shape, (1, outputs, kw * inputs * outputs, inputs * outputs))
        free = _made(library.dnnl_memory_desc_create_with_tag, 4, _dims(shape), _FLOAT32, _ANY)
        attributes = _made(library.dnnl_primitive_attr_create)
        _check(library.dnnl_primitive_attr_set_scratchpad_mode(attributes, _USER_SCRATCHPAD))
        window = (_dims((stride, stride)), _dims((0, 0)), _dims((top, left)), _dims((bottom, right)))
        forward = _made(
            library.dnnl_convolution_forward_primitive_desc_create,
            *(engine, _TRAINING, _DIRECT, x, free, None, y, *window, attributes),
        )
        if kind == _FORWARD:
            chosen, operands, indices = forward, (x, plain, y), (_SRC, _WEIGHTS, _DST)
        elif kind == _INPUT_GRADIENT:
            create = library.dnnl_convolution_backward_data_primitive_desc_create
            chosen = _made(create, engine, _DIRECT, x, free, y, *window, forward, attributes)
            operands, indices = (y, plain, x), (_DIFF_DST, _WEIGHTS, _DIFF_SRC)
        else:
            create = library.dnnl_convolution_backward_weights_primitive_desc_create
            chosen = _made(create, engine, _DIRECT, x, free, None, y, *window, forward, attributes)
            operands, indices = (x, y, plain), (_SRC, _DIFF_DST, _DIFF_WEIGHTS)
        self._prepare(chosen, operands, indices, plain, kind == _KERNEL_GRADIENT)

    def _prepare(
        self, chosen: c_void_p, operands: tuple[c_void_p, ...], indices: tuple[int, ...], plain: c_void_p, last: bool
    ) -> None:
        """Creates the primitive, the copy of the kernel before it or (`last`) after it, and the memory objects."""
        library, engine = _library(), _engine()
        query = library.dnnl_primitive_desc_query_md
        own = c_void_p(query(chosen, _QUERY_DIFF_WEIGHTS if last else _QUERY_WEIGHTS, 0))
        scratchpad = c_void_p(query(chosen, _QUERY_SCRATCHPAD, 0))
        self._offset = -(-library.dnnl_memory_desc_get_size(scratchpad) // _ALIGNMENT) * _ALIGNMENT
        self.memory = self._offset + library.dnnl_memory_desc_get_size(own) + _ALIGNMENT
        self._outer = [_memory(operand) for operand in operands]
        self._scratchpad, self._kernel = _memory(scratchpad), _memory(own)
        place = 2 if last else 1
        inner = [self._kernel if i == place else memory for i, memory in enumerate(self._outer)]
        pairs = [*zip(indices, inner, strict=True), (_SCRATCHPAD, self._scratchpad)]
        run = (_made(library.dnnl_primitive_create, chosen), 4, _arguments(*pairs))
        ends = [(plain, self._outer[place]), (own, self._kernel)]
        (source, given), (target, taken) = reversed(ends) if last else ends
        create = library.dnnl_reorder_primitive_desc_create
        reorder = _made(create, source, engine, target, engine, None)
        copy = (_made(library.dnnl_primitive_create, reorder), 2, _arguments((_SRC, given), (_DST, taken)))
        self._steps = (run, copy) if last else (copy, run)

    def run(self, addresses: list[int]) -> None:
        """Computes from and to the addresses of two arguments, the result and the working memory."""
        library = _library()
        *outer, memory = addresses
        memory += -memory % _ALIGNMENT
        places = [*outer, memory, memory + self._offset]
        for handle, place in zip([*self._outer, self._scratchpad, self._kernel], places, strict=True):
            _check(library.dnnl_memory_set_data_handle(handle, place))
        for primitive, count, arguments in self._steps:
            _check(library.dnnl_primitive_execute(primitive, _stream(), count, arguments))


def _images(n: int, height: int, width: int, channels: int) -> c_void_p:
    """Describes (N, H, W, C); oneDNN names the axes in the order (N, C, H, W)."""
    return _described((n, channels, height, width), (height * width * channels, 1, width * channels, channels))


def _described(shape: tuple[int, ...], strides: tuple[int, ...]) -> c_void_p:
    create = _library().dnnl_memory_desc_create_with_strides
    return _made(create, len(shape), _dims(shape), _FLOAT32, _dims(strides))


def _memory(description: c_void_p) -> c_void_p:
    return _made(_library().dnnl_memory_create, description, _engine(), None)


def _made(create: Callable[..., int], *arguments: Any) -> c_void_p:
    """Returns the object that a function of oneDNN makes."""
    made = c_void_p()
    _check(create(byref(made), *arguments))
    return made


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN returned status {status}")


def _arguments(*pairs: tuple[int, c_void_p]) -> Any:
    return (_Argument * len(pairs))(*(_Argument(*pair) for pair in pairs))


def _dims(values: tuple[int, ...]) -> Any:
    return (c_int64 * 12)(*values)


_idle: dict[bytes, list[_Plan]] = {}  # as many plans per problem as threads have run it at once
_thread = threading.local()


def _borrow(problem: bytes) -> _Plan:
    try:
        return _idle.setdefault(problem, []).pop()
    except IndexError:
        return _Plan(problem)


def _give_back(problem: bytes, plan: _Plan) -> None:
    _idle[problem].append(plan)


def _run(problem: bytes, arguments: list[int], results: list[int]) -> None:
    """Runs a custom call."""
    plan = _borrow(problem)
    plan.run([*arguments, *results])
    _give_back(problem, plan)


def _stream() -> c_void_p:
    if not hasattr(_thread, "stream"):
        _thread.stream = _made(_library().dnnl_stream_create, _engine(), _IN_ORDER)
    stream: c_void_p = _thread.stream
    return stream


@functools.cache
def _engine() -> c_void_p:
    return _made(_library().dnnl_engine_create, _CPU, c_size_t(0))


@functools.cache
def _library() -> Any:
    """Returns the library, registered with XLA, None where it is not installed or does not work."""
    # Between two convolutions, waiting threads would spin on the cores that XLA needs. OpenMP reads this when loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        files = importlib.metadata.files("onednn-cpu-gomp") or []
        library = ctypes.CDLL(next(str(file.locate()) for file in files if file.name == "libdnnl.so.3"))
        library.dnnl_primitive_desc_query_md.restype = c_void_p
        library.dnnl_memory_desc_get_size.restype = c_size_t
        library.dnnl_memory_set_data_handle.argtypes = [c_void_p, c_void_p]
        library.dnnl_primitive_execute.argtypes = [c_void_p, c_void_p, c_int, POINTER(_Argument)]
        ffi.register(_TARGET, _run)
    except (ImportError, StopIteration, OSError, AttributeError, RuntimeError):
        return None
    return library
