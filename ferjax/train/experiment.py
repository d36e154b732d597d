"""From a resolved configuration to a trained model: what train.py and distill.py do once their flags are read."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, data, devices, errors, models
from ferjax.evaluate import report
from ferjax.spec import ModelSpec
from ferjax.train import distributed, loop, objective, optim, profiling, quantization, run_folder, start, stored_views
from ferjax.train import teacher as train_teacher
from ferjax.train.config import GROUPS, call, claimed
from ferjax.weights import trained
from ferjax.weights.pretrained import Report

DTYPES = ("float32", "bfloat16", "float16")  # of the computation
LICENSE = "Weights carry the terms of the data they were trained on; the code is Apache-2.0."


def train(config: Mapping[str, Any], *, workdir: pathlib.Path | str, **options: Any) -> loop.Result:
    """Trains the network of a configuration, or continues where a killed run stopped.

    Args:
      config: the groups of `ferjax.train.config`, plain values.
      workdir: the run's folder; made if missing.
      **options: of both `train` and `distill`:
        data_dir, where prepared data sets lie, see `ferjax.data.default_data_dir`;
        name, what the run is called in the model's spec, such as "configs/resnet20.py:demo";
        tensorboard, whether to write event files too; progress, whether to show a bar on a terminal;
        device_count, how many devices share a batch, 0 for all; profile, how many dispatches to trace, see `fit`.

    Returns:
      The history, the best row and the best variables.

    Raises:
      InputError: for whatever the user can mend.
    """
    if config.get("teacher", {}).get("workdirs"):
        raise errors.InputError("teacher.workdirs is set: run distill.py, which learns from a teacher")
    return _run(config, pathlib.Path(workdir), **options)


def distill(
    config: Mapping[str, Any],
    *,
    workdir: pathlib.Path | str,
    teachers: Sequence[pathlib.Path | str] = (),
    **options: Any,
) -> loop.Result:
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
        raise errors.InputError("there is no teacher: give --teacher WORKDIR, the folder of a trained run")
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
    device_count: int = 0,
    profile: int = 0,
) -> loop.Result:
    if odd := sorted(set(config) - set(GROUPS)):
        raise errors.unknown("config group", odd[0], GROUPS)
    groups = {group: dict(config.get(group, {})) for group in GROUPS}
    loop.check_sizes(groups["fit"])
    mesh = devices.mesh(device_count)
    load = functools.partial(call, data.load, "data", groups["data"], data_dir=data_dir, splits=("train", "validation"))
    faces = distributed.all_or_none(load)
    train_split, validation = faces.splits["train"], faces.splits["validation"]
    steps = max(1, len(train_split.labels) // groups["fit"].get("batch_size", 1))
    begun, adopted = _begin(groups, faces, name, steps_per_epoch=steps)
    optimizer = _optimizer(groups, begun.variables["params"], steps_per_epoch=steps)
    more = {"train": train_split._asdict(), "augment": call(augment.create, "augment", groups["augment"])}
    if taught:
        teacher, config = _teacher(config, groups, begun.spec)
        more |= _lesson(teacher, groups, begun.module, faces)
    else:
        more["loss_fn"] = call(objective.make_loss, "loss", groups["loss"], faces=faces)
        if groups["teacher"].get("stored_views"):
            distributed.say(
                "teacher.stored_views is for a teacher's answers: without one, views are drawn anew each epoch"
            )
    distributed.agree("configuration", {**config, "found": {"data": faces.sha256, "jax": jax.__version__}})
    with contextlib.ExitStack() as held:
        distributed.all_or_none(functools.partial(_claim, held, workdir, config))
        if taught and teacher.stored_views:
            more |= _stored(teacher, groups, more, faces, pathlib.Path(data_dir or data.default_data_dir()))
        if adopted is not None:
            distributed.say(f"start: {adopted}")
        if mesh.size > 1:
            distributed.say(f"devices: {devices.describe(mesh)}")
        started = time.perf_counter()
        result = call(
            loop.fit,
            "fit",
            groups["fit"],
            apply_fn=begun.apply,
            variables=begun.variables,
            optimizer=optimizer,
            validation=validation._asdict(),
            spec=begun.spec,
            workdir=workdir,
            eval_apply_fn=trained.create(begun.spec).apply,
            config=config,
            mesh=mesh,
            compiler_options=models.compiler_options(begun.module),
            on_epoch=_reporter(workdir, tensorboard=tensorboard and distributed.is_first()),
            progress=progress,
            profile=profile,
            **more,
        )
        if distributed.is_first():
            report.plot_curves(result.history, workdir / "curves.png")
    if peak := profiling.peak_memory(mesh):
        holder = "this process" if devices.on_cpu(mesh) else "a device"
        distributed.say(f"peak memory of {holder}: {peak / 1e9:.2f} GB")
    best = result.best
    distributed.say(
        f"best validation accuracy {best['validation_accuracy']:.4f}, macro-F1 {best['validation_macro_f1']:.4f}, "
        f"epoch {best['epoch']} of {len(result.history)}, {time.perf_counter() - started:.0f} s; {workdir}"
    )
    return result


def _claim(held: contextlib.ExitStack, workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Takes the run's folder, in the process that writes."""
    if distributed.is_first():
        held.enter_context(run_folder.alone(workdir))
        held.enter_context(claimed(workdir, config))


def _begin(
    groups: Mapping[str, dict[str, Any]], faces: data.FaceData, name: str, *, steps_per_epoch: int
) -> tuple[quantization.Prepared, Report | None]:
    """Returns the network to train, and what a start that is not fresh gave it."""
    chosen, init = dict(groups["model"]), groups["init"]
    dtype = chosen.pop("dtype", "float32")  # of the computation: no part of what the network is
    if dtype not in DTYPES:
        raise errors.unknown("model.dtype", dtype, DTYPES)
    if init.get("network"):
        chosen = start.network_of(init.get("workdir") or init.get("pretrained", ""))
    module = call(models.create, "model", chosen, num_classes=len(faces.class_names))
    variables = init_variables(module, faces.image_shape, seed=groups["fit"].get("seed", 0))
    spec = make_spec(faces, chosen, variables, name=name, dataset_args=groups["data"])
    variables, spec, adopted = call(start.start, "init", init, variables=variables, spec=spec)
    begun = call(
        quantization.prepare,
        "quant",
        groups["quant"],
        spec=spec,
        variables=variables,
        images=faces.splits["train"].images,
        batches_per_epoch=steps_per_epoch * groups["fit"].get("accumulate", 1),
        dtype=jnp.dtype(dtype),
    )
    return begun, adopted


def _optimizer(groups: Mapping[str, dict[str, Any]], params: Any, *, steps_per_epoch: int) -> optim.Optimizer:
    """Returns the optimiser, pruning last; a rule that finds no parameter is said."""
    length = {"steps_per_epoch": steps_per_epoch, "epochs": groups["fit"].get("epochs", 1)}
    plain = call(optim.create, "optim", groups["optim"], **length)
    pruned = groups["prune"]
    if pruned.get("structure") == "filter":  # a class is no channel to remove
        pruned = {**pruned, "keep": (*pruned.get("keep", ()), models.OUTPUTS)}
    optimizer = call(optim.prune, "prune", pruned, optimizer=plain, **length)
    jax.eval_shape(optimizer.tx.init, params)
    return optimizer


def _teacher(
    config: Mapping[str, Any], groups: Mapping[str, dict[str, Any]], spec: ModelSpec
) -> tuple[train_teacher.Teacher, dict[str, Any]]:
    """Returns the teacher, and the configuration with its hashes: another teacher is another experiment."""
    _, theirs = objective.taps(groups["loss"].get("features", ()))
    dtype = jnp.dtype(groups["model"].get("dtype", "float32"))
    teacher = call(train_teacher.load, "teacher", groups["teacher"], spec=spec, taps=theirs, dtype=dtype)
    for path, each in zip(groups["teacher"]["workdirs"], teacher.specs, strict=True):
        scores = ", ".join(f"{100 * value:.1f} % on {split}" for split, value in each.accuracy.items())
        distributed.say(f"teacher: {each.architecture}, {scores or 'never scored'}; {path}")
    hashes = [each.params_sha256 for each in teacher.specs]
    return teacher, {**config, "teacher": {**groups["teacher"], "sha256": hashes}}


def _lesson(
    teacher: train_teacher.Teacher, groups: Mapping[str, dict[str, Any]], module: Any, faces: data.FaceData
) -> dict[str, Any]:
    """Returns what a run with a teacher gives `fit`."""
    features, heads = groups["loss"].get("features", ()), models.teacher_heads(module)
    if teacher.stored_views:
        stored_views.check(groups)
    loss = call(objective.make_loss, "loss", groups["loss"], faces=faces, teachers=len(teacher.specs), heads=heads)
    return {
        "loss_fn": loss,
        "teacher": teacher.apply,
        "teacher_variables": teacher.variables,
        "taps": (*objective.taps(features)[0], *heads),
    }


def _stored(
    teacher: train_teacher.Teacher,
    groups: Mapping[str, dict[str, Any]],
    given: Mapping[str, Any],
    faces: data.FaceData,
    data_dir: pathlib.Path,
) -> dict[str, Any]:
    """Returns what `fit` is given in the place of a teacher in the step: stored views with its answers."""
    dtype = groups["model"].get("dtype", "float32")
    uncalibrated = [each.replace(temperature=1.0, abstention_threshold=0.0) for each in teacher.specs]
    name = stored_views.folder_name(
        data=[faces.name, faces.sha256, faces.image_shape],
        classes=faces.class_names,
        augment=groups["augment"],
        teacher=[[each.params_sha256, each.to_json()] for each in uncalibrated],  # logits know no temperature
        resize=groups["teacher"].get("resize", False),
        # views of before these counted keep their name
        **({} if dtype == "float32" else {"dtype": dtype}),
        **({} if groups["teacher"].get("tta", "one") == "one" else {"tta": groups["teacher"]["tta"]}),
    )
    views, train_split = teacher.stored_views, given["train"]
    pixels, logits = stored_views.store(
        train_split["images"],
        views=views,
        teacher=teacher.apply,
        teacher_variables=teacher.variables,
        augment=given["augment"],
        folder=data_dir / name,
        resident_bytes=groups["data"].get("resident_bytes", data.RESIDENT_BYTES),
    )
    train = {"images": pixels, "labels": np.tile(train_split["labels"], views), "teacher_logits": logits}
    answers = {"teacher": stored_views.answer, "teacher_variables": ()}
    return {"train": train, "augment": None, "views": views, **answers}


def init_variables(module: Any, image_shape: tuple[int, int, int], *, seed: int) -> dict[str, Any]:
    """Returns freshly initialised variables of a network for images (height, width, channels)."""
    key = jax.random.fold_in(jax.random.key(seed), 0x1417)
    example = np.zeros((1, *image_shape), np.float32)
    # It runs once, and on CPUs LLVM's passes over it take longer than all else that comes before the first step.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    init = jax.jit(functools.partial(module.init, train=False), compiler_options=options)
    return dict(init(key, example))


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
        dataset_args={k: v for k, v in dataset_args.items() if k not in ("name", *data.READING)},
        dataset_sha256=faces.sha256,
        source_run=name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        license=LICENSE,
    )


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
