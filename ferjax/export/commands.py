"""Exports a trained network to TFLite and ONNX files, compares each with the network, and recommends one.

    ferjax export --model runs/resnet20 --out exports/resnet20
    ferjax export --model runs/resnet20 --out exports/small --format tflite --quantization int8 weight-only
    ferjax export --model runs/resnet20 --out exports/server --format onnx --batch any
    ferjax export --model runs/resnet20 --out page --format web

A file outside the tolerance of its quantization is removed; the report names the first layer that deviates.

The format web is a page for the browser with the best .tflite file. There, --model may also be a .tflite file or a
model of the package.
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import tempfile
from collections.abc import Iterator, Sequence

from ferjax import cli, errors, export
from ferjax.runtime.web import add_detector

_LARGEST_BATCH = 1024
_WEB = "web"


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax export`."""
    parser = cli.parser("export", __doc__)
    cli.add_model(parser, files=False)
    cli.add_out(parser, "folder for the files and export.json, or for the page")
    formats = ", ".join(export.list_formats())
    parser.add_argument(
        "--format", nargs="+", metavar="NAME", help=f"{formats} (default: both); or {_WEB}: a page for the browser"
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
    add_detector(parser)
    options = parser.parse_args(argv)
    if options.format and _WEB in options.format:
        _write_page(options)
        return
    results = _export(options, options.out, options.format, overwrite=options.overwrite)
    ship = export.best(results)
    print(export.table(results))
    print(f"\nship {options.out / ship.file}: {ship.milliseconds:.2f} ms per image, {ship.bytes:,} bytes")
    kinds = sorted({pathlib.Path(r.file).suffix for r in results if not r.faults}, reverse=True)
    print(f"next: ferjax benchmark {' '.join(f'{shlex.quote(str(options.out))}/*{kind}' for kind in kinds)}")


def _export(
    options: argparse.Namespace, out: pathlib.Path, formats: Sequence[str] | None, *, overwrite: bool
) -> list[export.Exported]:
    return export.export(
        options.model,
        out,
        wanted_formats=formats,
        wanted_quantizations=options.quantization,
        dataset=options.data,
        data_dir=options.data_dir,
        images=options.images,
        batch_size=_batch_size(options.batch),
        overwrite=overwrite,
    )


def _write_page(options: argparse.Namespace) -> None:
    if options.format != [_WEB]:
        raise errors.InputError(f"--format {_WEB} writes a page only: run the other formats with another --out")
    try:
        from ferjax.runtime.web import page
    except ModuleNotFoundError as error:
        raise errors.InputError(f"a page needs {error.name}: pip install 'ferjax[export,live]'") from error
    page.check(options.out, options.detector, options.detector_model, overwrite=options.overwrite)
    with _file(options) as file:
        page.write(
            options.out,
            file,
            detector=options.detector,
            detector_model=options.detector_model,
            overwrite=options.overwrite,
        )
    print(f"wrote the page {options.out}\nnext: ferjax web {shlex.quote(str(options.out))}")


@contextlib.contextmanager
def _file(options: argparse.Namespace) -> Iterator[str | os.PathLike[str]]:
    """Yields the .tflite file of the page: --model itself, or the best file of the network, which is exported first."""
    model = pathlib.Path(options.model)
    if not model.is_dir() and model.suffix != ".safetensors":
        if options.quantization or options.batch != "1":
            given = "--quantization" if options.quantization else "--batch"
            raise errors.InputError(f"{given} applies to a trained network, and {model} is an exported file")
        yield options.model
        return
    with tempfile.TemporaryDirectory(prefix="ferjax-export-") as folder:
        out = pathlib.Path(folder) / "files"
        results = _export(options, out, ["tflite"], overwrite=False)
        print(export.table(results))
        yield out / export.best(results).file


def _batch_size(text: str) -> int:
    """Returns the number of images in one run, 0 for any."""
    if text == "any":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_BATCH:
        raise errors.InputError(f"--batch must be a number of images in 1..{_LARGEST_BATCH}, or any; got {text}")
    return int(text)
