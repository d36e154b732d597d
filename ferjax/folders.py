"""Folders and files that are there whole or not at all."""

import contextlib
import errno
import glob
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from ferjax.errors import InputError

_ABANDONED = 86400  # seconds without a change


def check_out(out: pathlib.Path) -> None:
    """Checks that files can be put into a folder, which need not be there yet, before they have cost any work.

    Raises:
      InputError: if it is a file, or nothing can be written where it is or would be.
    """
    there = next((path for path in (out.absolute(), *out.absolute().parents) if path.exists()), None)
    if there is None or (out.is_symlink() and not out.exists()):
        raise InputError(f"--out {out} leads nowhere: choose another folder")
    if not there.is_dir():
        raise InputError(f"--out {out} must be a folder: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: nothing can be written into {there}: choose another folder")


def check(out: pathlib.Path) -> None:
    """Checks that a folder can be replaced.

    Raises:
      InputError: if it is the folder that the process runs in, or holds it.
    """
    if pathlib.Path.cwd().is_relative_to(out.resolve()):
        raise InputError(f"--out {out} is or holds the folder that this command runs in: choose another")


@contextlib.contextmanager
def made_whole(out: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Yields a new folder that takes the place of `out` when all went well, and vanishes otherwise.

    Args:
      out: what is to be made; what is there, or what a link there leads to, is replaced at the end.
      replace: if not, only nothing or an empty folder may be there.

    Raises:
      InputError: as `check`; if another process wrote the same meanwhile, whose folder then stays.
    """
    check(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_left(out.parent, f".{glob.escape(out.name)}.new-????????")
    part = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    try:
        yield part
        part.chmod(0o755)
        old = part.with_name(part.name + ".old")
        if replace:
            with contextlib.suppress(FileNotFoundError):
                out.rename(old)
        else:
            with contextlib.suppress(OSError):  # Windows replaces no folder, empty or not
                out.rmdir()
        try:
            os.replace(part, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(FileNotFoundError):
                    old.rename(out)
                raise
            shutil.rmtree(old, ignore_errors=True)
            raise InputError(f"another process wrote {out} meanwhile, which stays: choose another --out") from error
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields where to write a file that takes the place of `path` when all went well, and vanishes otherwise.

    What a link leads to is replaced; the mode of the file that is there stays.
    """
    target = pathlib.Path(os.path.realpath(path))
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:  # a disk that is full names no file, and nobody knows the part
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        part.unlink(missing_ok=True)


def remove_left(folder: pathlib.Path, pattern: str) -> None:
    """Removes what killed processes left unfinished.

    Args:
      folder: where it lies.
      pattern: of the names of files and folders; what changed within the last day may still be at work, and stays.
    """
    for left in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process does the same, or the folder is read-only
            if time.time() - left.stat().st_mtime <= _ABANDONED:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
