"""Measures the latency of exported files beside the same networks exported from PyTorch, in one run.

    python export.py --model WORKDIR --out DIR --format tflite onnx --quantization none int8
    python -m benchmarks.speed.torch_export DIR                    one row for each network and number of threads

PyTorch's file is `torch.onnx.export` of the network in `torch_models`, in evaluation mode with constants and
BatchNorm folded. All files run in the same onnxruntime (or LiteRT) with the same threads and options, each
in a process of its own, and take turns in blocks: 1,000 passes after 100 to warm up. Shown are medians over the passes
and their ratios. The quantized file is the fastest one, in whichever runtime. Do not run it beside a training.
"""

import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ferjax import cli, errors
from ferjax.evaluate.benchmark import facts, measuring
from ferjax.spec import ModelSpec
from tools import tables

COLUMNS = (
    ("network", "{network}"),
    ("threads", "{threads}"),
    ("PyTorch float32, ms", "{torch:.3f}"),
    ("ferjax float32, ms", "{onnx:.3f}"),
    ("fastest quantized file", "{fastest}"),
    ("its ms", "{int8:.3f}"),
    ("PyTorch / quantized", "{torch_over_int8:.2f}"),
)
FLOAT = ("none", "float16")  # these compute in float32

Files = Mapping[pathlib.Path, ModelSpec]


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument(
        "exports", nargs="+", type=pathlib.Path, metavar="DIR", help="folders that export.py has written"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--passes", type=int, default=1000)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for network, files in by_network(args.exports).items():
            reference = export_torch(network, next(iter(files.values())), pathlib.Path(scratch) / f"{network}.onnx")
            rows += [measure(network, files, reference, threads, args.passes) for threads in args.threads]
    command = tables.command("benchmarks.speed.torch_export")
    packages = ["onnxruntime", "ai-edge-litert", "torch", "jax"]
    table = tables.save("export_latency", COLUMNS, rows, command=command, packages=packages, results=args.results)
    print(tables.render(table))


def by_network(folders: Sequence[pathlib.Path]) -> dict[str, Files]:
    """Returns the exported files by the name of their network, each with its spec.

    Raises:
      InputError: if there are none, or a network lacks its float32 .onnx file.
    """
    found: dict[str, dict[pathlib.Path, ModelSpec]] = {}
    for folder in folders:
        for path in sorted([*folder.glob("*.tflite"), *folder.glob("*.onnx")]):
            spec = facts.read_spec(path)
            if spec is not None:
                found.setdefault(spec.architecture, {})[path] = spec
    if not found:
        raise errors.InputError(f"no exported file in {', '.join(map(str, folders))}; run python export.py first")
    for network, files in found.items():
        if not any(_is_float_onnx(path, spec) for path, spec in files.items()):
            raise errors.InputError(f"{network} lacks its float32 .onnx file: export it with --quantization none")
    return dict(found)


def export_torch(network: str, spec: ModelSpec, path: pathlib.Path) -> pathlib.Path:
    """Writes the same network from PyTorch, with random weights, as ONNX.

    Raises:
      InputError: if PyTorch has no such network, or not with these arguments, or its network has another number of
        parameters than ours.
    """
    import torch

    from benchmarks.speed import torch_models

    if network not in torch_models.list_models():
        raise errors.unknown("network for PyTorch", network, torch_models.list_models())
    torch.manual_seed(0)
    try:
        model = torch_models.create(network, len(spec.class_names), **spec.architecture_args).eval()
    except TypeError as error:
        given = ", ".join(spec.architecture_args)
        raise errors.InputError(f"PyTorch's {network} has no {given}: export one without") from error
    parameters = sum(p.numel() for p in model.parameters())
    if parameters != spec.parameters:
        raise errors.InputError(
            f"{network} has {spec.parameters:,} parameters, PyTorch's {parameters:,}: not the same network"
        )
    height, width, channels = spec.input_shape
    # The other exporter, dynamo=True, needs onnxscript.
    torch.onnx.export(model, (torch.zeros(1, channels, height, width),), str(path), opset_version=18, dynamo=False)
    return path


def measure(network: str, files: Files, reference: pathlib.Path, threads: int, passes: int) -> dict[str, Any]:
    """Returns one row: medians in ms of PyTorch's file, our float32 .onnx file and our fastest integer file."""
    chosen = measuring.contenders([reference, *files], ["cpu"])
    timings = measuring.measure(chosen, threads=threads, passes=passes)
    medians = {contender.path: timing["p50_ms"] for contender, timing in zip(chosen, timings, strict=True)}
    onnx = min(medians[path] for path, spec in files.items() if _is_float_onnx(path, spec))
    integer = {path: medians[path] for path, spec in files.items() if spec.quantization not in FLOAT}
    fastest = min(integer, key=lambda path: integer[path]) if integer else None
    int8 = integer[fastest] if fastest else None
    return {
        "name": f"{network}, {threads}",
        "network": network,
        "threads": threads,
        "passes": passes,
        "torch": medians[reference],
        "onnx": onnx,
        "onnx_over_torch": onnx / medians[reference],
        "fastest": fastest.name if fastest else None,
        "int8": int8,
        "torch_over_int8": medians[reference] / int8 if int8 else None,
        "all": {path.name: round(median, 4) for path, median in medians.items() if path != reference},
    }


def _is_float_onnx(path: pathlib.Path, spec: ModelSpec) -> bool:
    return path.suffix == ".onnx" and spec.quantization == "none"


if __name__ == "__main__":
    cli.run(main)
