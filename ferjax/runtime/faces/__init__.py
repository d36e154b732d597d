"""Detects, crops and tracks faces."""
