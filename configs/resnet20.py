"""ResNet-20, Qin's "Small ResNet" (0.27 M parameters), on FER2013.

python train.py --config configs/resnet20.py
python train.py --config configs/resnet20.py:demo     embedded data, about a minute on two cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "resnet20"
    config.augment.update(rotate=10.0, translate=0.08, crop=(0.9, 1.1))
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4, warmup_epochs=0.5, decay_only=("kernel",))
    config.fit.update(epochs=15, batch_size=64)
    return common.arguments(config, arg, demo=demo)


def demo(config):
    common.embedded(config, train=2000, validation=500, test=500)
    config.augment.update(rotate=0.0, translate=0.0, crop=(1.0, 1.0))
    config.optim.update(name="adamw", learning_rate=0.003, weight_decay=0.01)  # SGD is not there yet after 250 steps
    config.fit.update(epochs=4, batch_size=32)
