"""A MicroExpNet (1.24 million parameters) for the package: a student of EfficientNet-Lite0, robust to cameras.

ferjax train --config efficientnet_lite0 --workdir runs/teacher    # 1.5 h
ferjax distill --config ship/microexpnet --teacher runs/teacher --workdir runs/ship/microexpnet    # 0.7 h
ferjax calibrate --model runs/ship/microexpnet --accuracy 0.75
ferjax export --model runs/ship/microexpnet --out exports/micro --format tflite onnx --overwrite
python -m tools.ship --name microexpnet --model runs/ship/microexpnet --file exports/micro/microexpnet_dynamic.tflite
ferjax distill --config ship/microexpnet:demo --teacher runs/efficientnet_lite0-demo     embedded data

Needs `ferjax prepare fer2013` and the weights of configs/efficientnet_lite0.py.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.update(name="microexpnet", stem_stride=1)
    common.student(config)
    config.optim.update(name="adamw", learning_rate=2e-3, weight_decay=0.05, clip_norm=1.0)
    config.fit.epochs = 60
    return common.arguments(config, arg, demo=common.demo(epochs=6, warmup_epochs=1.0))
