"""From a resolved configuration to a trained model: what train.py and distill.py do once their flags are read.

Each group of a configuration holds the keyword arguments of one function:

    data     ferjax.data.load
    model    ferjax.models.create
    teacher  ferjax.teaching.load, for a run with a teacher
    init     ferjax.starting.start
    augment  ferjax.augment.create
    loss     ferjax.objective.make_loss
    optim    ferjax.optim.create
    fit      ferjax.fitting.fit
"""

import functools
import inspect
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ferjax import (
    augment,
    checkpoint,
    cli,
    data,
    fitting,
    models,
    objective,
    optim,
    report,
    starting,
    stored_views,
    teaching,
)
from ferjax.spec import ModelSpec

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "data": data.load,
    "model": models.create,
    "teacher": teaching.load,
    "init": starting.start,
    "augment": augment.create,
    "loss": objective.make_loss,
    "optim": optim.create,
    "fit": fitting.fit,
}
GROUPS = tuple(FUNCTIONS)
LICENSE = "Weights carry the terms of the data they were trained on; the code is Apache-2.0."


def train(config: Mapping[str, Any], *, workdir: pathlib.Path | str, **options: Any) -> fitting.Result:
    """Trains the network of a configuration, or continues where a killed run stopped.

    Args:
      config: the groups named above, plain values.
      workdir: the run's folder; made if missing.
      **options: of both `train` and `distill`:
        data_dir, where prepared data sets lie, see `ferjax.data.default_data_dir`;
        name, what the run is called in the model's spec, such as "configs/resnet20.py:demo";
        tensorboard, whether to write event files too; progress, whether to show a bar on a terminal.

    Returns:
      The history, the best row and the best variables.

    Raises:
      InputError: for whatever the user can mend.
    """
    if config.get("teacher", {}).get("workdirs"):
        raise cli.InputError("teacher.workdirs is set: run distill.py, which learns from a teacher")
    return _run(config, pathlib.Path(workdir), **options)


def distill(
    config: Mapping[str, Any],
    *,
    workdir: pathlib.Path | str,
    teachers: Sequence[pathlib.Path | str] = (),
    **options: Any,
) -> fitting.Result:
    """Trains the network of a configuration with trained runs as its teacher; all else is as in `train`.

    Args:
      config: see `train`.
      workdir: see `train`.
      teachers: folders of trained runs, in the place of `teacher.workdirs`; several are an ensemble.
      **options: see `train`.

    Returns:
      See `train`; the history has `teacher_agreement`.

    Raises:
      InputError: for whatever the user can mend.
    """
    group = dict(config.get("teacher", {}))
    workdirs = [str(pathlib.Path(w)) for w in teachers or group.get("workdirs", ())]
    if not workdirs:
        raise cli.InputError("there is no teacher: give --teacher WORKDIR, the folder of a trained run")
    return _run({**config, "teacher": {**group, "workdirs": workdirs}}, pathlib.Path(workdir), taught=True, **options)


def _run(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    *,
    taught: bool = False,
    data_dir: pathlib.Path | str | None = None,
    name: str = "",
    tensorboard: bool = False,
    progress: bool = True,
) -> fitting.Result:
    if odd := sorted(set(config) - set(GROUPS)):
        raise cli.unknown("config group", odd[0], GROUPS)
    groups = {group: dict(config.get(group, {})) for group in GROUPS}
    faces = _call(data.load, "data", groups["data"], data_dir=data_dir)
    train_split, validation = faces.splits["train"], faces.splits["validation"]
    architecture = dict(groups["model"])
    dtype = architecture.pop("dtype", "float32")  # of the computation: no part of what the network is
    create = functools.partial(_call, models.create, "model", architecture, num_classes=len(faces.class_names))
    module, exact = create(dtype=dtype), create(dtype="float32")
    variables = init_variables(exact, faces.image_shape, seed=groups["fit"].get("seed", 0))
    steps = max(1, len(train_split.labels) // groups["fit"].get("batch_size", 1))
    optimizer = _call(
        optim.create, "optim", groups["optim"], steps_per_epoch=steps, epochs=groups["fit"].get("epochs", 1)
    )
    jax.eval_shape(optimizer.tx.init, variables["params"])  # says which rule finds nothing
    spec = make_spec(faces, architecture, variables, name=name, dataset_args=groups["data"])
    variables, spec, adopted = _call(starting.start, "init", groups["init"], variables=variables, spec=spec)
    more = {"train": train_split._asdict(), "augment": _call(augment.create, "augment", groups["augment"])}
    if taught:
        teacher, config = _teacher(config, groups, spec, dtype)
        more |= _lesson(teacher, groups, module, faces)
    else:
        more["loss_fn"] = _call(objective.make_loss, "loss", groups["loss"], faces=faces)
    claim(workdir, config)
    if taught and teacher.stored_views:
        more |= _stored(teacher, groups, more, faces, pathlib.Path(data_dir or data.default_data_dir()))
    if adopted is not None:
        print(f"start: {adopted}")
    started = time.perf_counter()
    result = _call(
        fitting.fit,
        "fit",
        groups["fit"],
        apply_fn=module.apply,
        variables=variables,
        optimizer=optimizer,
        validation=validation._asdict(),
        spec=spec,
        workdir=workdir,
        eval_apply_fn=exact.apply,
        config=config,
        on_epoch=_reporter(workdir, tensorboard=tensorboard),
        progress=progress,
        **more,
    )
    report.plot_curves(result.history, workdir / "curves.png")
    best = result.best
    print(
        f"best validation accuracy {best['validation_accuracy']:.4f}, macro-F1 {best['validation_macro_f1']:.4f}, "
        f"epoch {best['epoch']} of {len(result.history)}, {time.perf_counter() - started:.0f} s; {workdir}"
    )
    return result


def _teacher(
    config: Mapping[str, Any], groups: Mapping[str, dict[str, Any]], spec: ModelSpec, dtype: str
) -> tuple[teaching.Teacher, dict[str, Any]]:
    """Returns the teacher, and the configuration with its hashes: another teacher is another experiment."""
    _, theirs = objective.taps(groups["loss"].get("features", ()))
    teacher = _call(teaching.load, "teacher", groups["teacher"], spec=spec, taps=theirs, dtype=jnp.dtype(dtype))
    for path, each in zip(groups["teacher"]["workdirs"], teacher.specs, strict=True):
        scores = ", ".join(f"{100 * value:.1f} % on {split}" for split, value in each.accuracy.items())
        print(f"teacher: {each.architecture}, {scores or 'never scored'}; {path}")
    hashes = [each.params_sha256 for each in teacher.specs]
    return teacher, {**config, "teacher": {**groups["teacher"], "sha256": hashes}}


def _lesson(
    teacher: teaching.Teacher, groups: Mapping[str, dict[str, Any]], module: Any, faces: data.FaceData
) -> dict[str, Any]:
    """Returns what a run with a teacher gives `fit`."""
    features, heads = groups["loss"].get("features", ()), models.teacher_heads(module)
    if teacher.stored_views:
        stored_views.check(groups)
    loss = _call(objective.make_loss, "loss", groups["loss"], faces=faces, teachers=len(teacher.specs), heads=heads)
    return {
        "loss_fn": loss,
        "teacher": teacher.apply,
        "teacher_variables": teacher.variables,
        "taps": (*objective.taps(features)[0], *heads),
    }


def _stored(
    teacher: teaching.Teacher,
    groups: Mapping[str, dict[str, Any]],
    given: Mapping[str, Any],
    faces: data.FaceData,
    data_dir: pathlib.Path,
) -> dict[str, Any]:
    """Returns what `fit` is given in the place of a teacher in the step: stored views with its answers."""
    name = stored_views.folder_name(
        data=[faces.name, faces.sha256, faces.image_shape],
        classes=faces.class_names,
        augment=groups["augment"],
        teacher=[[each.params_sha256, each.to_json()] for each in teacher.specs],
        resize=groups["teacher"].get("resize", False),
    )
    views, train_split = teacher.stored_views, given["train"]
    pixels, logits = stored_views.store(
        train_split["images"],
        views=views,
        teacher=teacher.apply,
        teacher_variables=teacher.variables,
        augment=given["augment"],
        folder=data_dir / name,
    )
    train = {"images": pixels, "labels": np.tile(train_split["labels"], views), "teacher_logits": logits}
    answers = {"teacher": stored_views.answer, "teacher_variables": ()}
    return {"train": train, "augment": None, "views": views, **answers}


def init_variables(module: Any, image_shape: tuple[int, int, int], *, seed: int) -> dict[str, Any]:
    """Returns freshly initialised variables of a network for images (height, width, channels)."""
    key = jax.random.fold_in(jax.random.key(seed), 0x1417)
    example = np.zeros((1, *image_shape), np.float32)
    return dict(jax.jit(functools.partial(module.init, train=False))(key, example))


def make_spec(
    faces: data.FaceData,
    architecture: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    name: str,
    dataset_args: Mapping[str, Any],
) -> ModelSpec:
    """Returns the contract of a network trained on a data set: how its pixels go in, what its logits mean."""
    height, width, channels = faces.image_shape
    return ModelSpec(
        class_names=faces.class_names,
        input_size=(height, width),
        color_order="gray" if channels == 1 else "rgb",
        mean=faces.mean,
        std=faces.std,
        architecture=architecture["name"],
        architecture_args={k: v for k, v in architecture.items() if k != "name"},
        dataset=faces.name,
        dataset_args={k: v for k, v in dataset_args.items() if k != "name"},
        dataset_sha256=faces.sha256,
        source_run=name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        license=LICENSE,
    )


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes the configuration into a new run's folder, or checks that the folder is this experiment's.

    A key that one of the two does not have counts as at its default, so that runs of an older ferjax go on.

    Raises:
      InputError: if the folder holds another experiment, naming the first difference.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path, text = workdir / "config.json", json.dumps(config, indent=1, sort_keys=True)
    if not path.exists():
        if any((workdir / kind).exists() for kind in checkpoint.KINDS):
            raise cli.InputError(f"{workdir} holds checkpoints without a config.json: choose another --workdir")
        part = path.with_suffix(".part")
        part.write_text(text)
        os.replace(part, path)
        return
    try:
        stored = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise cli.InputError(f"{path} is damaged ({error}): choose another --workdir") from error
    old, new = _flat(stored), _flat(json.loads(text))
    both = sorted(old.keys() | new.keys())
    if differing := [k for k in both if old.get(k, _default(k)) != new.get(k, _default(k))]:
        key = differing[0]
        there, here = (str(side.get(key, _default(key) or "not set")) for side in (old, new))
        raise cli.InputError(
            f"{workdir} holds another experiment: {key} is {there} there and {here} here ({len(differing)} differ): "
            "choose another --workdir or remove that one"
        )


def run_name(config: str) -> str:
    """Returns what a run of configs/best/resnet20.py:demo is called: best-resnet20-demo."""
    path, _, arguments = config.partition(":")
    parts = pathlib.PurePath(path).with_suffix("").parts
    below = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
    return "-".join([*below, *filter(None, arguments.split(","))])


def parse_flags(doc: str | None) -> None:
    """Parses a script's absl flags, `--some-name` and `--some_name` alike.

    Args:
      doc: the script's docstring, shown by --help.

    Raises:
      InputError: for an unknown flag or configuration key (nearest name), or a value of the wrong type.
    """
    argv = [_underscored(a) for a in sys.argv]
    if any(a in ("--help", "-h", "--helpfull") for a in argv[1:]):
        print(f"{(doc or '').strip()}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except KeyError as error:  # ml_collections: the first part of --config.GROUP.KEY
        raise cli.unknown("config group", error.args[0], GROUPS) from error
    except (flags.Error, AttributeError) as error:
        raise _plain(error) from error
    if rest[1:]:
        raise cli.InputError(f"unexpected argument {rest[1]!r}: options are written --name=value, see --help")


def _plain(error: BaseException) -> cli.InputError:
    """Returns what a configuration said was wrong: ml_collections wraps it in the text of a traceback."""
    link: BaseException | None = error
    innermost = cli.InputError(str(error).strip().replace("Traceback (most recent call last):", ""))
    while link is not None:
        innermost = link if isinstance(link, cli.InputError) else innermost
        link = link.__context__
    return innermost


def _underscored(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _default(key: str) -> Any:
    """Returns the default of a configuration's key, as JSON has it; None if there is none."""
    group, _, name = key.partition(".")
    known = inspect.signature(FUNCTIONS[group]).parameters if group in FUNCTIONS else {}
    value = known[name].default if name in known else None
    return list(value) if isinstance(value, tuple) else None if value is inspect.Parameter.empty else value


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()}


def _call(function: Callable[..., Any], group: str, values: Mapping[str, Any], **more: Any) -> Any:
    """Calls a function with a group of the configuration, naming a key that it does not take."""
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = [p for p in parameters if p not in more]
    if (odd := [k for k in values if k not in accepted]) and not open_ended:
        raise cli.unknown(f"key in config.{group}", odd[0], accepted)
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,)]
    if missing := [n for n in needed if n not in values and n not in more]:
        raise cli.InputError(f"config.{group} lacks {', '.join(missing)}")
    return function(**values, **more)


def _reporter(workdir: pathlib.Path, *, tensorboard: bool) -> Callable[[list[dict[str, Any]]], None]:
    """Returns what `fit` calls after an epoch: curves at most once a minute, and events if asked."""
    writer = None
    if tensorboard:
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(str(workdir / "events"))
    drawn = time.monotonic()

    def on_epoch(history: list[dict[str, Any]]) -> None:
        nonlocal drawn
        if writer is not None:
            for key, value in history[-1].items():
                writer.add_scalar(key, value, history[-1]["step"])
            writer.flush()
        if time.monotonic() - drawn > 60:
            report.plot_curves(history, workdir / "curves.png")
            drawn = time.monotonic()

    return on_epoch
