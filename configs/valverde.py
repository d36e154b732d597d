"""Valverde et al., "A Lightweight Facial Emotion Recognition System Using Network Optimization Methods": mini-Xception.

python train.py --config configs/valverde.py
python train.py --config configs/valverde.py:demo     embedded data, under a minute

250 epochs; FER2013 train 71.0, test 67.0; 58,423 parameters, which are mini-Xception's with its BatchNorm statistics.
Its pruning and quantisation while training belong to the compression recipes; this is the network they start from.

The paper gives nothing else. Our choice: 48x48 grey images, cross-entropy, Adam 1e-3 by cosine to 1e-5, batch 64, and
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
