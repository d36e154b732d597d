"""Trains an emotion network: python train.py --config configs/resnet18.py.

The same as `ferjax train`, which --help describes.
"""

from ferjax.__main__ import run

if __name__ == "__main__":
    run("train")
