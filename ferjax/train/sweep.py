"""Trains many configurations and seeds, and tabulates their scores.

    ferjax sweep 'configs/paraschiv.py:exp*' --seeds 3
    ferjax sweep configs/resnet20.py configs/mini_xception.py --seeds 3
    ferjax sweep configs/mini_xception.py --seeds 3 --teacher runs/resnet18 --grid loss.alpha=0,0.5,0.7
    ferjax sweep configs/microexpnet.py:se,demo --set fit.epochs=1 --workdir runs/try

A star in a configuration's argument matches the experiments of its paper. Finished runs are skipped, stopped runs are
resumed, and the table (Markdown and JSON) is rewritten after each run. Configurations with loss.alpha above 0 learn
from --teacher. Seeds count up from the seed of the configuration.

The same command can run in several processes at once. A process skips runs that another one is training and retries
them at its end; the last process to end writes the complete table.
"""

import hashlib
import itertools
import json
import math
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy import stats

from ferjax import cli, data, errors, folders, weights
from ferjax.train import config as train_config
from ferjax.train import experiment, planning, run_folder, teacher
from ferjax.weights import single_file


def run(
    jobs: Sequence[planning.Job],
    *,
    seeds: int,
    workdir: pathlib.Path,
    teachers: Sequence[str] = (),
    data_dir: str | None = None,
    command: str = "",
) -> list[dict[str, Any]]:
    """Runs the missing runs and writes table.md and table.json after each.

    Args:
      jobs: from `plan`.
      seeds: runs per job.
      workdir: folder of the sweep.
      teachers: for the jobs with `planning.Job.taught`.
      data_dir: folder of prepared data.
      command: printed below the table.

    Returns:
      The rows of the table. Errors are in "failed" and on standard error. Rows of equal configurations share runs.

    Raises:
      InputError: if there are teachers but no job uses them, or a teacher cannot be read.
    """
    if teachers and not any(job.taught for job in jobs):
        raise errors.InputError("--teacher requires loss.alpha above 0 in a configuration: add --set loss.alpha=0.7")
    teachers = [str(pathlib.Path(path)) for path in teachers]  # as a run's configuration has them
    hashes = {path: weights.load(path).spec.params_sha256 for path in teachers}
    shared: dict[str, dict[str, Any]] = {}
    found: dict[int, dict[int, dict[str, Any]]] = {i: {} for i in range(len(jobs))}  # by the number of the seed
    failed: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    elsewhere: list[tuple[int, int]] = []  # in training by another process; retried at the end
    for number, i in itertools.chain(itertools.product(range(seeds), range(len(jobs))), elsewhere):
        job = jobs[i]
        seed = job.config["fit"].get("seed", 0) + number
        key = json.dumps([job.config, seed], sort_keys=True)
        try:
            if key not in shared:
                shared[key] = _one(job, seed, job.folder(workdir, seed), hashes, data_dir)
            found[i][number] = shared[key]
        except errors.InputError as error:
            cli.note(f"{job.name}, seed {seed}: {error}")
            if isinstance(error, run_folder.InUse) and (number, i) not in elsewhere:
                elsewhere.append((number, i))
            else:
                failed[i] = str(error)
        rows = [_row(job, found[n], failed.get(n), found[0]) for n, job in enumerate(jobs)]
        _save(rows, workdir, command)
    return rows


def _one(
    job: planning.Job, seed: int, folder: pathlib.Path, teachers: Mapping[str, str], data_dir: str | None
) -> dict[str, Any]:
    """Returns the result of one run, which is trained if it is not finished; teachers: path -> hash."""
    config = {**job.config, "fit": {**job.config["fit"], "seed": seed}}
    asked, path = json.loads(json.dumps(config)), folder / "result.json"
    if job.taught and teachers:
        config["teacher"] = {**config.get("teacher", {}), "workdirs": list(teachers)}
        asked["teacher"] = {**config["teacher"], "sha256": list(teachers.values())}
    if sha256 := _data_sha256(config, data_dir):
        asked["data"]["sha256"] = sha256
    if sha256 := _start_sha256(config):
        asked["init"]["sha256"] = sha256
    if path.exists():
        done, theirs = _finished(path)
        for group in ("data", "teacher", "init"):
            sides = theirs.get(group, {}), asked.get(group, {})
            if not all("sha256" in side for side in sides):  # older versions lack it, and data may have been removed
                for side in sides:
                    side.pop("sha256", None)
        train_config.check_same(folder, theirs, asked)
        return done
    print(f"== {job.name} {dict(job.changes) or ''} seed {seed}", flush=True)
    function = experiment.distill if job.taught else experiment.train
    result = function(config, workdir=folder, data_dir=data_dir, name=job.name)
    jax.clear_caches()  # frees the compiled steps of finished runs
    best = result.best
    done = {
        "seed": seed,
        "accuracy": best["validation_accuracy"],
        "macro_f1": best["validation_macro_f1"],
        "epoch": best["epoch"],
        "epochs": len(result.history),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"])),
        "seconds": _seconds(folder, best["step"] // best["epoch"] * config["fit"]["batch_size"]),
    }
    _write(path, json.dumps({**done, "config": asked}, indent=1))
    return done


def _seconds(folder: pathlib.Path, epoch_images: int) -> float | None:
    try:
        return round(run_folder.training_seconds(folder, epoch_images), 1)
    except errors.InputError as error:  # a run without times is still valid
        cli.note(str(error))
        return None


def _finished(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the result of a finished run, and its configuration."""
    try:
        done = json.loads(path.read_text(encoding="utf-8"))
        config = done.pop("config")
        if not all(math.isfinite(done[key]) for key in ("accuracy", "macro_f1", "parameters")) or not config["fit"]:
            raise ValueError("a score is not finite")
        return done, config
    except (ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        raise errors.InputError(
            f"{path} is damaged ({error}): remove it, the run resumes from its checkpoint"
        ) from error


def _data_sha256(config: Mapping[str, Any], data_dir: str | None) -> str:
    """Returns the hash of a configuration's data, or "" if it cannot be read."""
    try:
        group = {**config.get("data", {}), "splits": ()}
        return train_config.call(data.load, "data", group, data_dir=data_dir).sha256
    except errors.InputError:
        return ""


def _start_sha256(config: Mapping[str, Any]) -> str:
    """Returns the hash of the initial weights, or "" for a fresh start or missing weights."""
    start = config.get("init", {})
    path = start.get("workdir") or start.get("pretrained")
    try:
        if path and (start.get("workdir") or single_file.is_ours(path)):
            return weights.load(path).spec.params_sha256
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else ""
    except (errors.InputError, OSError):
        return ""


def _row(
    job: planning.Job,
    by_number: Mapping[int, Mapping[str, Any]],
    failed: str | None,
    first: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    results = list(by_number.values())
    row: dict[str, Any] = {"name": job.name, "changes": dict(job.changes), "paper": job.paper, "runs": results}
    if failed:
        row["failed"] = failed
    if not results:
        return row
    scores = [100 * r["accuracy"] for r in results]
    row |= {
        "parameters": results[0]["parameters"],
        "mean": statistics.mean(scores),
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "macro_f1": statistics.mean(r["macro_f1"] for r in results),
        "seconds": statistics.mean(known) if (known := [r["seconds"] for r in results if r["seconds"]]) else None,
    }
    pairs = [100 * (r["accuracy"] - first[n]["accuracy"]) for n, r in by_number.items() if n in first]
    if by_number is not first and len(pairs) > 1:
        row["difference"], row["interval"] = paired(pairs)
    return row


def paired(differences: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of paired differences and half the width of its 95 % interval (Student's t)."""
    n = len(differences)
    return statistics.mean(differences), float(stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))


def table(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Formats the rows as a Markdown table with notes."""
    titles = [
        "configuration",
        "parameters",
        "accuracy %",
        "± over seeds",
        "seeds",
        "macro-F1",
        "minus first row",
        "paper %",
    ]
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)]
    for row in rows:
        name = " ".join([f"`{row['name']}`", *(f"{k}={v}" for k, v in row["changes"].items())])
        cells = [name, "", "", "", str(len(row["runs"])), "", "", _figure(row["paper"], "{:.1f}")]
        if row["runs"]:
            cells[1] = f"{row['parameters']:,}"
            cells[2] = f"{row['mean']:.2f}"
            cells[3] = _figure(row["spread"], "{:.2f}")
            cells[5] = f"{row['macro_f1']:.3f}"
        if "difference" in row:
            cells[6] = f"{row['difference']:+.2f} ± {row['interval']:.2f}"
        if "failed" in row:
            cells[2] = f"{cells[2]} failed: {row['failed']}".strip()
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        "Accuracy and macro-F1 on the validation split, which selected each run's best epoch; ± is the standard",
        "deviation over seeds; the difference is paired by seed, with its 95 % interval (Student's t). Most papers'",
        "figures are on the test split.",
    ]
    return "\n".join([*lines, "", " ".join(notes), *(["", f"`{command}`"] if command else [])]) + "\n"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _save(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path, command: str) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir / "table.json", json.dumps({"command": command, "rows": rows}, indent=1))
    _write(workdir / "table.md", table(rows, command))


def _write(path: pathlib.Path, text: str) -> None:
    with folders.atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Runs `ferjax sweep`."""
    parser = cli.parser("sweep", __doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="NAME or FILE.py[:arguments], stars allowed")
    parser.add_argument("--seeds", type=int, default=1, help="runs per configuration (default: 1)")
    parser.add_argument("--grid", nargs="+", default=[], metavar="KEY=A,B", help="values to try, in all combinations")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="values for all runs")
    parser.add_argument(
        "--teacher", action="append", default=[], metavar="MODEL", help="teacher; repeat for an ensemble"
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/sweep"), help="folder of the sweep")
    cli.add_data_dir(parser)
    options = parser.parse_args(argv)
    if options.seeds < 1:
        raise errors.InputError(f"--seeds must be at least 1, got {options.seeds}")
    jobs = planning.plan(options.configs, grid=planning.read_grid(options.grid), fixed=planning.read_fixed(options.set))
    command = f"ferjax sweep {shlex.join(argv)}"
    rows = run(
        jobs,
        seeds=options.seeds,
        workdir=options.workdir,
        teachers=teacher.paths(options.teacher),
        data_dir=options.data_dir,
        command=command,
    )
    print(table(rows, command))
    print(f"saved {options.workdir / 'table.md'} and table.json")
    if bad := [row["name"] for row in rows if "failed" in row]:
        raise errors.InputError(
            f"{len(bad)} of {len(rows)} rows failed, first {bad[0]}; see {options.workdir}/table.md"
        )
