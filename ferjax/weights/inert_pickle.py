"""Unpickles torch checkpoints and numpy arrays without torch and without calling anything that the pickle names.

It builds tensors, arrays and plain containers. Everything else, such as an optimizer or an `argparse.Namespace`,
becomes a `Placeholder`, which does nothing.
"""

import collections
import io
import math
import pickle
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ferjax.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")  # in storages without a type


def load(path: Path) -> Any:
    """Reads a numpy pickle or a torch file (zip or legacy).

    Returns:
      Its content: containers, numbers and text as they are, `Tensor`, `Array` and, for all else, `Placeholder`.

    Raises:
      InputError: if the file is truncated, damaged, or another kind of archive.
    """
    try:
        return _read_zip(path) if zipfile.is_zipfile(path) else _read_plain(path)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged or not a weights file: {error}") from error


class _Storage:
    """The buffer of one or more tensors; legacy files store it after the tensors."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count = dtype, count
        self.values: np.ndarray | None = None

    def fill(self, data: bytes, key: str, path: Path) -> None:
        expected = self.count * self.dtype.itemsize
        if len(data) != expected:
            raise InputError(f"{path} is truncated: storage {key} has {len(data)} of {expected} bytes")
        self.values = np.frombuffer(data, self.dtype)


class Tensor(NamedTuple):
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype | None = None  # of one byte; None for that of the storage

    def array(self, name: str, path: Path) -> np.ndarray:
        """Returns a copy as an array."""
        values = self.storage.values
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        count = math.prod(self.shape)
        positive = min((self.offset, *self.shape, *self.strides)) >= 0
        if not isinstance(values, np.ndarray) or not positive or count > len(values) or (count and last >= len(values)):
            raise InputError(f"{path} is damaged: tensor {name!r} exceeds its storage")
        strides = tuple(s * values.itemsize for s in self.strides)
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False).copy()
        return view if self.dtype is None else view.view(self.dtype)


class Placeholder:
    """Replaces an object of any other class in a pickle: it accepts all that unpickling does, and does nothing."""

    origin = "an unsupported tensor"
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        """Returns a placeholder, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any): ...

    def __call__(self, *_: Any, **__: Any) -> "Placeholder":
        """Returns itself, whatever the arguments."""
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def _ignore(self, *_: Any) -> None: ...

    add = append = extend = __setitem__ = _ignore

    def is_network(self) -> bool:
        """Returns whether it replaces a torch module, in Python or as TorchScript."""
        return self.origin.startswith("__torch__") or (isinstance(self.state, dict) and "_modules" in self.state)


class Array(Placeholder):
    """Replaces numpy.ndarray in a pickle; its value is None for arrays of anything but numbers."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.origin = f"an array of type {dtype.code}"
        if dtype.value is None:
            return
        raw = data.encode("latin1") if isinstance(data, str) else data
        values = np.frombuffer(raw, dtype.value)
        self.value = values.reshape(shape, order="F") if fortran else values.reshape(shape)


class _DType:
    """Replaces numpy.dtype in a pickle; its value is None for other types than numbers."""

    def __init__(self, code: str, *_: Any):
        self.code = code
        self.value = np.dtype(code) if re.fullmatch(r"[fiub]\d+", code) else None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.value is not None and state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _StorageType(NamedTuple):
    """Replaces the class of a torch storage, or a type of its elements, in a pickle."""

    dtype: np.dtype


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor | Placeholder:
    if isinstance(storage, Placeholder):
        return storage
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a malformed tensor")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_untyped(
    storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, kind: Any, *___: Any
) -> Tensor | Placeholder:
    """Returns a tensor whose storage has no type."""
    if not isinstance(kind, _StorageType):
        return kind if isinstance(kind, Placeholder) else Placeholder()
    tensor = _rebuild_tensor(storage, offset, shape, strides)
    return tensor._replace(dtype=kind.dtype) if isinstance(tensor, Tensor) else tensor


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _rebuild_subclass(rebuild: Any, _: Any, arguments: Any, *__: Any) -> Tensor | Placeholder:
    """Returns the tensor of a subclass of torch.Tensor, or of a tensor with attributes."""
    return rebuild(*arguments) if rebuild in (_rebuild_tensor, _rebuild_untyped) else Placeholder()


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    **{("torch._utils", f"_rebuild_tensor{version}"): _rebuild_tensor for version in ("", "_v2")},
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_untyped,
    **{("torch._utils", f"_rebuild_parameter{more}"): _rebuild_parameter for more in ("", "_with_state")},
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_subclass,
    ("torch", "Size"): tuple,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda *_: b"",  # protocol 2 writes empty bytes as a call
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: Array() for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    """An unpickler that calls nothing but the functions in _ALLOWED and placeholders."""

    def __init__(self, file: Any, storage: Callable[[str, np.dtype, int], _Storage]):
        super().__init__(file, encoding="latin1")
        self.file, self.storage = file, storage

    def load(self) -> Any:
        """Reads one pickle, after a check of its memo, which grows to its largest index: 32 GB if that is damaged."""
        start = self.file.tell()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > count:
                raise pickle.UnpicklingError(f"the index {argument} at instruction {count}")
        self.file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _StorageType(np.dtype(_STORAGES[name]))
        if module == "torch" and name in _FLOAT8:
            return _StorageType(np.dtype(getattr(ml_dtypes, name)))
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return _StorageType(np.dtype("u1"))
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return type("Placeholder", (Placeholder,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # the legacy format stores the class of a module with its source
            return pid[1]
        kind, storage_type, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(key, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("an unknown record")
        if not isinstance(storage_type, _StorageType):
            return Placeholder()
        return self.storage(key, storage_type.dtype, count)


# Exceptions of the standard library for damaged pickles and zip files; NotImplementedError is an unknown compression.
_DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, MemoryError, OSError, RuntimeError),
    *(AttributeError, IndexError, KeyError, NotImplementedError, OverflowError, TypeError, ValueError),
)


def _read_zip(path: Path) -> Any:
    """Reads the format of torch 1.6 and later: a zip file of a pickle and one record per storage."""
    with zipfile.ZipFile(path) as archive:
        indices = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(indices) != 1:
            if archive.namelist() and all(name.endswith(".npy") for name in archive.namelist()):
                raise InputError(
                    f"{path} is an archive of NumPy arrays (.npz): save them as .safetensors with "
                    "safetensors.numpy.save_file(dict(numpy.load(FILE)), OUT)"
                )
            raise InputError(f"{path} is a zip archive that torch.save did not write: give the weights file in it")
        (index,) = indices
        root = index.removesuffix("data.pkl")
        order = archive.read(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
        known: dict[str, _Storage] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
            if key not in known:
                known[key] = _Storage(dtype.newbyteorder("<" if order == b"little" else ">"), count)
                known[key].fill(archive.read(f"{root}data/{key}"), key, path)
            return known[key]

        return _Reader(io.BytesIO(archive.read(index)), storage).load()


def _read_plain(path: Path) -> Any:
    """Reads a numpy pickle, or the torch format before 1.6: five pickles, then the bytes of the storages."""
    known: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
        return known.setdefault(key, _Storage(dtype.newbyteorder("<"), count))

    with path.open("rb") as file:
        if file.peek(2)[:2] == b"PK":
            raise InputError(f"{path} is truncated: the end of the zip file is missing")
        first = _Reader(file, storage).load()
        if first != _LEGACY_MAGIC:
            return first
        _, _, content = (_Reader(file, storage).load() for _ in range(3))
        for key in _Reader(file, storage).load():
            count = int.from_bytes(file.read(8), "little")
            known[key].fill(file.read(count * known[key].dtype.itemsize), key, path)
        return content
