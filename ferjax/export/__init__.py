"""From a checkpoint to files that run anywhere, each held to what was trained before it is left on disk."""

from ferjax.export.exporting import Exported, best, export, table
from ferjax.export.formats import FORMATS, Format, choose, family, list_formats, list_quantizations

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
