"""Reads weight files of other frameworks without torch and without executing code.

A `.pth` file is a pickle, which can run any function; `inert_pickle` calls none of them.
"""

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ferjax.errors import InputError
from ferjax.weights import inert_pickle

# What often has the name of a weights file: (pattern of the first bytes, what it is, what to do).
_FOREIGN = (
    (rb"\Z", "is empty", "download it again"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the weights", "run git lfs pull, or download the file"),
    (rb"(\xef\xbb\xbf)?\s*<", "is a web page, not the weights", "read it in a browser, then download again"),
    (rb'\{\s*"[ -~]{6}', "is a JSON file, such as the index of several parts", "give one file with all tensors"),
    (rb"\x1f\x8b", "is compressed", "unpack it with gunzip"),
    (rb"\x08[\x01-\x20][\x12\x22:]", "is an ONNX file", "give the weights that it was exported from"),
    (rb".{4}TFL3", "is a TFLite file", "give the weights that it was exported from"),
    (rb"\x93NUMPY", "is one NumPy array, not named tensors", "give the .pth or .safetensors file of the network"),
    (rb"\x89HDF", "is an HDF5 file, as Keras writes them", "give the .pth or .safetensors file of the same network"),
)
_SAFETENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads tensors by name from a safetensors, a torch (`.pth`, zip or legacy) or a numpy pickle file.

    The content decides what a file is, not its ending.

    Returns:
      Arrays by name, in the order of the file; floating-point ones are float32. Nested dictionaries, lists and tuples
      are flattened, with the keys joined by dots: `{"state_dict": {"fc.bias": …}}` has "state_dict.fc.bias". Keys that
      are not strings, as in the state of an optimizer, and tensors of other types than numbers of 8 to 64 bits are
      left out.

    Raises:
      InputError: if the file is missing, damaged, of another kind, or has no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if re.search(r"-\d+-of-(?!0*1\b)\d", path.name):
        raise InputError(f"{path} is one of several parts: give one file with all tensors")
    with path.open("rb") as file:
        start = file.read(256)
    for pattern, kind, remedy in _FOREIGN:
        if re.match(pattern, start, re.DOTALL):
            raise InputError(f"{path} {kind}: {remedy}")
    # A safetensors file starts with the length of its JSON header, at most 100 MB.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:
        tensors = _read_safetensors(path)
    else:
        tensors = _named_arrays(inert_pickle.load(path), path)
    return {name: _float32(value) for name, value in tensors.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    data = path.read_bytes()
    try:
        stored = dict(deserialize(data))
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # has the order of the file
    known = {name: stored[name] for name in header if name in stored and stored[name]["dtype"] in _SAFETENSORS}
    return {
        name: np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in known.items()
    }


def _named_arrays(content: Any, path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays in nested containers; raises InputError with the other contents if there are none."""
    arrays: dict[str, np.ndarray] = {}
    others: list[inert_pickle.Placeholder] = []
    seen: set[int] = set()
    pending = [("", content)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, inert_pickle.Tensor):
            arrays[name] = value.array(name, path)
        elif isinstance(value, inert_pickle.Array) and value.value is not None:
            arrays[name] = value.value
        elif isinstance(value, inert_pickle.Placeholder):
            others.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = dict.items(value) if isinstance(value, dict) else ((str(i), part) for i, part in enumerate(value))
            inner = [(f"{name}.{key}" if name else key, part) for key, part in items if isinstance(key, str)]
            pending.extend(reversed(inner))
    if arrays:
        return arrays
    for other in others:
        if other.is_network():
            raise InputError(
                f"{path} contains a whole network ({other.origin}), which only its own program can load: "
                "save its tensors there with torch.save(model.state_dict(), FILE)"
            )
    found = f", only {', '.join(dict.fromkeys(other.origin for other in others))}" if others else ""
    raise InputError(f"{path} contains no named tensors{found}")


def _float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind in "fV" else value
