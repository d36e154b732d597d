"""ResNet-18 for gray 48×48 faces (11.17 million parameters; 3×3 stem, no max-pooling), on FER2013.

ferjax train --config resnet18
ferjax train --config resnet18:demo     embedded data, about 1 minute on 2 cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "resnet18"
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.8, 1.2), erase=0.5)
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.05, weight_decay=5e-4, warmup_epochs=1.0, decay_only=("kernel",))
    config.fit.update(epochs=100, batch_size=128)
    return common.arguments(
        config, arg, demo=common.demo(epochs=1, train=800, held=200, batch_size=16, learning_rate=0.001)
    )
