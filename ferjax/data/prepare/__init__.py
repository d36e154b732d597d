"""Prepares data sets: decoding, splits, duplicates, contact sheets."""
