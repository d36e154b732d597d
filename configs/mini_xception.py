"""mini-Xception (56 thousand parameters; 58,423 with BatchNorm statistics), on FER2013.

ferjax train --config mini_xception
ferjax train --config mini_xception:demo     embedded data, about 1 minute on 2 cores
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
    return common.arguments(config, arg, demo=common.demo(epochs=8))
