"""ResNet-20, trained with a strong recipe: long, with heavy augmentation.

ferjax train --config best/resnet20
ferjax distill --config best/resnet20 --teacher runs/best-resnet18      with a teacher
ferjax train --config best/resnet20:demo     embedded data, about 1 minute on 2 cores

SGD with Nesterov momentum, cosine, 200 epochs; flip, rotation ±10°, shift 10 %, crop 0.8 to 1.2, erasing 0.5,
mixup 0.1, label smoothing 0.1, moving average of the weights.

Select epochs on the validation split. Report test-time augmentation in addition to the single crop.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "resnet20"
    config.augment.update(flip=0.5, rotate=10.0, translate=0.1, crop=(0.8, 1.2), erase=0.5, mixup=0.1)
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4, warmup_epochs=5.0, decay_only=("kernel",))
    config.fit.update(epochs=200, batch_size=128, ema_decay=0.999)
    return common.arguments(config, arg, demo=common.demo(epochs=4))
