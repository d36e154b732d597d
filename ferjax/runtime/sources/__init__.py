"""Reads frames from cameras, videos, images, folders and network streams."""
