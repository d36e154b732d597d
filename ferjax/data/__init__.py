"""Prepares data sets of labeled faces and loads them as arrays."""

from ferjax.data.datasets.sources import EXPRESSIONS
from ferjax.data.loading import READ_OPTIONS, RESIDENT_BYTES, groups, load
from ferjax.data.store import FaceData, Images, Split, class_weights, default_data_dir

__all__ = [
    "EXPRESSIONS",
    "READ_OPTIONS",
    "RESIDENT_BYTES",
    "FaceData",
    "Images",
    "Split",
    "class_weights",
    "default_data_dir",
    "groups",
    "load",
]
