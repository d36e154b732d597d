"""Scores and removes the channels of a trained network, and recomputes its running statistics."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, losses
from ferjax.prune import slim
from ferjax.weights import Trained

_BATCH = 64
_UPDATES = 50  # of the running statistics; with a momentum of 0.9, 0.5 % of the old values remain


def groups(network: Trained) -> tuple[slim.Group, ...]:
    """Returns the groups of removable channels; raises InputError if there are no rules for the architecture."""
    return slim.find_groups(network.spec.architecture, network.spec.architecture_args)


def scores(network: Trained, slopes: Any = None) -> dict[str, np.ndarray]:
    """Returns the scores of the channels, see `ferjax.prune.slim.channel_scores`."""
    return slim.channel_scores(groups(network), network.variables, slopes)


def slimmed(network: Trained, scores: Mapping[str, np.ndarray], price: slim.CostFn, target: float) -> Trained:
    """Returns the network with the best channels within a target cost, see `ferjax.prune.slim.choose`."""
    spec, classes = network.spec, len(network.spec.class_names)
    keep = slim.choose(
        spec.architecture, spec.architecture_args, scores, cost_of=price, target=target, num_classes=classes
    )
    return cut(network, keep)


def cut(network: Trained, keep: Mapping[str, np.ndarray]) -> Trained:
    """Returns the network with only these channels of each group, see `ferjax.prune.slim.cut`."""
    spec = network.spec
    arguments, variables = slim.cut(
        spec.architecture,
        spec.architecture_args,
        network.variables,
        keep,
        image_shape=spec.input_shape,
        num_classes=len(spec.class_names),
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return Trained(spec.replace(architecture_args=arguments, parameters=size), variables)


def refreshed(network: Trained, images: np.ndarray) -> Trained:
    """Returns the network with running statistics, if it has any, recomputed on uint8 training images (N, H, W, C).

    With the old statistics, a network that lost many channels predicts at chance level.
    """
    if "batch_stats" not in network.variables:
        return network
    spec, apply_fn = network.spec, network.apply

    @jax.jit
    def update(variables: Any, pixels: jax.Array, key: jax.Array) -> Any:
        inputs = augment.normalize(augment.to_float(pixels), mean=spec.mean, std=spec.std)
        return apply_fn(variables, inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key})[1]["batch_stats"]

    variables, rng = dict(network.variables), np.random.default_rng(0)
    for step in range(_UPDATES):
        chosen = rng.permutation(len(images))[:_BATCH]
        variables["batch_stats"] = update(variables, jnp.asarray(images[chosen]), jax.random.key(step))
    return Trained(spec, variables)


def loss(network: Trained, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy on uint8 images (N, H, W, C) and int labels (N,) in evaluation mode."""
    return float(_sums(network, images, labels, lambda f: f)) / len(labels)


def gradients(network: Trained, images: np.ndarray, labels: np.ndarray) -> Any:
    """Returns the gradient of the summed cross-entropy with respect to the parameters; arguments as in `loss`."""
    return _sums(network, images, labels, jax.grad)


def _sums(network: Trained, images: np.ndarray, labels: np.ndarray, transform: Any) -> Any:
    """Returns the sum over all batches of `transform` of the summed loss, a function of the parameters."""
    spec, apply_fn = network.spec, network.apply
    rest = {k: v for k, v in network.variables.items() if k != "params"}

    @jax.jit
    def part(params: Any, pixels: jax.Array, targets: jax.Array) -> Any:
        def summed(params: Any) -> jax.Array:
            inputs = augment.normalize(augment.to_float(pixels), mean=spec.mean, std=spec.std)
            return losses.cross_entropy(apply_fn({"params": params, **rest}, inputs, train=False), targets).sum()

        return transform(summed)(params)

    targets = np.eye(len(spec.class_names), dtype=np.float32)[labels]
    found = [
        part(network.variables["params"], jnp.asarray(images[i : i + _BATCH]), jnp.asarray(targets[i : i + _BATCH]))
        for i in range(0, len(images), _BATCH)
    ]
    return jax.tree.map(lambda *sums: jnp.sum(jnp.stack(sums), axis=0), *found)
