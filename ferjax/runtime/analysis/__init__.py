"""Analyzes photos and films: `ferjax.analyze`, `ferjax.analyze_film` and `ferjax analyze`."""
