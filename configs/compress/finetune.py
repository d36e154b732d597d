"""Fine-tunes a compressed network: slimmed, pruned, folded or quantized.

ferjax compress --model runs/resnet20 --macs 0.5 --out runs/slim
ferjax train --config compress/finetune --config.init.workdir=runs/slim
ferjax distill --config compress/finetune --config.init.workdir=runs/slim --teacher runs/resnet20
ferjax train --config compress/finetune:demo     embedded data, about 1 minute: ResNet-20 afresh
ferjax train --config compress/finetune:demo --config.init.network=True --config.init.workdir=runs/slim

The network is that of the run, widths included. Weights that are zero stay zero. For a quantized run, set
`--config.quant.bits=8` (or 4). SGD with Nesterov momentum from a tenth of the usual learning rate, cosine, and the mild
augmentation of configs/resnet20.py. `--config.init.network=True` fine-tunes with any other recipe.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.finetune(config)
    config.prune.keep_zeros = True
    return common.arguments(config, arg, demo=common.finetune_demo)
