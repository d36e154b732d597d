"""mini-Xception (56 thousand parameters, 58,423 with its BatchNorm statistics), on FER2013.

python train.py --config configs/mini_xception.py
python train.py --config configs/mini_xception.py:demo     embedded data, about a minute on two cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "mini_xception"
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), erase=0.3)
    config.loss.label_smoothing = 0.1
    config.optim.update(
        name="adamw", learning_rate=3e-3, weight_decay=0.05, warmup_epochs=1.0, decay_only=("kernel",), clip_norm=1.0
    )
    config.fit.update(epochs=60, batch_size=64)
    return common.arguments(config, arg, demo=demo)


def demo(config):
    common.embedded(config, train=2000, validation=500, test=500)
    config.augment.update(rotate=0.0, translate=0.0, crop=(1.0, 1.0), erase=0.0, mixup=0.0)
    config.optim.update(name="adamw", learning_rate=0.003, weight_decay=0.01, warmup_epochs=0.2)
    config.fit.update(epochs=8, batch_size=32, ema_decay=0.0)
