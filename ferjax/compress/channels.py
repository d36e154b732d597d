"""Channels of a network: scored, removed, and the statistics of what is left taken anew."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import augment, losses
from ferjax.prune import slim
from ferjax.weights import Trained

_BATCH = 64
_LOOKS = 50  # of the running averages; each keeps nine tenths of what was there, so that 0.5 % of it is left


def groups(network: Trained) -> tuple[slim.Group, ...]:
    """Returns the channels that can be removed.

    Raises:
      InputError: for a network without rules.
    """
    return slim.find_groups(network.spec.architecture, network.spec.architecture_args)


def scores(network: Trained, slopes: Any = None) -> dict[str, np.ndarray]:
    """Returns how much each channel matters, see `ferjax.prune.slim.channel_scores`."""
    return slim.channel_scores(groups(network), network.variables, slopes)


def slimmed(network: Trained, scores: Mapping[str, np.ndarray], price: slim.CostFn, target: float) -> Trained:
    """Returns the network with the best channels that a target allows, see `ferjax.prune.slim.choose`."""
    spec, classes = network.spec, len(network.spec.class_names)
    keep = slim.choose(
        spec.architecture, spec.architecture_args, scores, cost_of=price, target=target, num_classes=classes
    )
    return cut(network, keep)


def cut(network: Trained, keep: Mapping[str, np.ndarray]) -> Trained:
    """Returns the network with these channels of each group alone, see `ferjax.prune.slim.cut`."""
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
    """Returns the network with the statistics of its normalisations taken anew; as it is where it has none.

    What a removed channel or weight gave is missing from every sum behind it: with the statistics of before, a network
    that is cut hard answers by chance.

    Args:
      network: the network.
      images: uint8 (N, H, W, C) training images.
    """
    if "batch_stats" not in network.variables:
        return network
    spec, apply_fn = network.spec, network.apply

    @jax.jit
    def look(variables: Any, pixels: jax.Array, key: jax.Array) -> Any:
        inputs = augment.normalize(augment.to_float(pixels), mean=spec.mean, std=spec.std)
        return apply_fn(variables, inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key})[1]["batch_stats"]

    variables, rng = dict(network.variables), np.random.default_rng(0)
    for step in range(_LOOKS):
        chosen = rng.permutation(len(images))[:_BATCH]
        statistics = look(variables, jnp.asarray(images[chosen]), jax.random.key(step))
        variables["batch_stats"] = statistics
    return Trained(spec, variables)


def loss(network: Trained, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of a network in evaluation mode.

    Args:
      network: the network.
      images: uint8 (N, H, W, C).
      labels: int (N,).
    """
    total = _sums(network, images, labels, lambda f: f)
    return float(total) / len(labels)


def gradients(network: Trained, images: np.ndarray, labels: np.ndarray) -> Any:
    """Returns the gradient of the summed cross-entropy with respect to the parameters, in evaluation mode.

    Args:
      network: the network.
      images: uint8 (N, H, W, C).
      labels: int (N,).
    """
    return _sums(network, images, labels, jax.grad)


def _sums(network: Trained, images: np.ndarray, labels: np.ndarray, transform: Any) -> Any:
    """Returns the summed loss, or what `transform` makes of that function of the parameters, over all images."""
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
