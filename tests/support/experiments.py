"""A small experiment on the embedded faces, and what makes others of it."""

import copy

SMALL = {
    "data": {"name": "synthetic_faces", "size": 24, "train": 48, "validation": 21, "test": 14},
    "model": {"name": "baseline_cnn5", "widths": [4, 8]},
    "augment": {"flip": 0.5},
    "loss": {"label_smoothing": 0.1, "class_weighted": True},
    "optim": {"name": "adam", "learning_rate": 1e-2},
    "fit": {"epochs": 2, "batch_size": 16, "seed": 1},
}


def config(base=SMALL, /, **changes):
    """Returns the experiment with `group__key` values set."""
    made = copy.deepcopy(base)
    for key, value in changes.items():
        group, _, name = key.partition("__")
        made.setdefault(group, {})[name] = value
    return made
