"""Reads weight files of other frameworks without torch and without executing code.

A `.pth` file is a pickle, which can run any function. This reader builds tensors, arrays and plain containers, and
rejects all other names.
"""

import collections
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ferjax.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
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


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads tensors by name from a `.safetensors`, a torch (`.pth`, zip or legacy) or a numpy pickle file.

    A nested dictionary (`{"state_dict": …}`) is unwrapped, and the prefix `module.` of data-parallel training is
    removed.

    Returns:
      Arrays by name, in the order of the file; floating-point ones are float32.

    Raises:
      InputError: if the file is missing, damaged, of another kind, or contains other objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    else:
        try:
            content = _read_zip(path) if zipfile.is_zipfile(path) else _read_plain(path)
        except InputError:
            raise
        except _DAMAGE as error:
            raise InputError(f"{path} is damaged or not a weights file: {error}") from error
        tensors = _unwrap(content, path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return {name: _float32(value) for name, value in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        return {name: np.asarray(value) for name, value in load_file(path).items()}
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error


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


class _Tensor(NamedTuple):
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, name: str, path: Path) -> np.ndarray:
        """Returns a copy as an array."""
        values = self.storage.values
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        count = math.prod(self.shape)
        positive = min((self.offset, *self.shape, *self.strides)) >= 0
        if values is None or not positive or count > len(values) or (count and last >= len(values)):
            raise InputError(f"{path} is damaged: tensor {name!r} exceeds its storage")
        strides = tuple(s * values.itemsize for s in self.strides)
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides, writeable=False).copy()


class _Array:
    """Replaces numpy.ndarray in a pickle; accepts numeric arrays only."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("an array without a number type")
        raw = data.encode("latin1") if isinstance(data, str) else data
        values = np.frombuffer(raw, dtype.value)
        self.value = values.reshape(shape, order="F") if fortran else values.reshape(shape)


class _DType:
    """Replaces numpy.dtype in a pickle."""

    def __init__(self, code: str, *_: Any):
        self.value = np.dtype(code)
        if self.value.kind not in "fiub":
            raise pickle.UnpicklingError(f"an array of type {code}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a malformed tensor")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): tuple,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    """An unpickler that accepts the names in _ALLOWED and _STORAGES only."""

    def __init__(self, file: Any, path: Path, storage: Callable[[str, np.dtype, int], _Storage]):
        super().__init__(file, encoding="latin1")
        self.path, self.storage = path, storage

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        if (module, name) not in _ALLOWED:
            raise InputError(f"{self.path} contains {module}.{name}; accepted are tensors, arrays and plain containers")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(count, int):
            raise pickle.UnpicklingError(f"an unknown record {kind!r}")
        return self.storage(str(key), dtype, count)


# Exceptions of the standard library for damaged pickles and zip files.
_DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, EOFError, MemoryError),
    *(AttributeError, IndexError, KeyError, NotImplementedError, OverflowError, TypeError, ValueError),
)


def _read_zip(path: Path) -> Any:
    """Reads the format of torch 1.6 and later: a zip file of a pickle and one record per storage."""
    with zipfile.ZipFile(path) as archive:
        (index,) = (name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl")
        root = index.removesuffix("data.pkl")
        order = archive.read(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
        known: dict[str, _Storage] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
            if key not in known:
                known[key] = _Storage(dtype.newbyteorder("<" if order == b"little" else ">"), count)
                known[key].fill(archive.read(f"{root}data/{key}"), key, path)
            return known[key]

        return _Reader(io.BytesIO(archive.read(index)), path, storage).load()


def _read_plain(path: Path) -> Any:
    """Reads a numpy pickle, or the torch format before 1.6: five pickles, then the bytes of the storages."""
    known: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
        return known.setdefault(key, _Storage(dtype.newbyteorder("<"), count))

    with path.open("rb") as file:
        if file.peek(2)[:2] == b"PK":
            raise InputError(f"{path} is truncated: the end of the zip file is missing")
        first = _Reader(file, path, storage).load()
        if first != _LEGACY_MAGIC:
            return first
        _, _, content = (_Reader(file, path, storage).load() for _ in range(3))
        for key in _Reader(file, path, storage).load():
            count = int.from_bytes(file.read(8), "little")
            known[key].fill(file.read(count * known[key].dtype.itemsize), key, path)
        return content


def _unwrap(content: Any, path: Path) -> dict[str, np.ndarray]:
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    arrays = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, _Tensor):
            arrays[str(name)] = value.array(str(name), path)
        elif isinstance(value, _Array):
            arrays[str(name)] = value.value
    if not arrays:
        raise InputError(f"{path} contains no named tensors")
    return arrays


def _float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind in "fV" else value
