"""Registers Python functions as custom calls of XLA on CPUs, without a compiler.

XLA calls a C function with a pointer to a call frame, described in xla/ffi/api/c_api.h of jaxlib. Here `ctypes` makes
the function and reads the frame. The structures are those of version 0.3; XLA refuses to register another version.
"""

import atexit
import ctypes
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any

import jax
import jax.numpy as jnp

_MAJOR, _MINOR = 0, 3
_METADATA = 1  # the extension by which XLA asks for the version
_INTERNAL = 13  # error code
_HEAD: Any = [("struct_size", c_size_t), ("extension", c_void_p)]

Handler = Callable[[bytes, list[int], list[int]], None]


class _Extension(Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("next", c_void_p)]


class _Version(Structure):
    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class _Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32), ("state_type", c_int64)]


class _MetadataExtension(Structure):
    _fields_ = [("base", _Extension), ("metadata", POINTER(_Metadata))]


class _ErrorArguments(Structure):
    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


class _Api(Structure):
    _fields_ = [
        *_HEAD,
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))),
    ]


class _Buffer(Structure):
    _fields_ = [*_HEAD, ("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", c_void_p)]


class _Array(Structure):
    _fields_ = [("dtype", c_int), ("size", c_size_t), ("data", c_void_p)]


class _Buffers(Structure):
    _fields_ = [*_HEAD, ("size", c_int64), ("types", c_void_p), ("values", POINTER(POINTER(_Buffer)))]


class _Attributes(Structure):
    _fields_ = [
        *_HEAD,
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("values", POINTER(POINTER(_Array))),
    ]


class _Frame(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


_registered: dict[str, Any] = {}  # XLA holds pointers to the functions


def register(name: str, handler: Handler) -> None:
    """Registers a custom call whose only attribute is an array of int64.

    Args:
      name: of the target of `jax.ffi.ffi_call`; the first handler of a name stays.
      handler: gets the bytes of the attribute and the addresses of the arguments and results. One thread of its own
        runs all calls, because OpenMP keeps a team of threads for each that calls it. What it raises fails the
        computation.

    Raises:
      RuntimeError: XLA has another version of the call frame.
    """
    if name in _registered:
        return
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))
    def call(pointer: Any) -> int | None:
        frame = pointer.contents
        if frame.extension and frame.extension.contents.type == _METADATA:
            asked = ctypes.cast(frame.extension, POINTER(_MetadataExtension)).contents.metadata.contents
            asked.version.major, asked.version.minor = _MAJOR, _MINOR
            return None
        try:
            attribute = frame.attributes.values[0].contents
            problem = ctypes.string_at(attribute.data, 8 * attribute.size)
            done: Future[None] = Future()
            jobs.put((done, problem, _addresses(frame.arguments), _addresses(frame.results)))
            try:
                done.result()
            finally:
                done.exception()  # after Ctrl-C in this thread, the handler still uses the memory
        except BaseException as error:  # an exception would not leave this function
            message = f"{name}: {error!r}".encode()
            return frame.api.contents.create_error(
                _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL)
            )
        return None

    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(call), platform="cpu")
    _registered[name] = call
    threading.Thread(target=_work, args=(handler, jobs), name=name, daemon=True).start()
    atexit.register(_finish)


def _work(handler: Handler, jobs: queue.SimpleQueue[Any]) -> None:
    while True:
        done, *given = jobs.get()
        try:
            handler(*given)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)


def _finish() -> None:
    """Waits for the computations in flight: without Python, their calls would never return, nor the process end.

    XLA starts a program of a thread after those that the thread has started before. A program whose results another
    thread has dropped is not waited for, as with `jax.pure_callback`.
    """
    jax.block_until_ready(jax.jit(jnp.negative)(jnp.ones(())))


def _addresses(buffers: _Buffers) -> list[int]:
    return [buffers.values[i].contents.data for i in range(buffers.size)]
