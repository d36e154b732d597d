"""What one process of test_processes.py does.

python tests/support/joining.py WHAT SECONDS [HOST:PORT COUNT NUMBER]
"""

import json
import pathlib
import sys

import jax
import ml_dtypes
import numpy as np

from ferjax import cli
from ferjax.train import distributed


def trees(number):
    """Returns arrays that differ between processes, in all that a broadcast could get wrong."""
    return {
        "wide": np.array([-0.0, 0.1, np.nan, 3e-320]) if number == 0 else np.full(4, float(number)),
        "step": np.int32(7 + number),
        "none": np.zeros((0, 2)),
        "mask": np.array([number == 0]),
        "half": np.full((2, 3), 1 + number, ml_dtypes.bfloat16),
    }


def values(number):
    return {"name": "ä" * 5000 if number == 0 else "", "loss": 0.1 + number}


def described(tree):
    return {name: [str(leaf.dtype), list(leaf.shape), leaf.tobytes().hex()] for name, leaf in tree.items()}


def exchange():
    """Says what it got, then disagrees."""
    me = jax.process_index()
    got = [described(distributed.arrays_of_first(trees(me))), distributed.value_of_first(values(me))]
    distributed.say("process 0 speaks")
    distributed.agree("configuration", {"fit": {"epochs": 3}})
    print("got " + json.dumps([me, *got, distributed.all_or_none(lambda: me)]), flush=True)
    distributed.agree("configuration", {"fit": {"epochs": 3} | ({"batch_size": 32} if me else {})})


def fail():
    distributed.all_or_none(lambda: pathlib.Path("nowhere").read_bytes() if jax.process_index() else None)


def main(what, seconds, coordinator=None, count=None, number=None):
    place = (coordinator, int(count), int(number)) if coordinator else ()
    print("joining", flush=True)
    with distributed.joined(*place, seconds=float(seconds)):
        {"exchange": exchange, "fail": fail, "nothing": lambda: None}[what]()


if __name__ == "__main__":
    cli.run(lambda: main(*sys.argv[1:]))
