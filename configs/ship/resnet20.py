"""A ResNet-20 (0.27 million parameters) for the package: a student of EfficientNet-Lite0, robust to cameras.

ferjax train --config efficientnet_lite0 --workdir runs/teacher    # 1.5 h
ferjax distill --config ship/resnet20 --teacher runs/teacher --workdir runs/ship/resnet20_first    # 2 h
ferjax distill --config ship/resnet20:second --teacher runs/teacher --workdir runs/ship/resnet20    # 1.5 h
ferjax calibrate --model runs/ship/resnet20 --accuracy 0.75
ferjax export --model runs/ship/resnet20 --out exports/ship/resnet20 --format tflite onnx --overwrite
python -m tools.ship --name resnet20 --model runs/ship/resnet20 --file exports/ship/resnet20/resnet20_int8.tflite
ferjax distill --config ship/resnet20:demo --teacher runs/efficientnet_lite0-demo     embedded data

Needs `ferjax prepare fer2013` and the weights of configs/efficientnet_lite0.py. `python -m tools.rebuild resnet20` runs
all commands but the demo, and continues where it was stopped. The hours are those of two idle cores with the extra
onednn.
"""

from configs import common


def get_config(arg=None):
    config = common.base()
    config.model.name = "resnet20"
    common.student(config)
    config.camera.probability = 0.25
    config.optim.update(learning_rate=0.05, weight_decay=5e-4)
    config.fit.epochs = 60
    return common.arguments(config, arg, second=second, demo=common.demo(epochs=4))


def second(config):
    """Continues the run of the first stage with fewer faults: a small network underfits with many."""
    config.init.workdir = "runs/ship/resnet20_first"
    config.camera.probability = 0.1
    config.optim.learning_rate = 0.03
    config.fit.epochs = 45
