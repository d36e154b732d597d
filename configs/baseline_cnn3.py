"""Three convolutions, Paraschiv's baseline (94 thousand parameters), on FER2013.

ferjax train --config baseline_cnn3
ferjax train --config baseline_cnn3:demo     embedded data, about 1 minute on 2 cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "baseline_cnn3"
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), erase=0.3)
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.05, weight_decay=5e-4, warmup_epochs=1.0, decay_only=("kernel",))
    config.fit.update(epochs=40, batch_size=64)
    return common.arguments(config, arg, demo=common.demo(epochs=6))
