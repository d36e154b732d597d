"""Trains a network on with quantisation: every weight and activation rounded as the integer file will round it.

python train.py --config configs/compress/qat.py --config.init.workdir=runs/resnet20
python train.py --config configs/compress/qat.py:int4 --config.init.workdir=runs/resnet20     weights of 4 bits
python export.py --model runs/compress-qat --out exports/qat --quantization qat
python train.py --config configs/compress/qat.py:demo     embedded data, about a minute: ResNet-20 afresh

Normalisations are folded into the layers before them first (Jacob et al. 2018, section 3.2), ranges start from 256
training images, move with the batches and stay for the last third, so that the weights settle in the grid that is
shipped. Without normalisations the rate is a tenth of fine-tuning's.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.train_on(config)
    config.optim.update(learning_rate=0.001, clip_norm=1.0)
    config.quant.update(bits=8, freeze_epochs=10.0)
    config.prune.keep_zeros = True
    return common.arguments(config, arg, int4=int4, demo=demo)


def int4(config):
    config.quant.bits = 4


def demo(config):
    common.train_on_demo(config)
    config.quant.freeze_epochs = 1.0
