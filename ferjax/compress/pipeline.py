"""Compresses a trained network by steps in a fixed order and writes a workdir with a report."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ferjax import data, errors, folders, models, prune, weights
from ferjax.compress import budget
from ferjax.compress.channels import cut, gradients, groups, refreshed, scores, slimmed
from ferjax.evaluate import inference, metrics, predictor
from ferjax.models.costs import cost
from ferjax.prune import slim
from ferjax.train import quantization
from ferjax.trees import path_name
from ferjax.weights import Trained, checkpoint, trained

RECORD = "compress.json"
_IMAGES = 512


class Steps(NamedTuple):
    """The steps of a compression; 0 or False skips a step.

    Attributes:
      sparsity: share of units to prune.
      structure: see `ferjax.prune.prune`.
      distribution: see `ferjax.prune.prune`.
      score: "magnitude" or "gradient_weight", for weights, filters and channels.
      keep: regular expressions of parameter paths to leave unpruned; pruning of filters never removes classes.
      dead: whether to remove channels whose output is always zero.
      macs: maximum multiply-accumulate operations; up to 1, a share of the network's.
      parameters: maximum parameters; up to 1, a share of the network's.
      latency: maximum milliseconds for one image, see `budget.latency`.
      fold: whether to fold batch normalizations.
      bits: bits of the weights, 8 or 4; activations have 8.
      target_bytes: maximum size of the exported TFLite file; sets bits and widths.
    """

    sparsity: float = 0.0
    structure: str = "weight"
    distribution: str = "global"
    score: str = "gradient_weight"
    keep: tuple[str, ...] = ()
    dead: bool = False
    macs: float = 0.0
    parameters: float = 0.0
    latency: float = 0.0
    fold: bool = False
    bits: int = 0
    target_bytes: int = 0


_PRUNING = ("structure", "distribution", "keep")
_OPTIONS = (*_PRUNING, "score")


def compress(
    model: pathlib.Path | str, out: pathlib.Path | str, steps: Steps, *, data_dir: pathlib.Path | str | None = None
) -> dict[str, Any]:
    """Writes a compressed network to a new workdir.

    Args:
      model: a workdir or a .safetensors file.
      out: a folder that does not exist or is empty.
      steps: what to do.
      data_dir: folder of prepared data.

    Returns:
      The result of `report`, with the validation accuracy before and after, as stored in compress.json.

    Raises:
      InputError: if no step is given, a step is impossible, or a folder cannot be used.
    """
    out = pathlib.Path(out)
    _check(steps)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.InputError(f"{out} exists: choose another --out")
    folders.check_replaceable(out)
    checkpoint.check_path(out)
    no_run: dict[str, Any] = {"config": {}, "history": [], "step": 0}
    whole, meta = checkpoint.read(model) if pathlib.Path(model).is_dir() else (weights.load(model), no_run)
    spec = whole.spec
    faces = data.load(spec.dataset, data_dir=data_dir, **spec.dataset_args)
    places = predictor.check_fit(spec, faces)
    # The calibration does not hold for the compressed network.
    dense = whole._replace(spec=spec.replace(temperature=1.0, abstention_threshold=0.0))
    train = faces.splits["train"]
    smaller = apply(dense, steps, train._replace(labels=places[train.labels]))
    result = {"model": str(model), "wish": steps._asdict(), **report(dense, smaller)}
    for name, each in (("before", dense), ("after", smaller)):
        result[name]["accuracy"] = _accuracy(each, faces.splits["validation"], places)
    _write(out, smaller, meta, result)
    return result


def apply(network: Trained, steps: Steps, train: data.Split) -> Trained:
    """Returns the network after the steps, with 512 images of the training split, which has the network's labels.

    Raises InputError if a step is impossible for the network.
    """
    if steps.score not in prune.SCORES:
        raise errors.unknown("score", steps.score, prune.SCORES)
    if steps.bits and trained.weight_bits(network.spec):
        raise errors.InputError(f"--bits requires a float network, got {network.spec.quantization}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(train.labels))[:_IMAGES])
    images, labels = np.asarray(train.images[chosen]), np.asarray(train.labels)[chosen]

    def slopes(network: Trained) -> Any:
        return gradients(network, images, labels) if steps.score == "gradient_weight" else None

    if steps.sparsity:
        network = _pruned(network, steps, slopes(network))
    if steps.dead:
        network = cut(network, slim.keep_alive(groups(network), network.variables))
    for price, target in _limits(network, steps):
        network = slimmed(network, scores(network, slopes(network)), price, target)
    if steps.sparsity or steps.macs or steps.parameters or steps.latency:
        network = refreshed(network, images)
    if steps.target_bytes:
        network = budget.fit(network, steps.target_bytes, slopes=slopes, images=images, labels=labels)
    if steps.fold or steps.bits:
        network = quantization.fold(network)
    if steps.bits:
        network = quantization.quantize(network, images, bits=steps.bits)
    return network


def report(before: Trained, after: Trained) -> dict[str, Any]:
    """Compares a network before and after compression.

    Returns:
      `before` and `after`: each `parameters`, `nonzeros`, `macs`, `quantization`; `ratio`, Valverde's R (eq. 1);
      `layers`: for each kernel, its shape before and after and its share of zeros after, in 0..1.
    """
    shapes = [_shapes(m.variables["params"]) for m in (before, after)]
    zeros = prune.layer_sparsity(after.variables["params"])
    layers = {
        name: {"before": list(shapes[0][name]), "after": list(shapes[1][name]), "sparsity": share}
        for name, share in zeros.items()
    }
    ratio = prune.compression_ratio(before.variables["params"], after.variables["params"])
    return {"before": _size(before), "after": _size(after), "ratio": ratio, "layers": layers}


def text(result: Mapping[str, Any]) -> str:
    """Returns a report as text."""
    width = max(map(len, result["layers"]))
    lines = [f"{'layer':{width}}  {'before':>16}  {'after':>16}  zeros %"]
    for name, layer in result["layers"].items():
        was, now = ("×".join(map(str, layer[k])) for k in ("before", "after"))
        lines.append(f"{name:{width}}  {was:>16}  {now:>16}  {100 * layer['sparsity']:7.1f}")
    lines.append("")
    for key, form in (("parameters", ","), ("nonzeros", ","), ("macs", ","), ("accuracy", ".4f"), ("quantization", "")):
        if key in result["after"]:
            lines.append(f"{key:12} {result['before'][key]:>15{form}} -> {result['after'][key]:{form}}")
    lines.append(f"R = {result['ratio']:.2f} (parameters before / nonzeros after)")
    return "\n".join(lines)


def _pruned(network: Trained, steps: Steps, slopes: Any) -> Trained:
    """Returns the network with its least important units set to zero."""
    params = network.variables["params"]
    options = {key: getattr(steps, key) for key in _OPTIONS}
    if steps.structure == "filter":
        options["keep"] += (models.OUTPUTS,)
    tx = prune.prune(steps.sparsity, keep_zeros=True, **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params, gradients=slopes)
    return network._replace(variables={**network.variables, "params": optax.apply_updates(params, updates)})


def _limits(network: Trained, steps: Steps) -> list[tuple[slim.CostFn, float]]:
    """Returns the cost function and the maximum cost of each limit."""
    shape, module = network.spec.input_shape, network.module
    prices: list[tuple[Callable[..., slim.CostFn], float]] = [
        (slim.macs, steps.macs),
        (slim.parameters, steps.parameters),
    ]
    found = [(price(shape), limit * price(shape)(module) if limit <= 1 else limit) for price, limit in prices if limit]
    return [*found, *([(budget.latency(network.spec), steps.latency)] if steps.latency else [])]


def _check(steps: Steps) -> None:
    given = {key: value for key, value in steps._asdict().items() if key not in _OPTIONS}
    if not any(given.values()):
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise errors.InputError(f"no step is given: use one or more of {flags}")
    for key in ("macs", "parameters", "latency", "target_bytes"):
        if not given[key] >= 0:
            raise errors.InputError(f"--{key.replace('_', '-')} must be positive, got {given[key]}")
    if unused := [key for key in _PRUNING if not steps.sparsity and getattr(steps, key) != Steps._field_defaults[key]]:
        raise errors.InputError(f"--{unused[0]} requires --sparsity")
    if steps.bits not in (0, *trained.TRAINED.values()):
        raise errors.InputError(f"--bits must be 8 or 4, got {steps.bits}")
    if steps.target_bytes and steps.bits:
        raise errors.InputError("--target-bytes chooses the bits: remove --bits")


def _accuracy(network: Trained, split: data.Split, places: np.ndarray) -> float:
    logits = inference.logits(network, split.images)
    counts = metrics.confusion(places[split.labels], logits.argmax(1), len(network.spec.class_names))
    return float(metrics.accuracy(counts))


def _write(out: pathlib.Path, network: Trained, meta: dict[str, Any], result: dict[str, Any]) -> None:
    """Writes a workdir with a best and a last checkpoint, and compress.json."""
    arrays, step = jax.device_get(dict(network.variables)), int(meta["step"])
    spec = network.spec.replace(
        accuracy={"validation": result["after"]["accuracy"]}, params_sha256=checkpoint.fingerprint(arrays)
    )
    held = {"spec": spec.to_json(), "config": meta["config"], "history": meta["history"], "compressed": result}
    state = {"params": arrays["params"], "collections": {k: v for k, v in arrays.items() if k != "params"}}
    with folders.atomic_folder(out) as folder:
        checkpoint.save(folder, "last", step, state, held, keep=1)
        checkpoint.save(folder, "best", step, arrays, held, keep=1)
        (folder / RECORD).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _size(network: Trained) -> dict[str, Any]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(network.variables["params"])]
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "nonzeros": sum(int(np.count_nonzero(leaf)) for leaf in leaves),
        "macs": cost(models.for_export(network.module), network.spec.input_shape).macs,
        "quantization": network.spec.quantization,
    }


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
