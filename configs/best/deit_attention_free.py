"""Qin's small DeiT, four layers, 8-pixel patches, trained with a strong recipe: long, with heavy augmentation.

ferjax train --config best/deit_attention_free
ferjax distill --config best/deit_attention_free --teacher runs/best-resnet18      with a teacher
ferjax train --config best/deit_attention_free:demo     embedded data, about 1 minute on 2 cores

AdamW (Touvron et al. 2021, table 9), cosine, 300 epochs; flip, rotation ±10°, shift 10 %,
crop 0.8 to 1.2, erasing 0.25, mixup 0.2, label smoothing 0.1, moving average of the weights.

Select epochs on the validation split. Report test-time augmentation in addition to the single crop.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "deit_attention_free"
    config.model.update(patch=8, grid=(6, 6), depth=4)
    config.augment.update(flip=0.5, rotate=10.0, translate=0.1, crop=(0.8, 1.2), erase=0.25, mixup=0.2)
    config.loss.label_smoothing = 0.1
    config.optim.update(
        name="adamw", learning_rate=1e-3, weight_decay=0.05, warmup_epochs=10.0, decay_only=("kernel",), clip_norm=1.0
    )
    config.fit.update(epochs=300, batch_size=128, ema_decay=0.999)
    return common.arguments(config, arg, demo=common.demo(epochs=8))
