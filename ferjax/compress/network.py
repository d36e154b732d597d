"""A network with its variables, what can be cut from it, and what was."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, losses, models, prune
from ferjax.models.costs import cost
from ferjax.prune import slim
from ferjax.spec import ModelSpec
from ferjax.trees import path_name
from ferjax.weights import trained

_BATCH = 64
_LOOKS = 50  # of the running averages; each keeps nine tenths of what was there, so that 0.5 % of it is left


class Model(NamedTuple):
    """A trained network.

    Attributes:
      spec: its contract.
      variables: {"params": …, other collections}.
    """

    spec: ModelSpec
    variables: Mapping[str, Any]

    @property
    def groups(self) -> tuple[slim.Group, ...]:
        """The channels that can be removed; InputError for a network without rules."""
        return slim.find_groups(self.spec.architecture, self.spec.architecture_args)

    def scores(self, slopes: Any = None) -> dict[str, np.ndarray]:
        """Returns how much each channel matters, see `ferjax.prune.slim.channel_scores`."""
        return slim.channel_scores(self.groups, self.variables, slopes)

    def slimmed(self, scores: Mapping[str, np.ndarray], price: slim.CostFn, target: float) -> "Model":
        """Returns the network with the best channels that a target allows, see `ferjax.prune.slim.choose`."""
        spec, classes = self.spec, len(self.spec.class_names)
        keep = slim.choose(
            spec.architecture, spec.architecture_args, scores, cost_of=price, target=target, num_classes=classes
        )
        return self.cut(keep)

    def cut(self, keep: Mapping[str, np.ndarray]) -> "Model":
        """Returns the network with these channels of each group alone, see `ferjax.prune.slim.cut`."""
        spec = self.spec
        arguments, variables = slim.cut(
            spec.architecture,
            spec.architecture_args,
            self.variables,
            keep,
            image_shape=spec.input_shape,
            num_classes=len(spec.class_names),
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        return Model(spec.replace(architecture_args=arguments, parameters=size), variables)


def refreshed(model: Model, images: np.ndarray) -> Model:
    """Returns the network with the statistics of its normalisations taken anew; as it is where it has none.

    What a removed channel or weight gave is missing from every sum behind it: with the statistics of before, a network
    that is cut hard answers by chance.

    Args:
      model: the network.
      images: uint8 (N, H, W, C) training images.
    """
    if "batch_stats" not in model.variables:
        return model
    spec, apply_fn = model.spec, trained.create(model.spec).apply

    @jax.jit
    def look(variables: Any, pixels: jax.Array, key: jax.Array) -> Any:
        inputs = augment.normalize(augment.to_float(pixels), mean=spec.mean, std=spec.std)
        return apply_fn(variables, inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key})[1]["batch_stats"]

    variables, rng = dict(model.variables), np.random.default_rng(0)
    for step in range(_LOOKS):
        chosen = rng.permutation(len(images))[:_BATCH]
        statistics = look(variables, jnp.asarray(images[chosen]), jax.random.key(step))
        variables["batch_stats"] = statistics
    return Model(spec, variables)


def loss(model: Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of a network in evaluation mode.

    Args:
      model: the network.
      images: uint8 (N, H, W, C).
      labels: int (N,).
    """
    total = _sums(model, images, labels, lambda f: f)
    return float(total) / len(labels)


def gradients(model: Model, images: np.ndarray, labels: np.ndarray) -> Any:
    """Returns the gradient of the summed cross-entropy with respect to the parameters, in evaluation mode.

    Args:
      model: the network.
      images: uint8 (N, H, W, C).
      labels: int (N,).
    """
    return _sums(model, images, labels, jax.grad)


def _sums(model: Model, images: np.ndarray, labels: np.ndarray, transform: Any) -> Any:
    """Returns the summed loss, or what `transform` makes of that function of the parameters, over all images."""
    spec, apply_fn = model.spec, trained.create(model.spec).apply
    rest = {k: v for k, v in model.variables.items() if k != "params"}

    @jax.jit
    def part(params: Any, pixels: jax.Array, targets: jax.Array) -> Any:
        def summed(params: Any) -> jax.Array:
            inputs = augment.normalize(augment.to_float(pixels), mean=spec.mean, std=spec.std)
            return losses.cross_entropy(apply_fn({"params": params, **rest}, inputs, train=False), targets).sum()

        return transform(summed)(params)

    targets = np.eye(len(spec.class_names), dtype=np.float32)[labels]
    found = [
        part(model.variables["params"], jnp.asarray(images[i : i + _BATCH]), jnp.asarray(targets[i : i + _BATCH]))
        for i in range(0, len(images), _BATCH)
    ]
    return jax.tree.map(lambda *sums: jnp.sum(jnp.stack(sums), axis=0), *found)


def report(before: Model, after: Model) -> dict[str, Any]:
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


def _size(model: Model) -> dict[str, Any]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(model.variables["params"])]
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "nonzeros": sum(int(np.count_nonzero(leaf)) for leaf in leaves),
        "macs": cost(models.for_export(trained.create(model.spec).module), model.spec.input_shape).macs,
        "quantization": model.spec.quantization,
    }


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
