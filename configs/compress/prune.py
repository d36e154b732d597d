"""Prunes a network during fine-tuning: 80 % of its weights, by global magnitude.

ferjax train --config compress/prune --config.init.workdir=runs/resnet20
ferjax train --config compress/prune:s90 --config.init.workdir=runs/resnet20     also s50
ferjax train --config compress/prune:filter --config.init.workdir=runs/resnet20     half of the channels
ferjax compress --model runs/compress-prune-filter --dead --out runs/slim     removes them
ferjax train --config compress/prune:demo     embedded data, about 1 minute: ResNet-20 afresh

Sparsity rises over the first half of training (Zhu & Gupta 2017), with one threshold for all layers. The best epoch is
selected among those of full sparsity. Zeros alone make neither the file smaller nor inference faster; removed channels
do both.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.finetune(config)
    config.prune.update(sparsity=0.8, ramp_epochs=7.5)
    shares = {"s50": 0.5, "s80": 0.8, "s90": 0.9}
    known = {name: lambda config, share=share: config.prune.update(sparsity=share) for name, share in shares.items()}
    return common.arguments(config, arg, filter=filters, demo=demo, **known)


def filters(config):
    config.prune.update(sparsity=0.5, structure="filter", score="gradient_weight", keep=("^head/",))


def demo(config):
    common.finetune_demo(config)
    config.prune.ramp_epochs = 1.0
