"""Faces in a frame: detection, the crop, and tracking."""
