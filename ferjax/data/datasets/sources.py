"""Defines the result of the parsers, `Source`, and the names of splits and expressions in copies of data sets."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# Names of the expressions in copies of the data sets, in lower case.
EXPRESSION_NAMES = {
    **dict.fromkeys(("angry", "anger"), "angry"),
    **dict.fromkeys(("disgust", "disgusted"), "disgust"),
    **dict.fromkeys(("fear", "fearful", "afraid", "scared"), "fear"),
    **dict.fromkeys(("happy", "happiness", "joy"), "happy"),
    **dict.fromkeys(("neutral", "neutrality"), "neutral"),
    **dict.fromkeys(("sad", "sadness"), "sad"),
    **dict.fromkeys(("surprise", "surprised"), "surprise"),
    **dict.fromkeys(("contempt", "contemptuous"), "contempt"),
}


class BadExample(ValueError):
    """An example is unusable; the message is shown to the user."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One labeled image before decoding.

    Attributes:
      split: "train", "validation" or "test".
      name: file or row of the image.
      label: index into the class names of the source.
      read: returns the bytes of an image file, or a uint8 (H, W) or (H, W, C) array.
      columns: further values by name.
      box: crop (left, top, right, bottom) in pixels.
    """

    split: str
    name: str
    label: int
    read: Callable[[], bytes | np.ndarray]
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A parsed data set.

    Attributes:
      class_names: class names, in the order of the labels.
      size: height and width of the prepared images in pixels.
      channels: 1 or 3.
      examples: the examples in the order of storage.
      missing: split -> how to get it, for the splits that the source may lack.
      notes: messages about what was left out or chosen, one line each.
      crop: crops the face of an image.
      fractions: fractions of train, validation and test to divide the examples into; all are in train before.
    """

    class_names: tuple[str, ...]
    size: int
    channels: int
    examples: list[Example]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    crop: Callable[[Image.Image], Image.Image] | None = None
    fractions: tuple[float, float, float] | None = None


class Column(NamedTuple):
    """Type of a further value of each image.

    Attributes:
      shape: shape of the value of one image.
      dtype: name of the NumPy type.
      unknown: value if the data set has none.
    """

    shape: tuple[int, ...]
    dtype: str
    unknown: float


def bad_example(name: str, reason: str, split: str = "train") -> Example:
    """Returns an example whose `read` raises BadExample, so that all bad examples are reported together."""

    def read() -> bytes:
        raise BadExample(reason)

    return Example(split, name, 0, read)


def by_split(examples: Iterable[Example], key: Callable[[Example], Any] = lambda e: 0) -> list[Example]:
    """Sorts examples by split and `key`, so that all forms of a data set are stored in the same order."""
    rank = {"train": 0, "validation": 1, "test": 2}
    return sorted(examples, key=lambda e: (rank[e.split], key(e)))
