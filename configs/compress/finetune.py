"""Trains a compressed network on: whatever network a run holds, slimmed, pruned, folded or quantised.

ferjax compress --model runs/resnet20 --macs 0.5 --out runs/slim
python train.py --config configs/compress/finetune.py --config.init.workdir=runs/slim
python distill.py --config configs/compress/finetune.py --config.init.workdir=runs/slim --teacher runs/resnet20
python train.py --config configs/compress/finetune.py:demo     embedded data, about a minute: ResNet-20 afresh
python train.py --config configs/compress/finetune.py:demo --config.init.network=True --config.init.workdir=runs/slim

The network is the run's, widths included, and what is zero stays zero. A run that is quantised goes on so with
`--config.quant.bits=8` (or 4). SGD with Nesterov momentum from a tenth of the usual rate, by cosine, and the mild
augmentation of configs/resnet20.py. Any other recipe does the same with `--config.init.network=True`.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.train_on(config)
    config.prune.keep_zeros = True
    return common.arguments(config, arg, demo=common.train_on_demo)
