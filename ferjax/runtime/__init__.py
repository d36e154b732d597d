"""The edge: exported files answer for faces, without jax and without TensorFlow.

    model = ferjax.runtime.load()   # the default one that comes with ferjax; or its name, or "resnet20_int8.tflite"
    model.predict(face).label       # face: uint8, grey or BGR, of any size, as OpenCV gives it
    for result in ferjax.runtime.stream(0, model): ...      # everybody before a camera, followed

A name is imported when it is first used, so that what needs no camera loads no OpenCV.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferjax.runtime.loop import stream
    from ferjax.runtime.model import UNCERTAIN, Model, Prediction, load

_HOMES = {"load": "model", "Model": "model", "Prediction": "model", "UNCERTAIN": "model", "stream": "loop"}
__all__ = ["UNCERTAIN", "Model", "Prediction", "load", "stream"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
