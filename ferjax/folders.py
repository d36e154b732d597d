"""Writes files and folders atomically, and checks output paths before the work starts."""

import contextlib
import errno
import glob
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence, Set

from ferjax.errors import InputError

_ABANDONED = 86400  # seconds since the last change


def check_out(out: pathlib.Path) -> None:
    """Checks that files can be written to a folder, which may not exist yet.

    Raises:
      InputError: if the path is a file or a broken link, or the folder is not writable.
    """
    existing = next((path for path in (out.absolute(), *out.absolute().parents) if path.exists()), None)
    if existing is None or (out.is_symlink() and not out.exists()):
        raise InputError(f"--out {out} is a broken link: choose another folder")
    if not existing.is_dir():
        raise InputError(f"--out {out} must be a folder, but {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {existing} is not writable: choose another folder")


def check_output_file(path: str) -> pathlib.Path:
    """Returns the absolute path of an output file, with ~ expanded.

    Raises:
      InputError: if its folder does not exist, or the path is a folder.
    """
    target = pathlib.Path(os.path.abspath(expand_user(path)))
    if not target.parent.is_dir():
        raise InputError(f"the folder of {path} does not exist: create {target.parent} first")
    if target.is_dir():
        raise InputError(f"{path} is a folder: give a file name")
    return target


def expand_user(path: str | os.PathLike[str]) -> pathlib.Path:
    """Expands ~ and ~user; a name such as ~name is kept if there is no such user."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        return pathlib.Path(path)


def native(path: str | os.PathLike[str]) -> str:
    """Returns a path for a library in C++, such as OpenCV, which may crash if the path is not UTF-8.

    Raises:
      InputError: if the path is not UTF-8.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the path {text} is not UTF-8: rename it, or set LC_ALL=C.UTF-8 if it is") from error
    return text


def cache(variable: str, *names: str) -> pathlib.Path:
    """Returns $`variable`, or `ferjax` with the subfolders `names` in the user's cache, $XDG_CACHE_HOME or ~/.cache.

    Raises:
      InputError: if the path starts with ~ and the user has no home folder, as in some containers.
    """
    try:
        if given := os.environ.get(variable):
            return pathlib.Path(given).expanduser()
        return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ferjax", *names).expanduser()
    except RuntimeError as error:
        raise InputError(f"the home folder of this user is unknown: set {variable} to an absolute path") from error


def check_replaceable(out: pathlib.Path) -> None:
    """Checks that a folder can be replaced.

    Raises:
      InputError: if it is or contains the working directory, is a mount point, or its parent is not writable.
    """
    target = out.resolve()
    if pathlib.Path.cwd().is_relative_to(target):
        raise InputError(f"--out {out} must not be or contain the working directory: choose another folder")
    if os.path.ismount(target):
        raise InputError(f"--out {out} is a mount point, which cannot be replaced: use a folder in it, {out / 'out'}")
    if target.parent.is_dir() and not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {target.parent} is not writable: choose another folder")


@contextlib.contextmanager
def atomic_folder(out: pathlib.Path, *, replace: bool = True) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that becomes `out` on success and is deleted on failure.

    Args:
      out: the final path; an existing folder, or the target of a link, is replaced.
      replace: if False, `out` must not exist or must be empty.

    Raises:
      InputError: as `check_replaceable`, and if another process wrote `out` in the meantime; its folder is kept.
      OSError: if a file cannot be written; it names the final path.
    """
    check_replaceable(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent, f".{glob.escape(out.name)}.new-????????")
    with temporary_folder(out) as part:
        yield part
        part.chmod(0o755)
        old = part.with_name(part.name + ".old")
        if replace:
            with contextlib.suppress(FileNotFoundError):
                out.rename(old)
        else:
            with contextlib.suppress(OSError):  # Windows cannot replace a folder, even an empty one
                out.rmdir()
        try:
            os.replace(part, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(FileNotFoundError):
                    old.rename(out)
                raise
            shutil.rmtree(old, ignore_errors=True)
            raise InputError(f"another process wrote {out} in the meantime: choose another --out") from error
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder beside an absolute path `out`, and deletes it if it was not moved.

    Raises:
      OSError: if a file cannot be written; it names `out`, also if the disk is full.
    """
    start = str(out.with_name(f".{out.name}.new-"))
    part = None
    try:
        part = pathlib.Path(tempfile.mkdtemp(prefix=pathlib.Path(start).name, dir=out.parent))
        yield part
    except OSError as error:  # ENOSPC names no file
        path = start + "????????" if error.filename is None and error.errno == errno.ENOSPC else str(error.filename)
        if error.errno is None or not path.startswith(start):
            raise
        raise OSError(error.errno, error.strerror, f"{out}{path[len(start) + 8 :]}") from error
    finally:
        if part:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def result_folder(
    out: pathlib.Path,
    marks: Set[str],
    *,
    overwrite: bool,
    what: str,
    foreign: Callable[[pathlib.Path], Sequence[str]],
) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that becomes `out` as `atomic_folder`; replaces an earlier result, and nothing else.

    Args:
      out: the final path.
      marks: names of the files that tell a result from another folder.
      overwrite: whether to replace an earlier result.
      what: the kind of result for messages, such as "an export".
      foreign: returns the names in a folder that do not belong to a result.

    Raises:
      InputError: if `out` is not empty, and is not such a result or may not be replaced.
    """
    check_result(out, marks, overwrite=overwrite, what=what, foreign=foreign)
    with atomic_folder(out, replace=overwrite) as part:
        yield part


def check_result(
    out: pathlib.Path,
    marks: Set[str],
    *,
    overwrite: bool,
    what: str,
    foreign: Callable[[pathlib.Path], Sequence[str]],
) -> None:
    """Checks that `result_folder` can write a folder; arguments and errors are the same."""
    filled = out.is_dir() and any(out.iterdir())
    if (out.exists() and not out.is_dir()) or (filled and not all((out / name).is_file() for name in marks)):
        raise InputError(f"{out} exists and is not {what}: choose another --out")
    if filled and not overwrite:
        raise InputError(f"{out} contains {what}: choose another --out, or replace it with --overwrite")
    if filled and (others := foreign(out)):
        raise InputError(f"{out} also contains {others[0]}: move it, or choose another --out")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path whose file becomes `path` on success and is deleted on failure.

    The target of a link is replaced. The mode of an existing file is kept.
    """
    target = pathlib.Path(os.path.realpath(path))
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:  # name the user's file, not the temporary one; ENOSPC names none
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        part.unlink(missing_ok=True)


def remove_abandoned(folder: pathlib.Path, pattern: str) -> None:
    """Removes temporary files and folders of killed processes.

    Args:
      folder: the folder to clean.
      pattern: glob pattern of the names; entries that changed within the last day are kept, as they may be in use.
    """
    for left in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process removes it too, or the folder is read-only
            if time.time() - left.stat().st_mtime <= _ABANDONED:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()
