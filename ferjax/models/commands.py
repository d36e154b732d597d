"""Lists the networks and their cost: the command `ferjax networks`."""

from collections.abc import Sequence

from ferjax import cli, errors, models
from ferjax.models.costs import cost

_COLUMNS = "{:<20} {:>11} {:>12} {:>11} {:>9} {:>12}"


def main(argv: Sequence[str]) -> None:
    """Prints one line per network: name, input, parameters, statistics, MACs, size in float32."""
    parser = cli.parser("networks", main.__doc__)
    parser.add_argument("name", nargs="*", help="networks to list (default: all)")
    parser.add_argument("--classes", type=int, default=7, help="number of classes (default: 7)")
    args = parser.parse_args(argv)
    rows = [_row(name, args.classes) for name in args.name or models.list_models()]
    print(_COLUMNS.format("name", "input", "parameters", "statistics", "MACs", "float32"))
    print("\n".join(rows))


def _row(name: str, classes: int) -> str:
    if classes < 1:
        raise errors.InputError(f"--classes must be 1 or more, got {classes}")
    shape = models.default_input_shape(name)
    numbers = cost(models.for_export(models.create(name, num_classes=classes)), shape)
    return _COLUMNS.format(
        name,
        "x".join(map(str, shape)),
        f"{numbers.parameters:,}",
        f"{numbers.statistics:,}",
        _short(numbers.macs),
        f"{numbers.bytes / 2**20:.2f} MiB",
    )


def _short(count: int) -> str:
    """Formats a count in millions (M) or billions (G)."""
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"
