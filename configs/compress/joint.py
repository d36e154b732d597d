"""Prunes, quantizes and distills in one training (Valverde et al.): mini-Xception, 50 % sparse, 8 bits.

ferjax distill --config compress/joint --config.init.workdir=runs/valverde --teacher runs/best-resnet18
ferjax export --model runs/compress-joint-distilled --out exports/joint --quantization qat
ferjax distill --config compress/joint:demo --teacher runs/resnet20-demo     embedded data, about 1 minute

One compiled step does all three. The paper prunes and quantizes from the first of its 250 epochs. This recipe starts
from a trained network, because quantization requires folded normalizations.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.finetune(config)
    config.model.name = "mini_xception"
    config.optim.update(name="adam", learning_rate=1e-4, weight_decay=0.0, clip_norm=1.0)
    config.loss.update(label_smoothing=0.0, alpha=0.7, temperature=4.0)
    config.quant.update(bits=8, freeze_epochs=10.0)
    config.prune.update(sparsity=0.5, ramp_epochs=7.5, keep_zeros=True)
    return common.arguments(config, arg, demo=demo)


def demo(config):
    common.finetune_demo(config)
    config.quant.freeze_epochs = 1.0
    config.prune.ramp_epochs = 1.0
