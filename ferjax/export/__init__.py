"""From a checkpoint to files that run anywhere, each held to what was trained before it is left on disk."""

from ferjax.export.formats import FORMATS, Format, choose, family, list_formats, list_quantizations
from ferjax.export.pipeline import Exported, best, export, table

__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "best",
    "choose",
    "export",
    "family",
    "list_formats",
    "list_quantizations",
    "table",
]
