"""Prepares a copy of a data set: decodes, divides, removes leaks and stores it atomically."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ferjax.cli import counted, note, progress
from ferjax.data import manifest, records, store
from ferjax.data.datasets import affectnet, fer2013, ferplus, rafdb
from ferjax.data.datasets.sources import BadExample, Example, Source
from ferjax.data.prepare import decoding, duplicates
from ferjax.errors import InputError, unknown
from ferjax.runtime.sources import pictures
from ferjax.spec import UNCERTAIN

DATASETS: dict[str, ModuleType] = {"fer2013": fer2013, "ferplus": ferplus, "rafdb": rafdb, "affectnet": affectnet}
_SEED = 0


def prepare(
    name: str,
    source: str | Path,
    data_dir: str | Path | None = None,
    *,
    skip_bad: bool = False,
    drop_leaks: bool = False,
    holdout: float = 0.0,
    array_record: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Prepares one of DATASETS from a copy of it and returns the manifest.

    Args:
      name: one of DATASETS.
      source: folder, archive or table; see the parser `ferjax.data.datasets.<name>.read`.
      data_dir: folder of prepared data; `default_data_dir()` if None.
      skip_bad: leave out images that cannot be decoded and report them, instead of raising.
      drop_leaks: remove training images with an exact or near duplicate in another split.
      holdout: fraction of training (0..0.5) to use as validation, for a data set without validation.
      array_record: store the images as `ferjax.data.records` instead of one array per split.
      **options: options of the parser.

    Raises:
      InputError: if the source is invalid; data prepared before do not change.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    parsed = DATASETS[name].read(Path(source), **options)
    return write(
        name,
        parsed,
        data_dir,
        skip_bad=skip_bad,
        drop_leaks=drop_leaks,
        holdout=holdout,
        array_record=array_record,
    )


def write(
    name: str,
    source: Source,
    data_dir: str | Path | None = None,
    *,
    skip_bad: bool = False,
    drop_leaks: bool = False,
    holdout: float = 0.0,
    array_record: bool = False,
) -> dict[str, Any]:
    """Decodes a parsed source, stores it as data_dir/name and returns the manifest; for the options, see `prepare`.

    Raises:
      InputError: if an image cannot be decoded, a class has no training image, or data_dir/name is not a data set.
    """
    _check(name, source, holdout)
    if array_record:
        records.check()
    with store.staging(Path(data_dir or store.default_data_dir()), name) as staged:
        remarks, bad = write_arrays(source, staged)
        if bad and not skip_bad:
            raise InputError(f"{_list(bad)}; repair or remove them, or leave them out with --skip-bad")
        empty = _divide(name, source, staged, holdout)
        dropped = _drop_leaks(staged) if drop_leaks else 0
        if dropped and not (staged / "train").exists():
            raise InputError(
                f"--drop-leaks would remove all {dropped:,} training images: each has a near duplicate in another "
                "split. Remove --drop-leaks, or use other images; ferjax leaks shows the duplicates"
            )
        missing = {s: t for s, t in {**source.missing, **empty}.items() if not (staged / s).exists()}
        facts = {"remarks": remarks, "skipped": bad, "dropped_leaks": dropped, "missing": missing}
        result = manifest.complete(staged, name, source.class_names, **facts, notes=list(source.notes))
        if array_record:
            store.use_records(staged, source.class_names)
    messages = [f"left out: {_list(bad)}"] if bad else []
    messages += remarks
    messages += source.notes
    if drop_leaks:
        messages.append(f"{counted(dropped, 'training image')} removed: near duplicates in another split")
    messages += [f"the source has no {s} split; to get it, {text}" for s, text in missing.items() if s not in empty]
    for line in messages:
        note(f"{name}: {line}")
    return result


def _check(name: str, source: Source, holdout: float) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name) or name == "synthetic_faces":
        raise InputError(
            f"invalid data set name {name!r}: use letters, digits, -, _ and .; synthetic_faces is reserved"
        )
    if UNCERTAIN in source.class_names:
        raise InputError(f"the class name {UNCERTAIN!r} is reserved for abstention: rename the class")
    if source.size < 1:
        raise InputError(f"size must be 1 or more pixels, got {source.size}")
    if not 0 <= holdout <= 0.5:
        raise InputError(f"holdout must be in 0..0.5, got {holdout}")


def write_arrays(source: Source, staged: Path) -> tuple[list[str], list[str]]:
    """Decodes examples into staged/<split>/; returns one message per conversion and one per unusable image."""
    writers: dict[str, store.SplitWriter] = {}
    remarks: Counter[str] = Counter()
    bad = []
    with ExitStack() as stack:
        for example, decoded in progress(decoded_examples(source), what="decoding", total=len(source.examples)):
            if isinstance(decoded, str):
                bad.append(decoded)
                continue
            remarks.update(decoded.remarks)
            if example.split not in writers:
                writer = store.SplitWriter(staged / example.split, (source.size, source.size, source.channels))
                writers[example.split] = stack.enter_context(writer)
            writers[example.split].add(decoded.image, example.label, example.name, example.columns)
    return [f"{counted(count, 'image')} {remark}" for remark, count in remarks.items()], bad


def decoded_examples(source: Source) -> Iterator[tuple[Example, decoding.Decoded | str]]:
    """Yields examples with their image or a one-line error, in order, decoded in threads (Pillow releases the GIL)."""

    def decode(example: Example) -> decoding.Decoded | str:
        try:
            size, channels = source.size, source.channels
            return decoding.decode(example.read(), size, channels, box=example.box, crop=source.crop)
        except BadExample as error:
            return str(error) if example.name in str(error) else f"{example.name}: {error}"
        except InputError:
            raise
        except (pictures.UnreadableImage, OSError) as error:
            return f"{example.name} cannot be decoded: {error}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(source.examples), 1024):
            block = source.examples[start : start + 1024]
            yield from zip(block, pool.map(decode, block), strict=True)


def _list(lines: list[str]) -> str:
    more = f"; and {len(lines) - 5:,} more" if len(lines) > 5 else ""
    return f"{counted(len(lines), 'unusable image')}: {'; '.join(lines[:5])}{more}"


def _divide(name: str, source: Source, staged: Path, holdout: float) -> dict[str, str]:
    """Divides the training split by fractions; near duplicates stay in one split.

    Returns:
      For each split that should have images and has none: how to get it.
    """
    fractions = source.fractions
    if holdout:
        if (staged / "validation").exists() or fractions:
            raise InputError(f"{name} already has a validation split: remove --holdout")
        fractions = (1 - holdout, holdout, 0.0)
    if fractions is None or not (staged / "train").exists():
        return {}
    train = {"train": store.read_split(staged / "train")}
    exact = duplicates.exact_groups(train)
    groups = duplicates.connected_groups(duplicates.near_pairs(train, exact), exact)
    parts = divide(train["train"].labels, [[m.row for m in g] for g in groups], fractions)
    empty = [s for i, s in enumerate(store.SPLITS) if fractions[i] > 0 and not (parts == i).any()]
    wanted, largest = sum(f > 0 for f in fractions), int(np.bincount(train["train"].labels).max())
    if largest < wanted:
        reason = f"no class has more than {counted(largest, 'image')}, too few for {wanted} splits"
        remedy = f"add images: a class needs {wanted} or more"
    else:
        together = max(map(len, groups), default=0)
        reason = f"{together} of {len(parts)} images are near duplicates, as frames of one video, and stay in one split"
        remedy = "use other images, or divide them into folders train, val and test"
    for split in empty:
        note(f"{name}: the {split} split is empty: {reason}; {remedy}")
    store.resplit(staged, {s: np.flatnonzero(parts == i) for i, s in enumerate(store.SPLITS)})
    return dict.fromkeys(empty, remedy)


def divide(labels: np.ndarray, groups: list[list[int]], fractions: tuple[float, float, float]) -> np.ndarray:
    """Divides images by fractions within each class; a group stays in one split.

    Args:
      labels: int (N,).
      groups: indices of the images of each group.
      fractions: fractions of train, validation and test.

    Returns:
      int (N,): 0, 1 or 2 for train, validation or test. A class has an image in
      each split if it has enough, and fills train first if not.
    """
    rng = np.random.default_rng(_SEED)
    alone = np.setdiff1d(np.arange(len(labels)), [i for g in groups for i in g])
    units = [*groups, *([int(i)] for i in rng.permutation(alone))]
    units.sort(key=len, reverse=True)  # large groups first: they go to train, the largest split
    counts = np.bincount(labels)
    wanted = np.outer(counts, fractions)
    wanted = np.where(np.array(fractions) > 0, np.maximum(wanted, 1), 0)
    wanted[:, 0] = np.maximum(1, counts - wanted[:, 1:].sum(1))
    parts = np.zeros(len(labels), np.int64)
    for unit in units:
        label = labels[unit[0]]
        part = int(wanted[label].argmax())
        parts[unit] = part
        for i in unit:
            wanted[labels[i], part] -= 1
    return parts


def _drop_leaks(staged: Path) -> int:
    """Removes training images with an exact or near duplicate in another split; returns their number."""
    splits = {s: store.read_split(staged / s) for s in store.SPLITS if (staged / s).is_dir()}
    exact = duplicates.exact_groups(splits)
    leaks = duplicates.leaks(duplicates.near_pairs(splits, exact), exact)
    if leaks:
        store.resplit(staged, {"train": np.setdiff1d(np.arange(len(splits["train"].labels)), sorted(leaks))})
    return len(leaks)
