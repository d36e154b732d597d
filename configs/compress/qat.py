"""Fine-tunes a network with quantization-aware training, with the rounding of the exported integer file.

ferjax train --config compress/qat --config.init.workdir=runs/resnet20
ferjax train --config compress/qat:int4 --config.init.workdir=runs/resnet20     4-bit weights
ferjax export --model runs/compress-qat --out exports/qat --quantization qat
ferjax train --config compress/qat:demo     embedded data, about 1 minute: ResNet-20 afresh

Normalizations are folded first (Jacob et al. 2018, section 3.2). Ranges are calibrated on 256 training images, follow
the batches as a moving average, and stay fixed for the last third, so that the weights converge on the final grid.
Without normalizations, the learning rate is a tenth of that of fine-tuning.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.finetune(config)
    config.optim.update(learning_rate=0.001, clip_norm=1.0)
    config.quant.update(bits=8, freeze_epochs=10.0)
    config.prune.keep_zeros = True
    return common.arguments(config, arg, int4=int4, demo=demo)


def int4(config):
    config.quant.bits = 4


def demo(config):
    common.finetune_demo(config)
    config.quant.freeze_epochs = 1.0
