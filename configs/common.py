"""Provides the default groups of configurations and their arguments, such as `demo` and `robust`."""

from collections.abc import Callable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ferjax import errors
from ferjax.train import config as train_config


def base() -> ConfigDict:
    """Returns every group with all its keys: the defaults of its function, and training on FER2013."""
    config = ConfigDict(train_config.defaults(), allow_dotted_keys=False)
    config.data.name = "fer2013"
    config.model.update(name="", dtype="float32")
    config.teacher.workdirs = ()
    config.augment.flip = 0.5
    config.loss.alpha = placeholder(float)  # None, or a float
    config.optim.update(name="sgd", learning_rate=0.1)
    config.fit.update(epochs=1, batch_size=64)
    return config


def arguments(config: ConfigDict, text: str | None, **known: Callable[[ConfigDict], None]) -> ConfigDict:
    """Applies the comma-separated arguments of `configs/name.py:a,b`, in order; every configuration has `robust`.

    Then locks the groups except `data` and `model`, because data sets and networks have options of their own.

    Raises:
      InputError: for an unknown argument.
    """
    known = {"robust": robust, **known}
    for name in (text or "").split(","):
        if name and name not in known:
            raise errors.unknown("config argument", name, known)
        if name:
            known[name](config)
    config.lock()
    for open_ended in (config.data, config.model):
        open_ended.unlock()
    return config


def reset(config: ConfigDict, name: str) -> None:
    """Resets a configuration to `base` with the named network."""
    for group, values in base().items():
        config[group] = values
    config.model.name = name


def robust(config: ConfigDict) -> None:
    """Trains on images with the faults of cameras; a teacher sees the images without them."""
    config.camera.probability = 0.25
    config.teacher.clean = True


def student(config: ConfigDict) -> None:
    """Learns from a larger teacher that sees clean images of its own size; answers are fairer to rare classes."""
    config.camera.probability = 0.1
    config.teacher.update(clean=True, resize=True, stored_views=8)
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), brightness=0.2, contrast=0.2, erase=0.1)
    config.loss.update(alpha=0.8, temperature=3.0, logit_adjustment=0.25)
    config.optim.update(name="sgd", warmup_epochs=1.0, decay_only=("kernel",))
    config.fit.ema_decay = 0.999


def ferplus(config: ConfigDict) -> None:
    """Trains on FER+; the target of a face is the distribution of its votes."""
    config.data.name = "ferplus"
    config.loss.label_smoothing = 0.0
    config.fit.targets = "votes"


def scratch(config: ConfigDict) -> None:
    """Trains from random weights instead of pretrained ones or those of an earlier run."""
    config.init.update(pretrained="", workdir="")


def embedded(config: ConfigDict, **options: int) -> None:
    """Switches a configuration to the embedded data set of the same image shape, without pretrained weights."""
    scratch(config)
    shape = {"size": config.data.get("size", 48), "channels": config.data.get("channels", 1)}
    reading = {key: config.data.get(key, value) for key, value in base().data.items() if key != "name"}
    config.data = ConfigDict({"name": "synthetic_faces", **shape, "seed": 0, **options, **reading})
    config.fit.targets = ""


def demo(
    *,
    epochs: int,
    train: int = 2000,
    held: int = 500,
    batch_size: int = 32,
    learning_rate: float = 0.003,
    warmup_epochs: float = 0.2,
) -> Callable[[ConfigDict], None]:
    """Returns the argument `demo`: about 1 minute of training on the embedded faces.

    Augments by flips only and uses AdamW, because SGD does not converge within 250 steps. `held` is the number of
    validation faces, and of test faces.
    """

    def demo(config: ConfigDict) -> None:
        embedded(config, train=train, validation=held, test=held)
        config.augment.update(base().augment)
        config.optim.update(name="adamw", learning_rate=learning_rate, weight_decay=0.01, warmup_epochs=warmup_epochs)
        config.fit.update(epochs=epochs, batch_size=batch_size, ema_decay=0.0)

    return demo


def finetune(config: ConfigDict) -> None:
    """Fine-tunes the network of --config.init.workdir, the basis of all recipes in configs/compress.

    `model.name` is used only if init.network is False.
    """
    config.model.name = "resnet20"
    config.init.network = True
    config.augment.update(rotate=10.0, translate=0.08, crop=(0.9, 1.1))
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.01, weight_decay=5e-4, warmup_epochs=0.5, decay_only=("kernel",))
    config.fit.update(epochs=15, batch_size=64)


def finetune_demo(config: ConfigDict) -> None:
    """Trains for two epochs on the embedded faces; from random weights unless init.network and init.workdir are set."""
    embedded(config, train=2000, validation=500, test=500)
    config.init.network = False
    config.augment.update(rotate=0.0, translate=0.0, crop=(1.0, 1.0))
    config.optim.update(name="adamw", learning_rate=0.003, weight_decay=0.01)
    config.fit.update(epochs=2, batch_size=32)


def quick(config: ConfigDict) -> None:
    """Shortens a paper's experiment to two epochs on a few small embedded faces.

    Frozen stages take one epoch, schedules shrink in proportion, ResNet-18 and ResNet-50 have a quarter of their
    channels.
    """
    stages, epochs = config.optim.stages, config.fit.epochs
    config.data.size = 24
    if config.model.name.startswith("deit"):
        config.data.size = 48
    elif config.model.name == "baseline_cnn5":  # it halves the size five times
        config.data.size = 32
    embedded(config, train=280, validation=140, test=140)
    for name, width in (("resnet18", 16), ("resnet50", 64)):
        if config.model.name.startswith(name):
            config.model.update(stem_width=16, widths=(width, 2 * width, 4 * width, 8 * width))
    config.optim.stages = tuple((None if length is None else 1, *rest) for length, *rest in stages)
    config.optim.decay_epochs *= 2 / epochs
    config.optim.warmup_epochs *= 2 / epochs
    config.fit.update(epochs=2, patience=0)
