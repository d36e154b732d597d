"""Labelled faces: preparing a user's copy of a data set, and loading it as arrays."""

from ferjax.data.datasets.sources import EMOTIONS
from ferjax.data.loading import READING, RESIDENT_BYTES, groups, load
from ferjax.data.store import FaceData, Images, Split, class_weights, default_data_dir

__all__ = [
    "EMOTIONS",
    "READING",
    "RESIDENT_BYTES",
    "FaceData",
    "Images",
    "Split",
    "class_weights",
    "default_data_dir",
    "groups",
    "load",
]
