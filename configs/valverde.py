"""Valverde et al., "A Lightweight Facial Emotion Recognition System Using Network Optimization Methods": mini-Xception.

ferjax train --config valverde
ferjax train --config valverde:demo     embedded data, less than 1 minute

The paper: 250 epochs, FER2013 train 71.0, test 67.0; 58,423 parameters, BatchNorm statistics included. Its pruning and
quantization-aware training are in configs/compress/joint.py, which starts from this network.

Not given in the paper, chosen here: 48×48 gray images, cross-entropy, Adam 1e-3 by cosine to 1e-5, batch 64, and
the augmentation of the network's authors (Arriaga et al. 2017): rotation of 10 degrees, shifts of a tenth, crops of 0.9
to 1.1, flips.
"""

from configs import common

PAPER = {"": 67.0}


def get_config(arg=None):
    config = common.base()
    common.reset(config, "mini_xception")
    config.augment.update(flip=0.5, rotate=10.0, translate=0.1, crop=(0.9, 1.1))
    config.optim.update(name="adam", learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-5)
    config.fit.update(epochs=250, batch_size=64)
    return common.arguments(config, arg, demo=common.quick)
