"""Measures what this processor reaches in matrix products: the limit that training and inference are compared with.

    python -m benchmarks.speed.peak

ONNX Runtime multiplies square matrices, in float32 (MatMul) and in int8 (MatMulInteger), on one thread and on all
cores. The best of the rounds counts. One multiply-accumulate is two operations.
"""

import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.speed import turns
from ferjax import cli
from tools import tables

# ONNX operation, types of its inputs and output.
PRODUCTS = {
    "float32": ("MatMul", (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT)),
    "int8": ("MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)),
}
COLUMNS = (("numbers", "{numbers}"), ("threads", "{threads}"), ("billion operations per second", "{gops:.0f}"))


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--side", type=int, default=1536, help="rows and columns of the matrices")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    rows = [
        {
            "name": f"{numbers}, {threads} threads",
            "numbers": numbers,
            "threads": threads,
            "gops": operations(numbers, threads, side=args.side, rounds=args.rounds) / 1e9,
        }
        for numbers in PRODUCTS
        for threads in sorted({1, os.cpu_count() or 1})
    ]
    packages = ["onnxruntime", "numpy"]
    command = tables.command("benchmarks.speed.peak")
    print(tables.render(tables.save("peak", COLUMNS, rows, command=command, packages=packages, results=args.results)))


def operations(numbers: str, threads: int, *, side: int = 1536, rounds: int = 20) -> float:
    """Returns the operations per second of a product of two square matrices.

    Args:
      numbers: of `PRODUCTS`.
      threads: threads of ONNX Runtime.
      side: rows and columns.
      rounds: products; the fastest counts.
    """
    operation, types = PRODUCTS[numbers]
    left, right, result = (
        helper.make_tensor_value_info(name, kind, [side, side]) for name, kind in zip("abc", types, strict=True)
    )
    graph = helper.make_graph([helper.make_node(operation, ["a", "b"], ["c"])], "product", [left, right], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {
        name: np.ones((side, side), helper.tensor_dtype_to_np_dtype(kind))
        for name, kind in zip("ab", types, strict=False)
    }

    def block(count: int) -> None:
        for _ in range(count):
            session.run(None, given)

    block(2)
    return 2 * side**3 / min(turns.seconds(block, 1) for _ in range(rounds))


if __name__ == "__main__":
    cli.run(main)
