"""Runs training and distillation from a resolved configuration to a trained model."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ferjax import augment, data, devices, errors, models
from ferjax.augment import camera
from ferjax.evaluate import corruptions
from ferjax.models import cpu
from ferjax.spec import ModelSpec
from ferjax.train import distributed, loop, objective, optim, profiling, quantization, run_folder, start, stored_views
from ferjax.train import teacher as train_teacher
from ferjax.train.config import GROUPS, call, claimed, defaults
from ferjax.train.monitor import Monitor
from ferjax.train.options import FitOptions
from ferjax.train.step import Task, Teacher
from ferjax.weights import Trained
from ferjax.weights.pretrained import Report

DTYPES = ("float32", "bfloat16", "float16")  # of the computation
LICENSE = "Weights carry the terms of the data they were trained on; the code is Apache-2.0."


def train(config: Mapping[str, Any], *, workdir: pathlib.Path | str, **options: Any) -> loop.Result:
    """Trains the network of a configuration, or resumes its run.

    Args:
      config: values by group and key, see `ferjax.train.config.FUNCTIONS`.
      workdir: folder of the run; created if missing.
      **options: of `train` and `distill`:
        data_dir, the folder of prepared data, see `ferjax.data.default_data_dir`;
        name, recorded in the spec as `source_run`, such as "configs/resnet20.py:demo";
        tensorboard, whether to write event files; progress, whether to show a progress bar on a terminal;
        device_count, the number of devices that share a batch, 0 for all; profile, the number of dispatches to trace.

    Returns:
      The history, the best row and the best variables.

    Raises:
      InputError: for an invalid configuration, data, device count or workdir.
    """
    if config.get("teacher", {}).get("workdirs"):
        raise errors.InputError("teacher.workdirs requires `ferjax distill`; `ferjax train` takes no teacher")
    return _run(config, pathlib.Path(workdir), **options)


def distill(
    config: Mapping[str, Any],
    *,
    workdir: pathlib.Path | str,
    teachers: Sequence[pathlib.Path | str] = (),
    **options: Any,
) -> loop.Result:
    """Trains the network of a configuration with a teacher; the history also has `teacher_agreement`.

    Args:
      config: see `train`.
      workdir: see `train`.
      teachers: workdirs or .safetensors files that replace `teacher.workdirs`; several form an ensemble.
      **options: see `train`.

    Raises:
      InputError: see `train`; also if there is no teacher.
    """
    group = dict(config.get("teacher", {}))
    workdirs = [str(pathlib.Path(w)) for w in teachers or group.get("workdirs", ())]
    if not workdirs:
        raise errors.InputError("--teacher is missing: give --teacher MODEL, a workdir or a .safetensors file")
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
    options = call(FitOptions, "fit", groups["fit"])
    mesh = devices.mesh(device_count)
    load = functools.partial(call, data.load, "data", groups["data"], data_dir=data_dir, splits=("train", "validation"))
    faces = distributed.all_or_none(load)
    train, validation = (faces.splits[split]._asdict() for split in ("train", "validation"))
    steps = max(1, len(train["labels"]) // options.batch_size)
    network, apply_fn, adopted = _begin(groups, faces, name, options, steps_per_epoch=steps)
    optimizer = _optimizer(groups, network.variables["params"], epochs=options.epochs, steps_per_epoch=steps)
    teacher = None
    if taught:
        teacher, config = _teacher(config, groups, network.spec)
    task = _task(groups, network, apply_fn, faces, teacher)
    distributed.agree("configuration", {**config, "found": {"data": faces.sha256, "jax": jax.__version__}})
    with contextlib.ExitStack() as held:
        distributed.all_or_none(functools.partial(_claim, held, workdir, config))
        if teacher is not None and teacher.stored_views:
            home = pathlib.Path(data_dir or data.default_data_dir())
            train, task = stored_views.taught_arrays(train, task, groups=groups, faces=faces, data_dir=home)
        if adopted is not None:
            distributed.say(f"start: {adopted}")
        if mesh.size > 1:
            distributed.say(f"devices: {devices.describe(mesh)}")
        started = time.perf_counter()
        on_epoch = _reporter(workdir, tensorboard=tensorboard and distributed.is_first())
        result = loop.fit(
            task,
            network.variables,
            optimizer,
            options,
            train=train,
            validation=validation,
            workdir=workdir,
            config=config,
            mesh=mesh,
            monitor=Monitor(progress, on_epoch, profile),
        )
        if distributed.is_first():
            _draw_curves(result.history, workdir)
    _say_result(result, mesh, seconds=time.perf_counter() - started, workdir=workdir)
    return result


def _claim(held: contextlib.ExitStack, workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Locks and claims the workdir, in process 0."""
    if distributed.is_first():
        held.enter_context(run_folder.locked(workdir))
        held.enter_context(claimed(workdir, config))


def _begin(
    groups: Mapping[str, dict[str, Any]], faces: data.FaceData, name: str, options: FitOptions, *, steps_per_epoch: int
) -> tuple[Trained, Callable[..., Any], Report | None]:
    """Returns the network to train, its apply function in training, and the report of loaded weights, if any."""
    chosen, init = dict(groups["model"]), groups["init"]
    dtype = chosen.pop("dtype", "float32")  # of the computation, so it is not in the spec
    if dtype not in DTYPES:
        raise errors.unknown("model.dtype", dtype, DTYPES)
    if init.get("network"):
        chosen = start.network_of(init.get("workdir") or init.get("pretrained", ""))
    module = call(models.create, "model", chosen, num_classes=len(faces.class_names))
    variables = init_variables(module, faces.image_shape, seed=options.seed)
    spec = make_spec(faces, chosen, variables, name=name, dataset_args=groups["data"])
    chosen_faults = ({**defaults()[group], **groups[group]} for group in ("augment", "camera"))
    spec = spec.replace(trained_corruptions=corruptions.trained_kinds(*chosen_faults))
    network, adopted = call(start.start, "init", init, fresh=Trained(spec, variables))
    network, apply_fn = call(
        quantization.prepare,
        "quant",
        groups["quant"],
        network=network,
        images=faces.splits["train"].images,
        batches_per_epoch=steps_per_epoch * options.accumulate,
        dtype=jnp.dtype(dtype),
    )
    return network, apply_fn, adopted


def _optimizer(
    groups: Mapping[str, dict[str, Any]], params: Any, *, epochs: int, steps_per_epoch: int
) -> optim.Optimizer:
    """Returns the optimizer with pruning last in its chain."""
    length = {"steps_per_epoch": steps_per_epoch, "epochs": epochs}
    plain = call(optim.create, "optim", groups["optim"], **length)
    pruned = groups["prune"]
    if pruned.get("structure") == "filter":  # the channels of the last layer are the classes
        pruned = {**pruned, "keep": (*pruned.get("keep", ()), models.OUTPUTS)}
    optimizer = call(optim.prune, "prune", pruned, optimizer=plain, **length)
    jax.eval_shape(optimizer.tx.init, params)  # raises if a rule matches no parameter
    return optimizer


def _teacher(
    config: Mapping[str, Any], groups: Mapping[str, dict[str, Any]], spec: ModelSpec
) -> tuple[Teacher, dict[str, Any]]:
    """Returns the teacher, and the configuration with the teacher's hashes."""
    _, theirs = objective.taps(groups["loss"].get("features", ()))
    dtype = jnp.dtype(groups["model"].get("dtype", "float32"))
    teacher = call(train_teacher.load, "teacher", groups["teacher"], spec=spec, taps=theirs, dtype=dtype)
    for path, each in zip(groups["teacher"]["workdirs"], teacher.specs, strict=True):
        scores = ", ".join(f"{100 * value:.1f} % on {split}" for split, value in each.accuracy.items())
        distributed.say(f"teacher: {each.architecture}, {scores or 'no score recorded'}; {path}")
    hashes = [each.params_sha256 for each in teacher.specs]
    return teacher, {**config, "teacher": {**groups["teacher"], "sha256": hashes}}


def _task(
    groups: Mapping[str, dict[str, Any]],
    network: Trained,
    apply_fn: Callable[..., Any],
    faces: data.FaceData,
    teacher: Teacher | None,
) -> Task:
    """Returns the task: learning from labels, or from labels and a teacher."""
    more: dict[str, Any] = {}
    taps: tuple[str, ...] = ()
    if teacher is not None:
        if teacher.stored_views:
            stored_views.check(groups)
        heads = models.teacher_heads(network.module)
        taps = (*objective.taps(groups["loss"].get("features", ()))[0], *heads)
        more = {"teachers": len(teacher.specs), "heads": heads}
    elif groups["teacher"].get("stored_views"):
        distributed.say("teacher.stored_views is ignored without a teacher: each epoch augments anew")
    return Task(
        apply=apply_fn,
        loss=call(objective.make_loss, "loss", groups["loss"], faces=faces, **more),
        spec=network.spec,
        augment=call(augment.create, "augment", groups["augment"]),
        camera=call(camera.create, "camera", groups["camera"]),
        teacher=teacher,
        taps=taps,
        eval_apply=network.apply,
        compiler_options=models.compiler_options(network.module, *(teacher.modules if teacher else ())),
    )


def init_variables(module: Any, image_shape: tuple[int, int, int], *, seed: int) -> dict[str, Any]:
    """Initializes the variables of a network for images (height, width, channels)."""
    key = jax.random.fold_in(jax.random.key(seed), 0x1417)
    example = np.zeros((1, *image_shape), np.float32)
    # It runs once. On CPUs, LLVM's optimization passes take longer than everything else before the first step.
    options = {"xla_backend_optimization_level": 0} if cpu.wanted() else {}
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
    """Returns the spec of a network trained on a data set: preprocessing, classes, architecture and provenance."""
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
        dataset_args={k: v for k, v in dataset_args.items() if k not in ("name", *data.READ_OPTIONS)},
        dataset_sha256=faces.sha256,
        source_run=name,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        license=LICENSE,
    )


def _reporter(workdir: pathlib.Path, *, tensorboard: bool) -> Callable[[list[dict[str, Any]]], None]:
    """Returns the callback of `fit` after an epoch: draws curves at most once a minute, writes TensorBoard events."""
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
            _draw_curves(history, workdir)
            drawn = time.monotonic()

    return on_epoch


def _draw_curves(history: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> None:
    from ferjax.evaluate import report  # matplotlib takes half a second, which the first step does not wait for

    report.plot_curves(history, workdir / "curves.png")


def _say_result(result: loop.Result, mesh: Mesh, *, seconds: float, workdir: pathlib.Path) -> None:
    if peak := profiling.peak_memory(mesh):
        where = "this process" if devices.on_cpu(mesh) else "a device"
        distributed.say(f"peak memory of {where}: {peak / 1e9:.2f} GB")
    best = result.best
    distributed.say(
        f"best validation accuracy {best['validation_accuracy']:.4f}, macro-F1 {best['validation_macro_f1']:.4f}, "
        f"epoch {best['epoch']} of {len(result.history)}, {seconds:.0f} s; {workdir}"
    )
