"""Labelled faces: preparing a user's copy of a data set, and loading it as arrays."""

from ferjax.data.loading import load
from ferjax.data.preparing import prepare
from ferjax.data.sources import EMOTIONS
from ferjax.data.store import FaceData, Split, class_weights, default_data_dir

__all__ = ["EMOTIONS", "FaceData", "Split", "class_weights", "default_data_dir", "load", "prepare"]
