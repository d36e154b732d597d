"""Downloads files to the user's cache and checks their hash; face detectors by `ferjax fetch`."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ferjax import cli, folders
from ferjax.cli import note
from ferjax.errors import InputError, unknown


class Download(NamedTuple):
    """A file that can be downloaded.

    Attributes:
      url: its address.
      file: its name in the cache.
      digest: hash of its content, in hexadecimal.
      algorithm: of the hash.
    """

    url: str
    file: str
    digest: str
    algorithm: str = "sha256"


_TITLES = {"sha256": "SHA-256", "sha512": "SHA-512"}
MODELS = {
    "yunet": Download(
        "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/face_detection_yunet_2026may.onnx",
        "face_detection_yunet_2026may.onnx",
        "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
    )
}


def cache_dir() -> Path:
    """Returns the folder of downloaded models: $FERJAX_MODELS, or `ferjax/models` in the user's cache."""
    return folders.cache("FERJAX_MODELS", "models")


def cached(name: str) -> Path:
    """Returns the path of a downloaded model.

    Raises:
      InputError: if the name is unknown, or the model is not in the cache.
    """
    if name not in MODELS:
        raise unknown("model to fetch", name, MODELS)
    path = cache_dir() / MODELS[name].file
    if not path.is_file():
        raise InputError(
            f"the {name} model is not in {path.parent}: run `ferjax fetch {name}`, or give the file with "
            "--detector-model"
        )
    return path


def fetch(name: str, *, url: str | None = None) -> Path:
    """Downloads a model if it is not in the cache, and returns its path.

    Args:
      name: a key of MODELS.
      url: another address of the same file, such as a mirror.

    Raises:
      InputError: if the name is unknown, the download fails, or the SHA-256 differs.
    """
    if name not in MODELS:
        raise unknown("model to fetch", name, MODELS)
    model = MODELS[name]
    if _is_complete(model):
        note(f"{cache_dir() / model.file} exists already")
    return save(model, url=url, remedy="download the file another way and give it with --detector-model")


def save(wanted: Download, *, url: str | None = None, remedy: str = "") -> Path:
    """Downloads a file if it is not in the cache, and returns its path.

    Args:
      wanted: the file.
      url: another address of the same file.
      remedy: what to do if the download fails (default: download it another way to its place in the cache).

    Raises:
      InputError: if the download fails, or the hash differs.
    """
    path, address = cache_dir() / wanted.file, url or wanted.url
    if _is_complete(wanted):
        return path
    remedy = remedy or f"download the file another way and copy it to {path}"
    data = _download(address, remedy)
    if (got := _hash(data, wanted.algorithm)) != wanted.digest:
        raise InputError(
            f"{address}: {len(data):,} bytes with {_TITLES[wanted.algorithm]} {got[:16]}…, expected "
            f"{wanted.digest[:16]}…. The file was discarded: {remedy}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(part, 0o644)  # mkstemp creates it with mode 600
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    note(f"downloaded {path}")
    return path


def _is_complete(wanted: Download) -> bool:
    path = cache_dir() / wanted.file
    return path.is_file() and _hash(path.read_bytes(), wanted.algorithm) == wanted.digest


def _download(address: str, remedy: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.read()
    except http.client.IncompleteRead as error:
        raise InputError(f"{address}: the download stopped after {len(error.partial):,} bytes; try again") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{address} cannot be downloaded ({reason}): {remedy}") from error


def _hash(data: bytes, algorithm: str) -> str:
    return hashlib.new(algorithm, data).hexdigest()


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax fetch`: downloads a face detector."""
    parser = cli.parser("fetch", "Downloads a face detector to the user's cache and checks its SHA-256.")
    parser.add_argument("name", metavar="NAME", help=f"detector: {', '.join(MODELS)}")
    parser.add_argument("--url", help="another address of the same file")
    given = parser.parse_args(argv)
    print(fetch(given.name, url=given.url))
