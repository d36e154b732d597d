"""Compresses a trained network: `ferjax compress --model MODEL --out WORKDIR` with one or more of these steps.

    --sparsity 0.8                     prune weights or, with --structure filter, whole channels
    --dead                             remove channels whose output is always zero
    --macs 0.5, --parameters 0.5       remove channels, down to a share or a number
    --latency 2.5                      remove channels, down to milliseconds for one image on this machine
    --target-bytes 100000              choose widths and bits for this size of the exported file
    --fold                             fold batch normalizations into the preceding layers
    --bits 8                           quantize the weights to 8 or 4 bits, the activations to 8

The steps run in this order, without training. The result is a workdir for all other commands, with its accuracy on the
validation split. To fine-tune it: `ferjax train --config compress/finetune`.
"""

import shlex
from collections.abc import Sequence

from ferjax import cli, prune
from ferjax.compress.pipeline import Steps, compress, text
from ferjax.weights import trained


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax compress`."""
    parser = cli.parser("compress", __doc__)
    cli.add_model(parser, files=False)
    cli.add_out(parser, "the new workdir")
    cli.add_data_dir(parser)
    parser.add_argument("--sparsity", type=float, default=0.0, help="share of units to prune, below 1")
    parser.add_argument("--structure", default="weight", help="unit: weight, filter, or N:M such as 2:4")
    parser.add_argument("--distribution", default="global", help=", ".join(prune.DISTRIBUTIONS))
    parser.add_argument("--score", default=Steps().score, help=", ".join(prune.SCORES))
    parser.add_argument("--keep", nargs="+", default=[], metavar="RULE", help="parameter paths to leave unpruned")
    parser.add_argument("--dead", action="store_true", help="remove channels whose output is always zero")
    parser.add_argument("--macs", type=float, default=0.0, help="maximum multiply-accumulates; up to 1, a share")
    parser.add_argument("--parameters", type=float, default=0.0, help="maximum parameters; up to 1, a share")
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS", help="maximum milliseconds for one image")
    parser.add_argument("--fold", action="store_true", help="fold batch normalizations")
    parser.add_argument("--bits", type=int, default=0, help="bits of the weights, 8 or 4")
    parser.add_argument("--target-bytes", type=int, default=0, metavar="N", help="maximum size of the TFLite file")
    options = vars(parser.parse_args(argv))
    model, out, data_dir = (options.pop(name) for name in ("model", "out", "data_dir"))
    result = compress(model, out, Steps(**{**options, "keep": tuple(options["keep"])}), data_dir=data_dir)
    quantization = result["after"]["quantization"]
    bits = trained.TRAINED.get(quantization, 0)
    print(f"{text(result)}\n\nsaved {out}")
    more = f" --config.quant.bits={bits}" if bits else ""
    start = shlex.quote(f"--config.init.workdir={out}")
    print(f"next: ferjax train --config compress/finetune {start}{more}")
    more = f" --quantization {quantization}" if bits else ""
    print(f"or:   ferjax export --model {shlex.quote(str(out))} --out {shlex.quote(f'{out}-files')}{more}")
