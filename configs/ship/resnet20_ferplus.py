"""A ResNet-20 for the package with the eight classes of FER+: continues `resnet20` and learns from votes.

ferjax train --config efficientnet_lite0 --workdir runs/teacher    # 1.5 h
ferjax distill --config ship/resnet20 --teacher runs/teacher --workdir runs/ship/resnet20_first    # 2 h
ferjax distill --config ship/resnet20:second --teacher runs/teacher --workdir runs/ship/resnet20    # 1.5 h
ferjax train --config efficientnet_lite0:ferplus,tuned --workdir runs/plus_teacher    # 0.8 h
ferjax distill --config ship/resnet20_ferplus --teacher runs/plus_teacher --workdir runs/ship/plus    # 1 h
ferjax calibrate --model runs/ship/plus --accuracy 0.75
ferjax export --model runs/ship/plus --out exports/plus --format tflite onnx --overwrite
python -m tools.ship --name resnet20_ferplus --model runs/ship/plus --file exports/plus/resnet20_int8.tflite
ferjax distill --config ship/resnet20_ferplus:demo --teacher runs/efficientnet_lite0-demo     embedded data

Needs both data sets (`ferjax prepare fer2013`, `ferjax prepare ferplus`) and the weights of
configs/efficientnet_lite0.py.
"""

from configs import common
from configs.ship import resnet20


def get_config(arg=None):
    config = resnet20.get_config("second")
    config.init.workdir = "runs/ship/resnet20"
    config.fit.epochs = 25
    common.ferplus(config)
    return common.arguments(config, arg, demo=common.demo(epochs=4))
