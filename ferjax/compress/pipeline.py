"""What is asked for, done in order: pruned, slimmed, folded, rounded; the result a workdir with a record of it."""

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


class Wish(NamedTuple):
    """What is to be done with a network; 0 and False leave a step out.

    Attributes:
      sparsity: share of units to prune.
      structure: see `ferjax.prune.prune`.
      distribution: see `ferjax.prune.prune`.
      score: "magnitude" or "gradient_weight", of weights, filters and channels alike.
      keep: regular expressions over parameter paths that are not pruned; of whole filters, neither are the classes.
      dead: whether channels that give nothing but zero are removed.
      macs: largest number of multiply-accumulate operations; up to 1, as a share of the network's.
      parameters: the same of its parameters.
      latency: largest milliseconds for one image, see `budget.latency`.
      fold: whether normalisations are folded.
      bits: of the weights, 8 or 4, with 8-bit activations.
      target_bytes: largest size of the exported TFLite file; bits and widths are chosen.
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
_HOW = (*_PRUNING, "score")


def compress(
    model: pathlib.Path | str, out: pathlib.Path | str, wish: Wish, *, data_dir: pathlib.Path | str | None = None
) -> dict[str, Any]:
    """Writes a smaller network into a folder of its own.

    Args:
      model: the --workdir of a training run, or its weights as .safetensors.
      out: a folder that is not there, or empty.
      wish: what is to be done.
      data_dir: where the data set lies that the network was trained on.

    Returns:
      What was changed, as `report` says, and the accuracy on validation before and after; also in compress.json.

    Raises:
      InputError: if nothing is asked for, the folders cannot be used, or a wish cannot be met.
    """
    out = pathlib.Path(out)
    _check(wish)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.InputError(f"{out} is there: choose another --out")
    folders.check_replaceable(out)
    checkpoint.check_path(out)
    of_file: dict[str, Any] = {"config": {}, "history": [], "step": 0}
    whole, meta = checkpoint.read(model) if pathlib.Path(model).is_dir() else (weights.load(model), of_file)
    spec = whole.spec
    faces = data.load(spec.dataset, data_dir=data_dir, **spec.dataset_args)
    places = predictor.check_fit(spec, faces)
    # How confidences are to be read was fitted to the network as it was.
    dense = whole._replace(spec=spec.replace(temperature=1.0, abstention_threshold=0.0))
    train = faces.splits["train"]
    smaller = apply(dense, wish, train._replace(labels=places[train.labels]))
    result = {"model": str(model), "wish": wish._asdict(), **report(dense, smaller)}
    for name, each in (("before", dense), ("after", smaller)):
        result[name]["accuracy"] = _accuracy(each, faces.splits["validation"], places)
    _write(out, smaller, meta, result)
    return result


def apply(network: Trained, wish: Wish, train: data.Split) -> Trained:
    """Returns the smaller network.

    Args:
      network: to begin with.
      wish: what is to be done.
      train: the training split, of which 512 images show gradients, ranges and losses; labels are the network's.

    Raises:
      InputError: for a network without rules, one that rounds already where bits are asked for, or a wish that cannot
        be met.
    """
    if wish.score not in prune.SCORES:
        raise errors.unknown("score", wish.score, prune.SCORES)
    if wish.bits and trained.weight_bits(network.spec):
        raise errors.InputError(
            f"the run is quantised to {trained.weight_bits(network.spec)}-bit weights: leave out --bits"
        )
    chosen = np.sort(np.random.default_rng(0).permutation(len(train.labels))[:_IMAGES])
    images, labels = np.asarray(train.images[chosen]), np.asarray(train.labels)[chosen]

    def slopes(network: Trained) -> Any:
        return gradients(network, images, labels) if wish.score == "gradient_weight" else None

    if wish.sparsity:
        network = _pruned(network, wish, slopes(network))
    if wish.dead:
        network = cut(network, slim.keep_alive(groups(network), network.variables))
    for price, target in _limits(network, wish):
        network = slimmed(network, scores(network, slopes(network)), price, target)
    if wish.sparsity or wish.macs or wish.parameters or wish.latency:
        network = refreshed(network, images)
    if wish.target_bytes:
        network = budget.fit(network, wish.target_bytes, slopes=slopes, images=images, labels=labels)
    if wish.fold or wish.bits:
        network = quantization.fold(network)
    if wish.bits:
        network = quantization.quantize(network, images, bits=wish.bits)
    return network


def report(before: Trained, after: Trained) -> dict[str, Any]:
    """Returns what compression changed.

    Returns:
      `before` and `after`: each `parameters`, `nonzeros`, `macs`, `quantization`; `ratio`, Valverde's R (eq. 1);
      `layers`: for each kernel its shape before and after and its share of zeros now, 0 … 1.
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
    """Renders a report for a terminal."""
    width = max(map(len, result["layers"]))
    lines = [f"{'layer':{width}}  {'before':>16}  {'after':>16}  zeros %"]
    for name, layer in result["layers"].items():
        was, now = ("×".join(map(str, layer[k])) for k in ("before", "after"))
        lines.append(f"{name:{width}}  {was:>16}  {now:>16}  {100 * layer['sparsity']:7.1f}")
    lines.append("")
    for key, form in (("parameters", ","), ("nonzeros", ","), ("macs", ","), ("accuracy", ".4f"), ("quantization", "")):
        if key in result["after"]:
            lines.append(f"{key:12} {result['before'][key]:>15{form}} -> {result['after'][key]:{form}}")
    lines.append(f"R = {result['ratio']:.2f}, what there was over what is not zero")
    return "\n".join(lines)


def _pruned(network: Trained, wish: Wish, slopes: Any) -> Trained:
    """Returns the network with its least important units at zero, all at once."""
    params = network.variables["params"]
    how = {key: getattr(wish, key) for key in _HOW}
    if wish.structure == "filter":
        how["keep"] += (models.OUTPUTS,)
    tx = prune.prune(wish.sparsity, keep_zeros=True, **how)
    still = jax.tree.map(jnp.zeros_like, params)
    steps, _ = tx.update(still, tx.init(params), params, gradients=slopes)
    return network._replace(variables={**network.variables, "params": optax.apply_updates(params, steps)})


def _limits(network: Trained, wish: Wish) -> list[tuple[slim.CostFn, float]]:
    """Returns what a network costs, and the most it may, for each limit that is set."""
    shape, module = network.spec.input_shape, network.module
    prices: list[tuple[Callable[..., slim.CostFn], float]] = [
        (slim.macs, wish.macs),
        (slim.parameters, wish.parameters),
    ]
    found = [(price(shape), limit * price(shape)(module) if limit <= 1 else limit) for price, limit in prices if limit]
    return [*found, *([(budget.latency(network.spec), wish.latency)] if wish.latency else [])]


def _check(wish: Wish) -> None:
    asked = {key: value for key, value in wish._asdict().items() if key not in _HOW}
    if not any(asked.values()):
        options = ", ".join(f"--{key.replace('_', '-')}" for key in asked)
        raise errors.InputError(f"nothing is asked for: give one or more of {options}")
    for key in ("macs", "parameters", "latency", "target_bytes"):
        if not asked[key] >= 0:
            raise errors.InputError(f"--{key.replace('_', '-')} must be positive, got {asked[key]}")
    if idle := [key for key in _PRUNING if not wish.sparsity and getattr(wish, key) != Wish._field_defaults[key]]:
        raise errors.InputError(f"--{idle[0]} says how weights are pruned: give --sparsity too, or leave it out")
    if wish.bits not in (0, *trained.TRAINED.values()):
        raise errors.InputError(f"--bits must be 8 or 4, the width of the weights; got {wish.bits}")
    if wish.target_bytes and wish.bits:
        raise errors.InputError("--target-bytes chooses the bits: leave out --bits")


def _accuracy(network: Trained, split: data.Split, places: np.ndarray) -> float:
    logits = inference.logits(network, split.images)
    counts = metrics.confusion(places[split.labels], logits.argmax(1), len(network.spec.class_names))
    return float(metrics.accuracy(counts))


def _write(out: pathlib.Path, network: Trained, meta: dict[str, Any], result: dict[str, Any]) -> None:
    """Writes what training leaves: the best variables, a state to be read as the last one, and the record."""
    arrays, step = jax.device_get(dict(network.variables)), int(meta["step"])
    spec = network.spec.replace(
        accuracy={"validation": result["after"]["accuracy"]}, params_sha256=checkpoint.fingerprint(arrays)
    )
    held = {"spec": spec.to_json(), "config": meta["config"], "history": meta["history"], "compressed": result}
    state = {"params": arrays["params"], "collections": {k: v for k, v in arrays.items() if k != "params"}}
    with folders.atomic_folder(out) as folder:
        checkpoint.save(folder, "last", step, state, held, keep=1)
        checkpoint.save(folder, "best", step, arrays, held, keep=1)
        (folder / RECORD).write_text(json.dumps(result, indent=1) + "\n")


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
