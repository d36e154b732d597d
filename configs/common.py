"""What configurations share: the groups with their defaults, and the arguments after the colon."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ferjax import cli


def base() -> ConfigDict:
    """Returns every group with all keys that a command line may set; plain training on FER2013."""
    return ConfigDict(
        {
            "data": {"name": "fer2013"},
            "model": {"name": "", "dtype": "float32"},
            "init": {"pretrained": "", "workdir": "", "strict": True},
            "augment": {
                "flip": 0.5,
                "rotate": 0.0,
                "translate": 0.0,
                "crop": (1.0, 1.0),
                "brightness": 0.0,
                "contrast": 0.0,
                "erase": 0.0,
                "erase_area": (0.02, 0.15),
            },
            "loss": {"label_smoothing": 0.0, "class_weighted": False},
            "optim": {
                "name": "sgd",
                "learning_rate": 0.1,
                "schedule": "cosine",
                "final_learning_rate": 0.0,
                "warmup_epochs": 0.0,
                "decay_epochs": 10.0,
                "decay_rate": 0.5,
                "power": 1.0,
                "weight_decay": 0.0,
                "decay_only": (".*",),
                "momentum": 0.9,
                "clip_norm": 0.0,
                "stages": (),
            },
            "fit": {
                "epochs": 1,
                "batch_size": 64,
                "ema_decay": 0.0,
                "patience": 0,
                "seed": 0,
                "sampling": "shuffled",
                "eval_batch_size": 256,
                "steps_per_dispatch": 0,
                "checkpoint_minutes": 5.0,
            },
        },
        allow_dotted_keys=False,
    )


def arguments(config: ConfigDict, text: str | None, **known: Callable[[ConfigDict], None]) -> ConfigDict:
    """Applies the comma-separated arguments of `configs/name.py:a,b`, in order.

    Raises:
      InputError: for an argument that is none of the known ones.
    """
    for name in (text or "").split(","):
        if name and name not in known:
            raise cli.unknown("config argument", name, sorted(known))
        if name:
            known[name](config)
    return config


def embedded(config: ConfigDict, **options: int) -> None:
    """Switches a configuration to the embedded data set, which needs no download."""
    config.data = ConfigDict({"name": "synthetic_faces", "size": 48, "channels": 1, "seed": 0, **options})
