"""DeiT-Tiny with a distillation token (5.5 million parameters), 8-pixel patches of 48×48 faces, on FER2013.

ferjax train --config deit_tiny
ferjax train --config deit_tiny:demo     embedded data, about 1 minute on 2 cores
ferjax distill --config deit_tiny --teacher runs/resnet18

With a teacher, the head of the distillation token learns the teacher's class. Without one, the mean of both heads
learns the labels.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "deit_tiny_distilled"
    config.model.update(patch=8, grid=(6, 6))
    config.loss.method = "hard"  # used with a teacher: Touvron et al. 2021, eq. 3
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), erase=0.3)
    config.loss.label_smoothing = 0.1
    config.optim.update(
        name="adamw", learning_rate=1e-3, weight_decay=0.05, warmup_epochs=5.0, decay_only=("kernel",), clip_norm=1.0
    )
    config.fit.update(epochs=150, batch_size=64, ema_decay=0.999)
    return common.arguments(
        config, arg, demo=common.demo(epochs=2, train=400, held=140, batch_size=16, learning_rate=0.001)
    )
