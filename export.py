"""Turns a trained network into TFLite and ONNX files, proves that they compute what was trained, says which to ship.

    python export.py --model runs/resnet20 --out exports/resnet20
    python export.py --model runs/resnet20 --out exports/small --format tflite --quantization int8 weight-only

A file that departs from the checkpoint by more than its kind may is removed, and the report says where it departs.
"""

import argparse
import pathlib
import shlex
from collections.abc import Sequence

from ferjax import cli, export


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and exports."""
    parser = argparse.ArgumentParser(
        prog="python export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the --workdir of a training run, or its .safetensors")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the files and export.json")
    parser.add_argument(
        "--format", nargs="+", metavar="NAME", help=f"{', '.join(export.list_formats())}; all if not given"
    )
    quantizations = ", ".join(export.list_quantizations())
    parser.add_argument(
        "--quantization", nargs="+", metavar="NAME", help=f"{quantizations}; all that suit the network if not given"
    )
    parser.add_argument("--data-dir", help="where prepared data lies; $FERJAX_DATA or the cache if not given")
    parser.add_argument("--images", type=int, default=0, help="validation images to compare on; all if not given")
    parser.add_argument("--overwrite", action="store_true", help="replace the export in --out")
    options = parser.parse_args(argv)
    results = export.export(
        options.model,
        options.out,
        wanted_formats=options.format,
        wanted_quantizations=options.quantization,
        data_dir=options.data_dir,
        images=options.images,
        overwrite=options.overwrite,
    )
    ship = export.best(results)
    print(export.table(results))
    print(f"\nship {options.out / ship.file}: {ship.milliseconds:.2f} ms per image, {ship.bytes:,} bytes")
    kinds = sorted({pathlib.Path(r.file).suffix for r in results if not r.faults}, reverse=True)
    print(f"next: python -m ferjax.benchmark {' '.join(f'{shlex.quote(str(options.out))}/*{kind}' for kind in kinds)}")


if __name__ == "__main__":
    cli.run(main)
