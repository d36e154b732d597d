"""Exports a trained network: python export.py --model runs/resnet20 --out exports/resnet20.

The same as `ferjax export`, which --help describes.
"""

from ferjax.__main__ import run

if __name__ == "__main__":
    run("export")
