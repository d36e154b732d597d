"""Prunes a network while it trains on: 80 % of all weights at zero, wherever they matter least.

python train.py --config configs/compress/prune.py --config.init.workdir=runs/resnet20
python train.py --config configs/compress/prune.py:s90 --config.init.workdir=runs/resnet20     also s50
python train.py --config configs/compress/prune.py:filter --config.init.workdir=runs/resnet20     whole channels, half
ferjax compress --model runs/compress-prune-filter --dead --out runs/slim     which are then removed
python train.py --config configs/compress/prune.py:demo     embedded data, about a minute: ResNet-20 afresh

Sparsity rises over the first half (Zhu & Gupta 2017), one threshold on the magnitudes for all layers; the best epoch is
chosen among those that have it all. Zeros make a file no smaller by themselves and no runtime here faster: channels do.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.train_on(config)
    config.prune.update(sparsity=0.8, ramp_epochs=7.5)
    shares = {"s50": 0.5, "s80": 0.8, "s90": 0.9}
    known = {name: lambda config, share=share: config.prune.update(sparsity=share) for name, share in shares.items()}
    return common.arguments(config, arg, filter=filters, demo=demo, **known)


def filters(config):
    config.prune.update(sparsity=0.5, structure="filter", score="gradient_weight", keep=("^head/",))


def demo(config):
    common.train_on_demo(config)
    config.prune.ramp_epochs = 1.0
