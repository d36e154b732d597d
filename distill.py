"""Trains an emotion network with a teacher: python distill.py --config configs/resnet20.py --teacher WORKDIR.

The same as `ferjax distill`, which --help describes.
"""

from ferjax.__main__ import run

if __name__ == "__main__":
    run("distill")
