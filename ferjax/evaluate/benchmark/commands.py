"""Benchmarks model files: `ferjax benchmark FILE… --out DIR`."""

import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

from ferjax import cli, errors, folders
from ferjax.evaluate.benchmark import facts as benchmark_facts
from ferjax.evaluate.benchmark import measuring, tables

THREADS = (1, 2)


def benchmark(
    files: Sequence[pathlib.Path],
    *,
    providers: Sequence[str] = ("cpu",),
    passes: int = 1000,
    data_dir: pathlib.Path | None = None,
    images: int | None = None,
) -> list[dict[str, Any]]:
    """Measures every file on every provider with 1 and 2 threads.

    Args:
      files: .tflite and .onnx files; without a spec, a file has no accuracy and no cost.
      providers: see `ferjax.runtime.engine.open_engine`; unavailable ones are skipped with a note.
      passes: timed inferences per file.
      data_dir: folder of prepared data, for the accuracy on the validation split.
      images: number of validation images (default: all).

    Returns:
      One mapping for each file, provider and number of threads, with the keys of `tables.KEYS`; None or absent where
      not measured.

    Raises:
      InputError: if a file or a provider is invalid, or no file runs.
    """
    specs = {path: benchmark_facts.read_spec(path) for path in files}
    chosen = measuring.contenders(files, providers)
    facts, scores = benchmark_facts.facts(specs), benchmark_facts.score(specs, data_dir, images)
    measured = {n: measuring.measure(chosen, threads=n, passes=passes) for n in THREADS}
    names = [path.name for path in files]
    return [
        {
            "file": contender.path.name if names.count(contender.path.name) == 1 else str(contender.path),
            "provider": contender.provider,
            "threads": threads,
            "passes": passes,
            **measured[threads][place],
            "memory_opencv": measuring.memory_beside_opencv(contender, threads=threads),
            **facts[contender.path],
            **scores.get(contender.path, {}),
        }
        for place, contender in enumerate(chosen)
        for threads in THREADS
    ]


def save(rows: Sequence[tables.Row], out: pathlib.Path, command: str) -> list[str]:
    """Writes benchmark.csv, benchmark.md and, if there are accuracies, size_accuracy.png; returns their names."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("benchmark.csv", tables.csv_text(rows)), ("benchmark.md", tables.markdown(rows, command))):
        with folders.atomic_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    scored = {row["file"]: row for row in rows if row.get("accuracy") is not None}
    if not scored:
        cli.note("no size_accuracy.png: no file has an accuracy")
        return ["benchmark.csv", "benchmark.md"]
    try:
        from ferjax.evaluate import report
    except ImportError:
        cli.note("no size_accuracy.png: pip install matplotlib")
        return ["benchmark.csv", "benchmark.md"]
    report.plot_size_accuracy(list(scored.values()), out / "size_accuracy.png")
    return ["benchmark.csv", "benchmark.md", "size_accuracy.png"]


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax benchmark`."""
    parser = cli.parser("benchmark", "Measures latency, memory, size and accuracy of model files.")
    parser.add_argument("files", metavar="FILE", nargs="+", type=pathlib.Path, help=".tflite and .onnx files")
    parser.add_argument("--provider", nargs="+", default=["cpu"], metavar="NAME", help=cli.PROVIDERS)
    cli.add_out(parser, "folder for benchmark.csv, benchmark.md, size_accuracy.png", required=False)
    cli.add_data_dir(parser)
    parser.add_argument("--passes", type=int, default=1000, help="timed inferences per file (default: 1000)")
    parser.add_argument("--images", type=int, help="validation images for the accuracy (default: all)")
    options = parser.parse_args(argv)
    if options.images is not None and options.images < 1:
        raise errors.InputError(f"--images must be at least 1, got {options.images}")
    if options.passes < 1:
        raise errors.InputError(f"--passes must be at least 1, got {options.passes}")
    if options.out is not None:
        folders.check_out(options.out)
    rows = benchmark(
        list(dict.fromkeys(options.files)),
        providers=list(dict.fromkeys(options.provider)),
        passes=options.passes,
        data_dir=options.data_dir,
        images=options.images,
    )
    print(tables.screen(rows))
    best = min(rows, key=lambda row: row["p50_ms"])
    threads = cli.counted(best["threads"], "thread")
    print(f"fastest here: {best['file']}, {best['p50_ms']:.2f} ms with {threads} on {best['provider']}")
    if options.out is not None:
        command = f"ferjax benchmark {shlex.join(argv)}"
        print(f"saved {', '.join(save(rows, options.out, command))} in {options.out}")
