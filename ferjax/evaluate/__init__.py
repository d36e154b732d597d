"""Evaluation of checkpoints and exported files by one path: scores, intervals, calibration, robustness."""
