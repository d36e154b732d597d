"""Tormalm, "Emotion Recognition using Deep Learning Techniques": ResNet-18 from ImageNet, head first, then two blocks.

ferjax train --config tormalm              the full system at 224 pixels
ferjax train --config tormalm:noaug        without augmentation
ferjax train --config tormalm:48           at 48 pixels
ferjax train --config tormalm:full,demo    embedded data, less than 1 minute

The paper's accuracy on PublicTest and PrivateTest together (ferjax evaluate --split test_all): full 68.3, macro-F1
0.663; noaug 3 to 4 points lower; 48 "slightly" lower than 224, without a figure.

Not given in the paper, chosen here: the loss (cross-entropy), a constant learning rate, 3 of the 10 epochs for the head
alone, rotation of 10 degrees, crops of 0.9 to 1 of the side, brightness ± 0.1. "The last two residual blocks" are both
blocks of the last stage, with their BatchNorm. ImageNet weights: torchvision's resnet18-f37072fd.pth in weights/ (or
add scratch to the arguments). At 224 pixels in three colors, FER2013's training images take 4.3 GB, more than
data.resident_bytes: they stay on disk and are resized while they are read.
"""

from configs import common

PAPER = {"full": 68.3, "noaug": None, "224": 68.3, "48": None}


def get_config(arg=None):
    config = common.base()
    full(config)
    arms = {"full": full, "noaug": noaug, "48": small, "224": full}
    return common.arguments(config, arg, **arms, scratch=common.scratch, demo=common.quick)


def full(config):
    common.reset(config, "resnet18_imagenet")
    config.data.update(size=224, channels=3)
    config.init.update(pretrained="weights/resnet18-f37072fd.pth", preprocessing="data")  # zero mean, unit variance
    config.augment.update(flip=0.5, rotate=10.0, crop=(0.9, 1.0), brightness=0.1)
    config.optim.update(name="adam", learning_rate=1e-3, schedule="constant", weight_decay=1e-4)
    config.optim.stages = ((3, ("^head/",)), (None, ("^head/", "^layer4_0/", "^layer4_1/")))
    config.fit.update(epochs=10, batch_size=32)


def noaug(config):
    full(config)
    config.augment.update(flip=0.0, rotate=0.0, crop=(1.0, 1.0), brightness=0.0)


def small(config):
    full(config)
    config.data.size = 48
