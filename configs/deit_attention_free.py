"""Qin's small DeiT without attention: four layers, 8-pixel patches of 48×48 faces, on FER2013.

ferjax train --config deit_attention_free
ferjax train --config deit_attention_free:demo     embedded data, about 1 minute on 2 cores
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "deit_attention_free"
    config.model.update(patch=8, grid=(6, 6), depth=4)
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), erase=0.3)
    config.loss.label_smoothing = 0.1
    config.optim.update(
        name="adamw", learning_rate=1e-3, weight_decay=0.05, warmup_epochs=5.0, decay_only=("kernel",), clip_norm=1.0
    )
    config.fit.update(epochs=150, batch_size=64, ema_decay=0.999)
    return common.arguments(config, arg, demo=common.demo(epochs=8))
