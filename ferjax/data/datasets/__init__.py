"""Reads the supported data sets; one module per data set."""
