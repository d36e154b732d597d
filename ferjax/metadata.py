"""Where the contract lies in a model file: text under the name "ferjax" in TFLite and ONNX.

TFLite: a zip archive behind the model, as TFLite's own metadata uses; interpreters read the model from the front.
ONNX: an entry of the model's metadata, found by walking the top-level fields of the protobuf message.
Standard library only. Files are mapped, not read: the weights of a large network are never loaded to find a few lines.
"""

import contextlib
import mmap
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from ferjax.errors import InputError

TFLITE_MEMBER, ONNX_KEY = "ferjax.json", b"ferjax"
# onnx.proto: ModelProto.graph, GraphProto.node, ModelProto.metadata_props; StringStringEntryProto.key and .value.
GRAPH, NODE, METADATA, KEY, VALUE = 7, 1, 14, 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Buffer = bytes | mmap.mmap


class Field(NamedTuple):
    """One field of a protobuf message: it lies in [start, end), its value in [value, end)."""

    number: int
    start: int
    value: int
    end: int


def read(path: str | os.PathLike[str]) -> str | None:
    """Returns the text in a .tflite or .onnx file, None if it has none.

    Raises:
      InputError: if there is no such file, it is of another kind, or it is cut short.
    """
    return _format(path).read(pathlib.Path(path))


def write(path: str | os.PathLike[str], text: str) -> None:
    """Stores the text in a .tflite or .onnx file in place of the one it has, in one step.

    Raises:
      InputError: if there is no such file, it is of another kind, or it is cut short.
    """
    chosen, target = _format(path), pathlib.Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with open(part, "w+b") as file:
            chosen.copy(target, file, text)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def onnx_nodes(path: str | os.PathLike[str]) -> int:
    """Returns the number of nodes in the main graph of an .onnx file.

    Raises:
      InputError: if there is no such file, or it is cut short.
    """
    with _mapped(pathlib.Path(path)) as data:
        graphs = [f for f in _onnx_fields(pathlib.Path(path), data)[0] if f.number == GRAPH]
        return sum(node.number == NODE for g in graphs for node in _fields(data, g.value, g.end))


def _read_tflite(path: pathlib.Path) -> str | None:
    with _mapped(path) as data:
        _check_tflite(path, data)
    with _attached(path) as archive:
        return _decode(path, archive.read(TFLITE_MEMBER)) if archive and TFLITE_MEMBER in archive.namelist() else None


def _copy_tflite(path: pathlib.Path, file: BinaryIO, text: str) -> None:
    """Copies the model and what others attached to it, then attaches the text."""
    members: list[tuple[zipfile.ZipInfo, bytes]] = []
    with _mapped(path) as data, memoryview(data) as view:
        _check_tflite(path, data)
        end = len(view)
        with _attached(path) as archive:
            if archive:
                members = [(m, archive.read(m)) for m in archive.infolist() if m.filename != TFLITE_MEMBER]
                end = min((m.header_offset for m in archive.infolist()), default=archive.start_dir)
        file.write(view[:end])
    with zipfile.ZipFile(file, "a") as archive:
        # ZipInfo's fixed date: equal models are equal files.
        for info, content in [*members, (zipfile.ZipInfo(TFLITE_MEMBER), text.encode())]:
            archive.writestr(info, content)


def _check_tflite(path: pathlib.Path, data: mmap.mmap) -> None:
    if data[4:8] != b"TFL3":
        raise InputError(f"{path} is no TFLite model: its first bytes say something else")


@contextlib.contextmanager
def _attached(path: pathlib.Path) -> Iterator[zipfile.ZipFile | None]:
    """Opens the zip archive behind a model, if there is one."""
    try:
        if not zipfile.is_zipfile(path):
            yield None
            return
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is damaged at its end: {error}; copy or export it again") from error


def _read_onnx(path: pathlib.Path) -> str | None:
    with _mapped(path) as data:
        _, contracts = _onnx_fields(path, data)
        if not contracts:
            return None
        # The last one holds, as for every field of merged messages.
        newest = contracts[-1]
        return _decode(path, _entry(data, newest).get(VALUE, b""))


def _copy_onnx(path: pathlib.Path, file: BinaryIO, text: str) -> None:
    """Copies every field but an older contract, then appends the new one: concatenated messages are one message."""
    with _mapped(path) as data, memoryview(data) as view:
        for field in _onnx_fields(path, data)[0]:
            file.write(view[field.start : field.end])
    file.write(_bytes_field(METADATA, _bytes_field(KEY, ONNX_KEY) + _bytes_field(VALUE, text.encode())))


def _onnx_fields(path: pathlib.Path, data: mmap.mmap) -> tuple[list[Field], list[Field]]:
    """Returns the top-level fields of a model: the others, and those that are contracts."""
    others: list[Field] = []
    contracts: list[Field] = []
    try:
        for field in _fields(data, 0, len(data)):
            mine = field.number == METADATA and _entry(data, field).get(KEY) == ONNX_KEY
            (contracts if mine else others).append(field)
    except ValueError as error:
        raise InputError(f"{path} is no ONNX model, or it is cut short: {error}") from error
    if GRAPH not in {field.number for field in others}:
        raise InputError(f"{path} is no ONNX model, or it is cut short: it holds no graph")
    return others, contracts


def _entry(data: mmap.mmap, field: Field) -> dict[int, bytes]:
    """Returns the values of a message within a field by their number."""
    return {f.number: data[f.value : f.end] for f in _fields(data, field.value, field.end)}


def _fields(data: Buffer, start: int, stop: int) -> Iterator[Field]:
    """Walks one level of a protobuf message."""
    position = start
    while position < stop:
        tag, value = _varint(data, position)
        wire = tag & 7
        if wire == BYTES:
            length, value = _varint(data, value)
            end = value + length
        elif wire == VARINT:
            end = _varint(data, value)[1]
        elif wire in (FIXED64, FIXED32):
            end = value + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"byte {position} opens no field")
        if end > stop:
            raise ValueError(f"the field at byte {position} needs {end - stop} bytes more")
        yield Field(tag >> 3, position, value, end)
        position = end


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    """Returns a base-128 number, lowest group first, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends within a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError(f"the number at byte {position} has no end")


def _bytes_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


class _Format(NamedTuple):
    read: Callable[[pathlib.Path], str | None]
    copy: Callable[[pathlib.Path, BinaryIO, str], None]


FORMATS = {".tflite": _Format(_read_tflite, _copy_tflite), ".onnx": _Format(_read_onnx, _copy_onnx)}


def _format(path: str | os.PathLike[str]) -> _Format:
    chosen = FORMATS.get(pathlib.Path(path).suffix.lower())
    if chosen is None:
        raise InputError(f"{os.fspath(path)!r} is no model file: accepted are {' and '.join(FORMATS)} files")
    return chosen


def _mapped(path: pathlib.Path) -> mmap.mmap:
    if not path.is_file():
        raise InputError(f"there is no model file {str(path)!r}")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: copy or export it again")
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _decode(path: pathlib.Path, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: its contract is not UTF-8 text; copy or export the file again") from error
