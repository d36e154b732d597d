"""Runs exported models on the edge, without jax and without TensorFlow.

    model = ferjax.runtime.load()   # the default model; or a name, or a file such as "resnet20_int8.tflite"
    model.predict(face).label       # face: uint8 gray or BGR array of any size
    for result in ferjax.runtime.stream(0, model): ...      # tracked faces of camera 0

Names are imported on first use, so that `load` does not import OpenCV.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferjax.runtime.loop import stream
    from ferjax.runtime.model import UNCERTAIN, Model, Prediction, load

_MODULES = {"load": "model", "Model": "model", "Prediction": "model", "UNCERTAIN": "model", "stream": "loop"}
__all__ = ["UNCERTAIN", "Model", "Prediction", "load", "stream"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
