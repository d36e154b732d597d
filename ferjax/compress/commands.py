"""Makes a trained network smaller: `ferjax compress --model MODEL --out WORKDIR`, and what to do.

    --sparsity 0.8                     prune weights; with --structure filter, whole channels
    --dead                             remove the channels that give nothing but zero
    --macs 0.5, --parameters 0.5       remove channels, to a share of what there is or to a number
    --latency 2.5                      remove channels, to milliseconds for one image on this machine
    --target-bytes 100000              one size for the exported file: widths and bits are chosen
    --fold                             move batch normalisations into the layers before them
    --bits 8                           round to integers: weights to 8 or 4 bits, activations to 8

What is asked for is done in this order, without training; the result is a workdir that every other command accepts, its
accuracy measured anew on validation. To train it on: configs/compress/finetune.py.
"""

import shlex
from collections.abc import Sequence

from ferjax import cli, prune
from ferjax.compress.pipeline import Wish, compress, text
from ferjax.weights import trained


def main(argv: Sequence[str]) -> None:
    """Compresses a run and prints what changed and what to do next."""
    parser = cli.parser("compress", __doc__)
    cli.add_model(parser, files=False)
    cli.add_out(parser, "the new workdir")
    cli.add_data_dir(parser)
    parser.add_argument("--sparsity", type=float, default=0.0, help="share of units to prune, below 1")
    parser.add_argument("--structure", default="weight", help="what a unit is: weight, filter, or N:M such as 2:4")
    parser.add_argument("--distribution", default="global", help=", ".join(prune.DISTRIBUTIONS))
    parser.add_argument("--score", default=Wish().score, help=", ".join(prune.SCORES))
    parser.add_argument("--keep", nargs="+", default=[], metavar="RULE", help="parameter paths that are not pruned")
    parser.add_argument("--dead", action="store_true", help="remove channels that give nothing but zero")
    parser.add_argument("--macs", type=float, default=0.0, help="multiply-accumulates; up to 1, a share of them")
    parser.add_argument("--parameters", type=float, default=0.0, help="parameters; up to 1, a share of them")
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS", help="milliseconds for one image")
    parser.add_argument("--fold", action="store_true", help="fold batch normalisations")
    parser.add_argument("--bits", type=int, default=0, help="width of the weights, 8 or 4")
    parser.add_argument("--target-bytes", type=int, default=0, metavar="N", help="size of the exported TFLite file")
    options = vars(parser.parse_args(argv))
    model, out, data_dir = (options.pop(name) for name in ("model", "out", "data_dir"))
    result = compress(model, out, Wish(**{**options, "keep": tuple(options["keep"])}), data_dir=data_dir)
    quantization = result["after"]["quantization"]
    bits = trained.TRAINED.get(quantization, 0)
    print(f"{text(result)}\n\nsaved {out}")
    more = f" --config.quant.bits={bits}" if bits else ""
    start = shlex.quote(f"--config.init.workdir={out}")
    print(f"next: ferjax train --config compress/finetune {start}{more}")
    more = f" --quantization {quantization}" if bits else ""
    print(f"or:   ferjax export --model {shlex.quote(str(out))} --out {shlex.quote(f'{out}-files')}{more}")
