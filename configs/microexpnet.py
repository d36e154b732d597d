"""MicroExpNet (1.24 M parameters) on FER2013: MobileNetV3-Small's features, attention over the last map, a small head.

python train.py --config configs/microexpnet.py
python train.py --config configs/microexpnet.py:demo     embedded data, about a minute on two cores

The stem's stride is 1: the published stride of 2 five times leaves a 48-pixel face a map of 2x2.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "microexpnet"
    config.model.stem_stride = 1
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), brightness=0.1, contrast=0.1, erase=0.4)
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.05, weight_decay=5e-4, warmup_epochs=1.0, decay_only=("kernel",))
    config.fit.update(epochs=60, batch_size=64, ema_decay=0.999)
    return common.arguments(config, arg, demo=demo)


def demo(config):
    common.embedded(config, train=2000, validation=500, test=500)
    config.augment.update(rotate=0.0, translate=0.0, crop=(1.0, 1.0), erase=0.0)
    config.optim.update(name="adamw", learning_rate=0.003, weight_decay=0.01)
    config.fit.update(epochs=6, batch_size=32, ema_decay=0.0)
