"""Exports a trained network to TFLite and ONNX files and verifies each file against the network."""

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
