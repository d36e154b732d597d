"""A mini-Xception (57 thousand parameters) for the package: a student of EfficientNet-Lite0, robust to cameras.

ferjax train --config efficientnet_lite0 --workdir runs/teacher    # 1.5 h
ferjax distill --config ship/mini_xception --teacher runs/teacher --workdir runs/ship/mini_xception    # 1 h
ferjax calibrate --model runs/ship/mini_xception --accuracy 0.75
ferjax export --model runs/ship/mini_xception --out exports/mini --format tflite onnx --overwrite
python -m tools.ship --name mini_xception --model runs/ship/mini_xception --file exports/mini/mini_xception_int8.tflite
ferjax distill --config ship/mini_xception:demo --teacher runs/efficientnet_lite0-demo     embedded data

Needs `ferjax prepare fer2013` and the weights of configs/efficientnet_lite0.py.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "mini_xception"
    common.student(config)
    config.optim.update(name="adamw", learning_rate=3e-3, weight_decay=0.05, clip_norm=1.0)
    config.fit.epochs = 60
    return common.arguments(config, arg, demo=common.demo(epochs=8))
