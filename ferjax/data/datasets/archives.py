"""Reads zip and tar archives, compressed or not; the content of a file decides what it is, never its ending."""

import bz2
import contextlib
import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import IO, Any

from ferjax.cli import note
from ferjax.data.datasets import names
from ferjax.errors import InputError

SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst")
# What the standard library raises for damaged archives; RuntimeError: a password or another program is required.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(EOFError, RuntimeError, ValueError, OverflowError, struct.error),
)
_FOREIGN = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_PART = re.compile(r"\.z?\d{2,3}$")  # .zip.001, .z01, .tar.gz.001
_SPLIT = "is a part of a split archive: unpack all parts and use the folder"
_IN_MEMORY = 2**24  # bytes of an unpacked copy; a larger one is a temporary file


class Archive:
    """The files of an archive.

    Attributes:
      paths: POSIX paths of the files, and of folders with a slash at the end. Links, devices and paths outside of the
        archive are left out.
    """

    def __init__(self, file: IO[bytes], paths: Sequence[str], opener: Callable[[int], IO[bytes]], *, shared: bool):
        """Takes the file of the archive and the paths of its entries, "" for those left out.

        Args:
          file: closed with the archive.
          paths: path of each entry.
          opener: opens the entry with an index.
          shared: entries that are open at the same time share one position in the file.
        """
        self._opener, self._index = opener, {path: i for i, path in enumerate(paths) if path}
        self._lock: AbstractContextManager[Any] = threading.Lock() if shared else contextlib.nullcontext()
        self.paths = list(self._index)
        weakref.finalize(self, file.close)

    def open(self, path: str) -> IO[bytes]:
        """Opens a file; it must be read in one thread only."""
        with _valid_offsets():
            return self._opener(self._index[path])

    def read(self, path: str) -> bytes:
        """Returns the content of a file; can be called from several threads."""
        with self._lock, self.open(path) as file:
            return file.read()


def open_archive(file: IO[bytes], name: str, name_encoding: str | None = None) -> Archive | None:
    """Opens a zip or tar archive, or a tar archive compressed by gzip, bzip2 or xz; None if the file is no archive.

    A compressed archive is unpacked into memory or, if it is large, into a temporary file.

    Args:
      file: the file, seekable; it is closed with the archive, or at once if there is none.
      name: its name, for messages.
      name_encoding: encoding of the names that are not marked as UTF-8; detected if None.

    Raises:
      InputError: if the archive is damaged, of a kind that is not supported, or the encoding of its names is uncertain.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        head = file.read(8)
        file.seek(0)
        if foreign := next((kind for magic, kind in _FOREIGN.items() if head.startswith(magic)), None):
            raise InputError(f"{name} is a {foreign} archive, which cannot be read: unpack it and use the folder")
        try:
            if unpack := next((unpack for magic, unpack in _COMPRESSED.items() if head.startswith(magic)), None):
                with file:
                    file = unpacked(unpack(file))
                stack.callback(file.close)
            if _is_tar(file):
                archive = _tar(file, name, name_encoding)
            elif unpack:
                raise InputError(f"{name} is compressed, but contains no tar archive: unpack it")
            elif head.startswith((b"PK\x03\x04", b"PK\x07\x08")) or zipfile.is_zipfile(file):
                if _is_part(file, name):
                    raise InputError(f"{name} {_SPLIT}")
                archive = _zip(file, name, name_encoding)
            else:
                return None
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(f"{name} {_SPLIT if _PART.search(name.lower()) else fault(error)}") from error
        stack.pop_all()
        return archive


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Returns a seekable copy of a stream, in memory or, if it is large, in a temporary file.

    Raises:
      InputError: if the disk is full.
      Exception: one of DAMAGE if the stream is damaged.
    """
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        with stream:
            shutil.copyfileobj(stream, copy, 2**20)
    except OSError as error:
        copy.close()
        if error.errno == errno.ENOSPC:
            text = f"no space left in {tempfile.gettempdir()} for an unpacked archive: set TMPDIR to a larger folder"
            raise InputError(text) from error
        raise tarfile.ReadError(str(error)) if error.errno is None else error from error  # bzip2 has no error class
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy


def fault(error: Exception) -> str:
    """Says what is wrong with an archive, and what to do, from an exception of DAMAGE."""
    said = str(error) or type(error).__name__
    if isinstance(error, RuntimeError):  # encrypted, or an unsupported compression
        if "encrypted" in said:
            return "is encrypted: unpack it with its password first"
        return f"cannot be read ({said}): unpack it first"
    if isinstance(error, UnicodeDecodeError):
        return "has names that are marked as UTF-8, but are not: unpack it and use the folder"
    ends = ("end of data", "end-of-stream", "end of file", "not a zip file", "truncated")
    if isinstance(error, EOFError) or any(text in said for text in ends):
        return "is cut off: download it again"
    return f"is damaged ({said}): use another copy"


def _zip(file: IO[bytes], name: str, name_encoding: str | None) -> Archive:
    with _valid_offsets():
        archive = zipfile.ZipFile(file)
    infos = archive.infolist()
    # Bit 11 marks UTF-8; without it, zipfile has decoded the names as cp437.
    plain = [i for i, info in enumerate(infos) if not info.flag_bits & 0x800]
    paths = [info.orig_filename for info in infos]
    stored = {i: paths[i].encode("cp437") for i in plain}
    marked = {i: path for i in plain if (path := _unicode_path(infos[i].extra, stored[i])) is not None}
    rest = [i for i in plain if i not in marked]
    decoded = names.decode([stored[i] for i in rest], name, name_encoding)
    for i, path in [*marked.items(), *zip(rest, decoded, strict=True)]:
        paths[i] = path
    refused = [stat.S_ISLNK(info.external_attr >> 16) for info in infos]
    return Archive(file, _inside(paths, refused, name), lambda i: archive.open(infos[i]), shared=False)


def _unicode_path(extra: bytes, stored: bytes) -> str | None:
    """Returns the UTF-8 name in an entry's extra field 0x7075, if it belongs to the stored name (APPNOTE 4.6.9)."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and field[:5] == struct.pack("<BL", 1, zlib.crc32(stored)):
            return field[5:].decode("utf-8")
    return None


def _is_part(file: IO[bytes], name: str) -> bool:
    """Returns whether a file is a part of a split archive, by its end or its name (.z01, .zip.001)."""
    file.seek(max(0, file.seek(0, 2) - 2**16 - 22))
    _, end, record = file.read().rpartition(b"PK\x05\x06")
    file.seek(0)
    disk = struct.unpack("<H", record[:2])[0] if end and len(record) >= 18 else 0
    return disk not in (0, 0xFFFF) or bool(_PART.search(name.lower()))


def _tar(file: IO[bytes], name: str, name_encoding: str | None) -> Archive:
    archive = tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    members = archive.getmembers()
    file.seek(archive.offset)  # tarfile stops at a damaged header without an error
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise tarfile.ReadError("unexpected end of data" if len(end) < tarfile.BLOCKSIZE else "bad header")
    raw = [member.name.encode("utf-8", "surrogateescape") for member in members]
    decoded = names.decode(raw, name, name_encoding)
    paths = [path + "/" * member.isdir() for path, member in zip(decoded, members, strict=True)]
    kept = _inside(paths, [not (member.isreg() or member.isdir()) for member in members], name)

    def opener(i: int) -> IO[bytes]:
        opened = archive.extractfile(members[i])
        assert opened is not None  # not of a regular file
        return opened

    return Archive(file, kept, opener, shared=True)


@contextlib.contextmanager
def _valid_offsets() -> Iterator[None]:
    """Raises BadZipFile instead of OSError if a damaged archive refers to a place before the start of the file."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile("invalid offset") from error


def _is_tar(file: IO[bytes]) -> bool:
    try:
        tarfile.TarInfo.frombuf(file.read(512), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    finally:
        file.seek(0)
    return True


def _inside(paths: Sequence[str], refused: Sequence[bool], name: str) -> list[str]:
    r"""Returns the paths with / for \, and "" for those refused and those that are not below the archive."""
    kept, left = [], 0
    for path, is_refused in zip(paths, refused, strict=True):
        plain = path.replace("\\", "/")
        pure = PurePosixPath(plain)
        inside = not is_refused and not pure.is_absolute() and ".." not in pure.parts
        left += not inside
        kept.append(f"{pure}{'/' * plain.endswith('/')}" if inside and pure.parts else "")
    if left:
        note(f"{name}: entries left out: {left:,} (links, devices or paths outside of the archive)")
    return kept
