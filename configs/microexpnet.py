"""MicroExpNet (Rejina 2026): MobileNetV3-Small's features, attention over the last map, a small head (1.24 M).

python train.py --config configs/microexpnet.py                 our recipe, stem at stride 1, on FER2013
python train.py --config configs/microexpnet.py:demo            embedded data, about a minute on two cores
python train.py --config configs/microexpnet.py:teacher         the paper's teacher: ResNet-50 from VGGFace2
python train.py --config configs/microexpnet.py:baseline        the paper's ablation, its recipe and its stem …
python train.py --config configs/microexpnet.py:se
python distill.py --config configs/microexpnet.py:full --teacher runs/microexpnet-teacher
python train.py --config configs/microexpnet.py:baseline,demo   … and quickly, on embedded data

Our recipe has stride 1 in the stem: the published stride of 2 five times leaves a 48-pixel face a map of 2x2.

The paper's figures, FER2013, called validation in one table and test in another: baseline (plain MobileNetV3-Small)
67.0, se (attention after the last map, r = 4) 68.4, kd and full 71.2; kd is without mixup ("disabling it drops accuracy
by 0.6": 70.6); the teacher 74.8. Its baseline has MobileNetV3-Small's 0.93 M parameters, so no head of 256: the head
comes with "full", and baseline, se and kd have one linear layer.

Left open by the paper, our choice: the ImageNet or random start of the student (random); the teacher's 48-pixel grey
faces copied to three colours, so that the student's --config.teacher.resize=True is set here; its weights are
VGGFace2's resnet50_ft_weight.pkl in weights/ (or :teacher,scratch).
"""

from configs import common

PAPER = {"baseline": 67.0, "se": 68.4, "kd": 70.6, "full": 71.2, "teacher": 74.8}


def get_config(arg=None):
    config = common.base()
    config.model.name = "microexpnet"
    config.model.stem_stride = 1
    config.augment.update(rotate=10.0, translate=0.1, crop=(0.85, 1.15), brightness=0.1, contrast=0.1, erase=0.4)
    config.loss.label_smoothing = 0.1
    config.optim.update(name="sgd", learning_rate=0.05, weight_decay=5e-4, warmup_epochs=1.0, decay_only=("kernel",))
    config.fit.update(epochs=60, batch_size=64, ema_decay=0.999)
    arms = {"baseline": baseline, "se": se, "kd": kd, "full": full, "teacher": teacher}
    short = common.quick if set(PAPER) & set((arg or "").split(",")) else common.demo(epochs=6, warmup_epochs=1.0)
    return common.arguments(config, arg, **arms, scratch=common.scratch, demo=short)


def baseline(config):
    common.reset(config, "mobilenetv3_small")
    config.model.update(head_hidden=(), head_dropout=(0.4,))
    config.augment.update(flip=0.5, rotate=15.0, brightness=0.2, contrast=0.2, erase=0.15, erase_area=(0.02, 0.20))
    config.optim.update(name="adam", learning_rate=1e-3, schedule="cosine", final_learning_rate=1e-5)
    config.fit.update(epochs=80, batch_size=64, patience=15)


def se(config):
    baseline(config)
    config.model.attention = 144


def kd(config):
    se(config)
    config.loss.update(method="soft", alpha=0.7, temperature=4.0)
    config.teacher.resize = True


def full(config):
    kd(config)
    config.model.update(head_hidden=(256,), head_dropout=(0.0, 0.4), head_act="relu")
    config.augment.mixup = 0.2


def teacher(config):
    baseline(config)
    config.data.channels = 3
    del config.model["head_hidden"], config.model["head_dropout"]
    config.model.name = "resnet50_caffe"
    config.augment.mixup = 0.2
    config.init.pretrained = "weights/resnet50_ft_weight.pkl"
    config.fit.epochs = 50
