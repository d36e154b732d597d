"""Prunes and quantises in one training, as Valverde et al. do, and distils: mini-Xception, half its weights, in 8 bits.

python distill.py --config configs/compress/joint.py --config.init.workdir=runs/valverde --teacher runs/best-resnet18
python export.py --model runs/compress-joint-distilled --out exports/joint --quantization qat
python distill.py --config configs/compress/joint.py:demo --teacher runs/resnet20-demo     embedded data, about a minute

One compiled step does all three: the teacher's answers beside the labels, weights and activations rounded, pruned
weights at zero. Their paper prunes and quantises from the start of 250 epochs; here a trained network goes on, because
integers need its normalisations folded.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    common.train_on(config)
    config.model.name = "mini_xception"
    config.optim.update(name="adam", learning_rate=1e-4, weight_decay=0.0, clip_norm=1.0)
    config.loss.update(label_smoothing=0.0, alpha=0.7, temperature=4.0)
    config.quant.update(bits=8, freeze_epochs=10.0)
    config.prune.update(sparsity=0.5, ramp_epochs=7.5, keep_zeros=True)
    return common.arguments(config, arg, demo=demo)


def demo(config):
    common.train_on_demo(config)
    config.quant.freeze_epochs = 1.0
    config.prune.ramp_epochs = 1.0
