"""From a user's copy of a data set to prepared arrays, in one pass, or to nothing at all."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.cli import InputError, note
from ferjax.data import fer2013, images, store
from ferjax.data.sources import Example, Source


def prepare_fer2013(source: str | Path, data_dir: str | Path | None = None, skip_bad: bool = False) -> dict[str, Any]:
    """Prepares FER2013 from a user's copy; see `ferjax.data.fer2013.read` for the forms it takes.

    Args:
      source: zip file or folder.
      data_dir: where prepared data lie; `default_data_dir()` if None.
      skip_bad: leave out images that do not decode and say how many, instead of failing.

    Returns:
      The manifest.

    Raises:
      InputError: on a source that is not what it should be; data prepared before stay as they are.
    """
    return write("fer2013", fer2013.read(Path(source)), data_dir, skip_bad=skip_bad)


def write(name: str, source: Source, data_dir: str | Path | None = None, *, skip_bad: bool = False) -> dict[str, Any]:
    """Decodes a parsed source and stores it as data_dir/name.

    Args:
      name: name of the data set.
      source: what a parser returned.
      data_dir: where prepared data lie; `default_data_dir()` if None.
      skip_bad: leave out images that do not decode and say how many, instead of failing.

    Returns:
      The manifest.

    Raises:
      InputError: naming the images that do not decode, or the class without training images.
    """
    with store.staging(Path(data_dir or store.default_data_dir()), name) as folder:
        remarks, bad = write_arrays(source, folder)
        if bad and not skip_bad:
            raise InputError(f"{_list(bad)} not decode; mend or remove them, or leave them out with --skip-bad")
        if bad:
            note(f"{name}: left out, because {_list(bad)} not decode")
        for remark, count in remarks.items():
            note(f"{name}: {count:,} images {remark}")
        for line in source.notes:
            note(f"{name}: {line}")
        missing = {s: t for s, t in source.missing.items() if not (folder / s).exists()}
        for split, text in missing.items():
            note(f"{name}: there is no {split} split in the source; to get it, {text}")
        notes = {"remarks": remarks, "skipped": bad, "missing": missing, "notes": list(source.notes)}
        return store.write_manifest(folder, name, source.class_names, **notes)


def write_arrays(source: Source, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Decodes every example into folder/<split>/.

    Returns:
      How many images each remark applies to, and the names of those that do not decode.
    """
    writers: dict[str, store.SplitWriter] = {}
    remarks: Counter[str] = Counter()
    bad = []
    started = said = time.monotonic()
    for done, (example, decoded) in enumerate(_decode_all(source), 1):
        if decoded is None:
            bad.append(example.name)
            continue
        remarks.update(decoded.remarks)
        if example.split not in writers:
            shape = (source.size, source.size, source.channels)
            writers[example.split] = store.SplitWriter(folder / example.split, shape)
        writers[example.split].add(decoded.image, example.label, example.name, example.columns)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            note(f"decoded {done:,} of {len(source.examples):,} images, {done / (said - started):.0f} images/s")
    for writer in writers.values():
        writer.close()
    return dict(remarks), bad


def _decode_all(source: Source) -> Iterator[tuple[Example, images.Decoded | None]]:
    """Decodes in threads (Pillow lets go of the interpreter lock), in order, a block at a time."""

    def decode(example: Example) -> images.Decoded | None:
        try:
            data = example.read()
            if isinstance(data, np.ndarray):
                return images.fit(data, source.size, source.channels)
            return images.decode(data, source.size, source.channels, example.box)
        except Exception:  # a broken file makes Pillow raise nearly anything
            return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(source.examples), 1024):
            block = source.examples[start : start + 1024]
            yield from zip(block, pool.map(decode, block), strict=True)


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(names)} image{'s'[: len(names) != 1]} ({shown}) do{'es'[: 2 * (len(names) == 1)]}"
