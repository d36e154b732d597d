"""Exports a trained network to TFLite and ONNX files, compares each with the network, and recommends one.

    ferjax export --model runs/resnet20 --out exports/resnet20
    ferjax export --model runs/resnet20 --out exports/small --format tflite --quantization int8 weight-only
    ferjax export --model runs/resnet20 --out exports/server --format onnx --batch any

A file outside the tolerance of its quantization is removed; the report names the first layer that deviates.
"""

import pathlib
import shlex
from collections.abc import Sequence

from ferjax import cli, errors, export

_LARGEST_BATCH = 1024


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax export`."""
    parser = cli.parser("export", __doc__)
    cli.add_model(parser, files=False)
    cli.add_out(parser, "folder for the files and export.json")
    parser.add_argument(
        "--format", nargs="+", metavar="NAME", help=f"{', '.join(export.list_formats())} (default: all)"
    )
    quantizations = ", ".join(export.list_quantizations())
    parser.add_argument(
        "--quantization", nargs="+", metavar="NAME", help=f"{quantizations} (default: all for this network)"
    )
    parser.add_argument(
        "--batch", default="1", metavar="N", help="images in one run of an ONNX file, or any (default: 1)"
    )
    cli.add_data(parser)
    parser.add_argument("--images", type=int, default=0, help="validation images for the comparison (default: all)")
    cli.add_overwrite(parser)
    options = parser.parse_args(argv)
    results = export.export(
        options.model,
        options.out,
        wanted_formats=options.format,
        wanted_quantizations=options.quantization,
        dataset=options.data,
        data_dir=options.data_dir,
        images=options.images,
        batch_size=_batch_size(options.batch),
        overwrite=options.overwrite,
    )
    ship = export.best(results)
    print(export.table(results))
    print(f"\nship {options.out / ship.file}: {ship.milliseconds:.2f} ms per image, {ship.bytes:,} bytes")
    kinds = sorted({pathlib.Path(r.file).suffix for r in results if not r.faults}, reverse=True)
    print(f"next: ferjax benchmark {' '.join(f'{shlex.quote(str(options.out))}/*{kind}' for kind in kinds)}")


def _batch_size(text: str) -> int:
    """Returns the number of images in one run, 0 for any."""
    if text == "any":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_BATCH:
        raise errors.InputError(f"--batch must be a number of images in 1..{_LARGEST_BATCH}, or any; got {text}")
    return int(text)
