"""Reads and writes the spec's JSON text in TFLite and ONNX files.

TFLite: a zip archive appended to the model, as TFLite's own metadata; interpreters ignore it.
ONNX: the entry "ferjax" of the model's metadata, found among the top-level fields of the protobuf message.
Standard library only. Files are memory-mapped, so the weights are not loaded.
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
    """One field of a protobuf message: bytes [start, end), its value in [value, end)."""

    number: int
    start: int
    value: int
    end: int


def read(path: str | os.PathLike[str]) -> str | None:
    """Returns the text stored in a .tflite or .onnx file, or None.

    Raises:
      InputError: if the file does not exist, has another format, or is truncated.
    """
    return _format(path).read(pathlib.Path(path))


def write(path: str | os.PathLike[str], text: str) -> None:
    """Stores the text in a .tflite or .onnx file, replacing an existing text; the file is replaced atomically.

    Raises:
      InputError: if the file does not exist, has another format, or is truncated.
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
      InputError: if the file does not exist or is truncated.
    """
    with _mapped(pathlib.Path(path)) as data:
        graphs = [f for f in _onnx_fields(pathlib.Path(path), data)[0] if f.number == GRAPH]
        return sum(node.number == NODE for g in graphs for node in fields(data, g.value, g.end))


def _read_tflite(path: pathlib.Path) -> str | None:
    with _mapped(path) as data:
        _check_tflite(path, data)
    with _attached(path) as archive:
        return _decode(path, archive.read(TFLITE_MEMBER)) if archive and TFLITE_MEMBER in archive.namelist() else None


def _copy_tflite(path: pathlib.Path, file: BinaryIO, text: str) -> None:
    """Copies the model and the other members of its archive, then adds the text."""
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
        # ZipInfo's fixed date makes the files of equal models equal.
        for info, content in [*members, (zipfile.ZipInfo(TFLITE_MEMBER), text.encode())]:
            archive.writestr(info, content)


def _check_tflite(path: pathlib.Path, data: mmap.mmap) -> None:
    if data[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite model: bytes 4..8 are {data[4:8]!r}, not b'TFL3'")


@contextlib.contextmanager
def _attached(path: pathlib.Path) -> Iterator[zipfile.ZipFile | None]:
    """Opens the zip archive appended to a model; yields None if there is none."""
    try:
        if not zipfile.is_zipfile(path):
            yield None
            return
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} has a damaged metadata archive: {error}; copy or export it again") from error


def _read_onnx(path: pathlib.Path) -> str | None:
    with _mapped(path) as data:
        _, specs = _onnx_fields(path, data)
        if not specs:
            return None
        # The last one counts, as for every protobuf field.
        return _decode(path, _entry(data, specs[-1]).get(VALUE, b""))


def _copy_onnx(path: pathlib.Path, file: BinaryIO, text: str) -> None:
    """Copies all fields except an older spec, then appends the new one: concatenated messages are one message."""
    with _mapped(path) as data, memoryview(data) as view:
        for field in _onnx_fields(path, data)[0]:
            file.write(view[field.start : field.end])
    file.write(_bytes_field(METADATA, _bytes_field(KEY, ONNX_KEY) + _bytes_field(VALUE, text.encode())))


def _onnx_fields(path: pathlib.Path, data: mmap.mmap) -> tuple[list[Field], list[Field]]:
    """Returns the top-level fields of a model: those of the model, and those that hold a spec."""
    others: list[Field] = []
    specs: list[Field] = []
    try:
        for field in fields(data, 0, len(data)):
            is_spec = field.number == METADATA and _entry(data, field).get(KEY) == ONNX_KEY
            (specs if is_spec else others).append(field)
    except ValueError as error:
        raise InputError(f"{path} is not an ONNX model, or it is truncated: {error}") from error
    if GRAPH not in {field.number for field in others}:
        raise InputError(f"{path} is not an ONNX model, or it is truncated: it has no graph")
    return others, specs


def _entry(data: mmap.mmap, field: Field) -> dict[int, bytes]:
    """Returns the values of a nested message by field number."""
    return {f.number: data[f.value : f.end] for f in fields(data, field.value, field.end)}


def fields(data: Buffer, start: int, stop: int) -> Iterator[Field]:
    """Yields the fields of one level of a protobuf message."""
    position = start
    while position < stop:
        tag, value = varint(data, position)
        wire = tag & 7
        if wire == BYTES:
            length, value = varint(data, value)
            end = value + length
        elif wire == VARINT:
            end = varint(data, value)[1]
        elif wire in (FIXED64, FIXED32):
            end = value + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"byte {position} does not start a field")
        if end > stop:
            raise ValueError(f"the field at byte {position} lacks {end - stop} bytes")
        yield Field(tag >> 3, position, value, end)
        position = end


def varint(data: Buffer, position: int) -> tuple[int, int]:
    """Returns a base-128 number, least significant group first, and the position after it."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError("it ends within a varint")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError(f"the varint before byte {position} is longer than 10 bytes")


def _bytes_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + _encode_varint(len(content)) + content


def _encode_varint(number: int) -> bytes:
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
        raise InputError(f"{os.fspath(path)!r} is not a model file; accepted: {', '.join(FORMATS)}")
    return chosen


def _mapped(path: pathlib.Path) -> mmap.mmap:
    if not path.is_file():
        raise InputError(f"model file {str(path)!r} does not exist")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: copy or export it again")
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _decode(path: pathlib.Path, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the spec is not UTF-8 text; copy or export the file again") from error
