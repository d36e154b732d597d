"""Classifies facial expressions live: python live.py --source 0.

The same as `ferjax live`, which --help describes.
"""

from ferjax.__main__ import run

if __name__ == "__main__":
    run("live")
