"""Implements windowed convolutions and their gradients by oneDNN, if its library is installed.

The library comes from PyPI (`onednn-cpu-gomp`) and is called through `ctypes` from XLA's custom calls, so nothing is
compiled. Arrays keep XLA's order of axes; oneDNN chooses the order of the kernel, which is copied (microseconds).
FERJAX_ONEDNN=0 turns it off.

On two cores, ResNet-20's train step (48x48, batch 64) needs 489 ms of CPU time instead of 731. Pointwise and depthwise
convolutions of EfficientNet-Lite0 became slower and are not served.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Sequence
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
_CPU, _IN_ORDER, _FLOAT32, _ANY, _TRAINING, _DIRECT = 1, 1, 3, 1, 64, 1
_SRC, _WEIGHTS, _DST, _DIFF_SRC, _DIFF_DST, _DIFF_WEIGHTS = 1, 33, 17, 129, 145, 161
_QUERY_WEIGHTS, _QUERY_DIFF_WEIGHTS = 131, 132
_ALLOCATED = c_void_p(-1)
_CPU_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time in a period, the period


def serves(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether oneDNN computes this convolution: in float32, if it is available and not turned off."""
    return x.dtype == kernel.dtype == jnp.float32 and os.environ.get("FERJAX_ONEDNN") != "0" and available()


@functools.cache
def available() -> bool:
    """Returns whether the library works here, and loads it. XLA cannot split a custom call over several devices."""
    if jax.device_count() > 1:
        return False
    try:
        _library()
        ffi.register(_TARGET, lambda problem, arguments, results: _plan(problem).run([*arguments, *results]))
    except (ImportError, StopIteration, OSError, AttributeError, RuntimeError):
        return False
    return True


def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding, size: tuple[int, ...]) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O), of so many rows and columns."""
    shape = (len(x), *size, kernel.shape[-1])
    return _call((x, kernel), shape, (_FORWARD, stride, *sum(pad, ()), *x.shape, *kernel.shape, *shape))


def gradients(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of x and of the kernel."""
    problem = (stride, *sum(pad, ()), *x.shape, *kernel.shape, *dy.shape)
    dx = _call((dy, kernel), x.shape, (_INPUT_GRADIENT, *problem))
    return dx, _call((x, dy), kernel.shape, (_KERNEL_GRADIENT, *problem))


def _call(arrays: tuple[jax.Array, ...], shape: tuple[int, ...], problem: tuple[int, ...]) -> jax.Array:
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.ffi.ffi_call(_TARGET, result, vmap_method="sequential")(*arrays, problem=np.array(problem, np.int64))


class _Argument(Structure):
    _fields_ = [("index", c_int), ("memory", c_void_p)]


class _Plan:
    """One convolution, or one of its gradients, of one shape, with the copy of the kernel from or to oneDNN's order."""

    def __init__(self, problem: bytes):
        kind, stride, top, bottom, left, right, *sizes = np.frombuffer(problem, np.int64).tolist()
        (n, height, width, inputs), (kh, kw, _, outputs), (_, rows, columns, _) = sizes[:4], sizes[4:8], sizes[8:]
        library, engine = _library(), _engine()
        x = _images(n, height, width, inputs)
        y = _images(n, rows, columns, outputs)
        shape = (outputs, inputs, kh, kw)
        plain = _described(shape, (1, outputs, kw * inputs * outputs, inputs * outputs))
        free = _made(library.dnnl_memory_desc_create_with_tag, 4, _dims(shape), _FLOAT32, _ANY)
        window = (_dims((stride, stride)), _dims((0, 0)), _dims((top, left)), _dims((bottom, right)), None)
        create = library.dnnl_convolution_forward_primitive_desc_create
        forward = _made(create, engine, _TRAINING, _DIRECT, x, free, None, y, *window)
        if kind == _FORWARD:
            chosen, operands, indices = forward, (x, plain, y), (_SRC, _WEIGHTS, _DST)
        elif kind == _INPUT_GRADIENT:
            create = library.dnnl_convolution_backward_data_primitive_desc_create
            chosen = _made(create, engine, _DIRECT, x, free, y, *window[:-1], forward, None)
            operands, indices = (y, plain, x), (_DIFF_DST, _WEIGHTS, _DIFF_SRC)
        else:
            create = library.dnnl_convolution_backward_weights_primitive_desc_create
            chosen = _made(create, engine, _DIRECT, x, free, None, y, *window[:-1], forward, None)
            operands, indices = (x, y, plain), (_SRC, _DIFF_DST, _DIFF_WEIGHTS)

        last = kind == _KERNEL_GRADIENT
        place, query = (2, _QUERY_DIFF_WEIGHTS) if last else (1, _QUERY_WEIGHTS)
        own = c_void_p(library.dnnl_primitive_desc_query_md(chosen, query, 0))
        self._outer = [_memory(operand) for operand in operands]
        inner = [*self._outer]
        inner[place] = _memory(own, _ALLOCATED)
        source, target = (own, plain) if last else (plain, own)
        given, taken = (inner, self._outer) if last else (self._outer, inner)
        reorder = _made(library.dnnl_reorder_primitive_desc_create, source, engine, target, engine, None)
        copy = _step(reorder, (_SRC, _DST), (given[place], taken[place]))
        run = _step(chosen, indices, inner)
        self._steps = (run, copy) if last else (copy, run)

    def run(self, addresses: list[int]) -> None:
        """Runs the plan on the memory at the addresses of both arguments and of the result."""
        library = _library()
        for memory, address in zip(self._outer, addresses, strict=True):
            _check(library.dnnl_memory_set_data_handle(memory, address))
        for primitive, count, arguments in self._steps:
            _check(library.dnnl_primitive_execute(primitive, _stream(), count, arguments))


_plan = functools.cache(_Plan)


def _images(n: int, height: int, width: int, channels: int) -> c_void_p:
    """Describes (N, H, W, C); oneDNN names the axes in the order (N, C, H, W)."""
    return _described((n, channels, height, width), (height * width * channels, 1, width * channels, channels))


def _described(shape: tuple[int, ...], strides: tuple[int, ...]) -> c_void_p:
    create = _library().dnnl_memory_desc_create_with_strides
    return _made(create, len(shape), _dims(shape), _FLOAT32, _dims(strides))


def _memory(description: c_void_p, place: c_void_p | None = None) -> c_void_p:
    return _made(_library().dnnl_memory_create, description, _engine(), place)


def _step(description: c_void_p, indices: Sequence[int], memories: Sequence[c_void_p]) -> tuple[c_void_p, int, Any]:
    arguments = [_Argument(index, memory) for index, memory in zip(indices, memories, strict=True)]
    count = len(arguments)
    return _made(_library().dnnl_primitive_create, description), count, (_Argument * count)(*arguments)


def _made(create: Callable[..., int], *arguments: Any) -> c_void_p:
    """Returns the object that a function of oneDNN makes."""
    made = c_void_p()
    _check(create(byref(made), *arguments))
    return made


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"oneDNN returned status {status}")


def _dims(values: tuple[int, ...]) -> Any:
    return (c_int64 * 12)(*values)


@functools.cache
def _stream() -> c_void_p:
    return _made(_library().dnnl_stream_create, _engine(), _IN_ORDER)


@functools.cache
def _engine() -> c_void_p:
    return _made(_library().dnnl_engine_create, _CPU, c_size_t(0))


@functools.cache
def _library() -> Any:
    """Loads the library."""
    files = importlib.metadata.files("onednn-cpu-gomp") or []
    path = next(str(file.locate()) for file in files if file.name == "libdnnl.so.3")
    # Between two convolutions, waiting threads would spin on the cores that XLA needs. OpenMP reads this when loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with contextlib.suppress(OSError, ValueError):  # there is no file, or "max": no limit
        quota, period = map(int, _CPU_LIMIT.read_text(encoding="utf-8").split())
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(os.cpu_count() or 1, quota // period))))
    library = ctypes.CDLL(path)
    library.dnnl_primitive_desc_query_md.restype = c_void_p
    library.dnnl_memory_set_data_handle.argtypes = [c_void_p, c_void_p]
    library.dnnl_primitive_execute.argtypes = [c_void_p, c_void_p, c_int, POINTER(_Argument)]
    return library
