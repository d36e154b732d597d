"""ferjax: facial-expression recognition with JAX, from training to edge devices.

    for face in ferjax.analyze("photo.jpg"):
        print(face.box, face.label, face.confidence)
    film = ferjax.analyze_film("talk.mp4")

Both are imported on first use, so that `import ferjax` imports nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferjax.runtime.analysis.film import analyze_film
    from ferjax.runtime.analysis.photo import analyze

__version__ = "0.1.0"
__all__ = ["__version__", "analyze", "analyze_film"]
_MODULES = {"analyze": "photo", "analyze_film": "film"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.runtime.analysis.{_MODULES[name]}"), name)
