"""Defines TensorFlow Datasets (TFDS) builders of the data sets, with the parsers of `ferjax prepare`.

    from ferjax.data.datasets import tfds_builders
    tfds_builders.register()
    data = tfds.load("rafdb", split="train", data_dir=DIR)

Functions import TensorFlow; the module does not.
"""

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.data import loading
from ferjax.data.datasets.sources import EXPRESSIONS, Column, Source
from ferjax.data.prepare.pipeline import DATASETS, decoded_examples
from ferjax.errors import InputError, unknown

NAMES = (*DATASETS, "synthetic_faces")


def register() -> None:
    """Registers all data sets with `tfds.load` and `tfds.builder`."""
    for name in NAMES:
        builder_class(name)


def builder(name: str, data_dir: str | Path | None = None, **options: Any) -> Any:
    """Returns a `tfds.core.GeneratorBasedBuilder`.

    An example contains `image` uint8 (H, W, C), `label`, `name` and the columns of the data set. The order is that of
    the arrays of `ferjax prepare`.

    Args:
      name: one of NAMES.
      data_dir: folder of TFDS. The copy of the data set is in its downloads/manual, or in `manual_dir` of a
        `tfds.download.DownloadConfig`.
      **options: options of the parser, such as size, channels and classes; for synthetic_faces, options of
        `ferjax.data.load`.

    Raises:
      InputError: if the name or an option is unknown.
    """
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    if wrong := [o for o in options if o not in _defaults(name)]:
        raise unknown(f"option of {name}", wrong[0], _defaults(name))
    made = builder_class(name)
    if not options:
        return made(data_dir=data_dir)
    slug = "-".join(f"{k}_{v}" for k, v in sorted(options.items()))
    return made(data_dir=data_dir, config=_config_class()(name=slug, options=options))


@functools.cache
def builder_class(name: str) -> type:
    """Returns the TFDS builder class of a data set; the first call defines and registers it."""
    import tensorflow_datasets as tfds

    def info(self: Any) -> Any:
        options = {"size": 48, "channels": 1} | _defaults(name) | self.builder_config.options
        classes = _class_names(name)[: options.get("classes")]
        shape = (options["size"], options["size"], options["channels"])
        features = {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=classes),
            "name": tfds.features.Text(),
        }
        for key, column in _columns(name).items():
            features[key] = tfds.features.Tensor(shape=column.shape, dtype=np.dtype(column.dtype))
        # Without shuffling, the order is that of the prepared arrays on every machine.
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label"), disable_shuffling=True
        )

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Any]:
        if name == "synthetic_faces":
            data = loading.load(name, dl_manager.download_dir, loading.store.SPLITS, **self.builder_config.options)
            return {s: self._generate_examples(_stored(split)) for s, split in data.splits.items()}
        source = DATASETS[name].read(_locate(Path(dl_manager.manual_dir), name), **self.builder_config.options)
        splits = dict.fromkeys(e.split for e in source.examples)
        parts = {s: dataclasses.replace(source, examples=[e for e in source.examples if e.split == s]) for s in splits}
        return {s: self._generate_examples(_records(part, name)) for s, part in parts.items()}

    def generate_examples(self: Any, records: Iterator[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(records)

    title = "".join(word.capitalize() for word in name.split("_"))
    members = {
        "__module__": __name__,
        "__doc__": f"{name}, prepared by ferjax.",
        "VERSION": tfds.core.Version("1.0.0"),
        "BUILDER_CONFIGS": [_config_class()(name="default", options={})],
        "MANUAL_DOWNLOAD_INSTRUCTIONS": _instructions(name),
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": generate_examples,
    }
    return type(tfds.core.GeneratorBasedBuilder)(title, (tfds.core.GeneratorBasedBuilder,), members)


@functools.cache
def _config_class() -> Any:
    import tensorflow_datasets as tfds

    @dataclasses.dataclass(eq=False)
    class FacesConfig(tfds.core.BuilderConfig):
        """Config with the options of the parser."""

        options: dict[str, Any] = dataclasses.field(default_factory=dict)

    return FacesConfig


def _instructions(name: str) -> str | None:
    if name == "synthetic_faces":
        return None
    how = DATASETS[name].GET
    files = f"{name}.zip, {name}.tar.gz, or the unpacked files"
    return f"{how[0].upper()}{how[1:]}; put {files}, into manual_dir or manual_dir/{name}."


def _defaults(name: str) -> dict[str, Any]:
    """Returns the accepted options and their defaults."""
    if name == "synthetic_faces":
        return dict(loading.SYNTHETIC)
    parameters = inspect.signature(DATASETS[name].read).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _class_names(name: str) -> tuple[str, ...]:
    return EXPRESSIONS if name == "synthetic_faces" else DATASETS[name].CLASSES


def _columns(name: str) -> dict[str, Column]:
    return getattr(DATASETS.get(name), "COLUMNS", {})


def _locate(manual: Path, name: str) -> Path:
    places = (manual / f"{name}{suffix}" for suffix in (".zip", ".tar", ".tar.gz", ".tgz", ""))
    return next((place for place in places if place.exists()), manual)


def _stored(split: Any) -> Iterator[dict[str, Any]]:
    for image, label, name in zip(split.images, split.labels, split.names, strict=True):
        yield {"image": image, "label": int(label), "name": name}


def _records(source: Source, name: str) -> Iterator[dict[str, Any]]:
    for example, decoded in decoded_examples(source):
        if isinstance(decoded, str):
            raise InputError(f"{decoded}; repair or remove it")
        record = {"image": decoded.image, "label": example.label, "name": example.name}
        for key, column in _columns(name).items():
            record[key] = np.asarray(example.columns.get(key, np.full(column.shape, column.unknown)), column.dtype)
        yield record
