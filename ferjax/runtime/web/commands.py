"""Shows the browser page, on this computer: camera, pictures and films are classified in the browser.

    ferjax web                        the page of the default model
    ferjax web --model mini_xception
    ferjax web FOLDER                 a page written by `ferjax export --format web`

The page needs YuNet (`ferjax fetch yunet`). LiteRT.js is downloaded from the npm registry the first time. Ctrl-C ends
the server.
"""

import argparse
import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from ferjax import cli
from ferjax.errors import InputError
from ferjax.runtime import shipped
from ferjax.runtime.web import add_detector, page, server

_PORT = 8000


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax web`: serves a page until Ctrl-C."""
    parser = cli.parser("web", __doc__)
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", type=pathlib.Path, help="page (default: made for --model)"
    )
    parser.add_argument("--model", help=f".tflite file, or model of the package: {shipped.choices()}")
    add_detector(parser)
    parser.add_argument("--port", type=int, default=_PORT, help=f"port; 0: a free one (default: {_PORT})")
    options = parser.parse_args(argv)
    with _folder(options) as folder, server.create(folder, options.port) as running:
        print(f"open http://localhost:{running.server_port}/ in a browser on this computer; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()


@contextlib.contextmanager
def _folder(options: argparse.Namespace) -> Iterator[pathlib.Path]:
    """Yields the folder of the page: the given one, or a temporary one."""
    if options.folder is not None:
        if options.model or options.detector_model:
            raise InputError("FOLDER is a finished page: leave --model and --detector-model out, or FOLDER")
        if not (options.folder / page.MARK).is_file():
            raise InputError(f"{options.folder} is not a page: write one with `ferjax export --format web`")
        yield options.folder
        return
    with tempfile.TemporaryDirectory(prefix="ferjax-web-") as folder:
        page.write(folder, options.model, detector=options.detector, detector_model=options.detector_model)
        yield pathlib.Path(folder)
