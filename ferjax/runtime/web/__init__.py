"""Writes and serves the browser page: `ferjax web`, `ferjax export --format web`."""
