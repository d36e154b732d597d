"""ResNet-20, Qin's "Small ResNet" (0.27 million parameters), on FER2013.

ferjax train --config resnet20          40 minutes on 2 cores with the extra onednn, 63.9 % on validation (int8 file)
ferjax train --config resnet20:demo     embedded data, about 1 minute on 2 cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "resnet20"
    config.augment.update(rotate=10.0, translate=0.08, crop=(0.9, 1.1))
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4, warmup_epochs=0.5, decay_only=("kernel",))
    config.fit.update(epochs=15, batch_size=64)
    return common.arguments(config, arg, demo=common.demo(epochs=4, warmup_epochs=0.5))
