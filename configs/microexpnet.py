"""MicroExpNet (Rejina 2026): MobileNetV3-Small's features, attention over the last map, a small head (1.24 million).

ferjax train --config microexpnet                 our recipe on FER2013
ferjax train --config microexpnet:demo            embedded data, about 1 minute on 2 cores
ferjax train --config microexpnet:teacher         the paper's teacher: ResNet-50 from VGGFace2
ferjax train --config microexpnet:baseline        the paper's ablation, with its recipe and its stem
ferjax train --config microexpnet:se
ferjax distill --config microexpnet:full --teacher runs/microexpnet-teacher
ferjax train --config microexpnet:baseline,demo   the ablation on embedded data

Our recipe sets the stem's stride to 1. With five strides of 2, as published, a 48-pixel face becomes a map of 2×2.

The paper's accuracy on FER2013, called validation in one table and test in another: baseline (MobileNetV3-Small) 67.0,
se (attention after the last map, r = 4) 68.4, kd and full 71.2; teacher 74.8. kd has no mixup ("disabling it drops
accuracy by 0.6": 70.6). The paper's baseline has MobileNetV3-Small's 0.93 million parameters, so it cannot have the
head of 256. Here only "full" has that head; baseline, se and kd have one linear layer.

Not given in the paper, chosen here: a randomly initialized student; gray 48-pixel faces copied to three colors for the
teacher (teacher.resize). The teacher's weights are VGGFace2's weights/resnet50_ft_weight.pkl (or use :teacher,scratch).
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
