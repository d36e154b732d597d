"""Evaluates checkpoints and exported files with the same code: metrics, intervals, calibration, robustness."""
