"""A network of a few numbers that has all that a real one has: batch statistics, dropout, parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import losses
from ferjax.spec import ModelSpec
from ferjax.train import optim
from ferjax.train.step import Task

CLASSES, SIDE = 3, 4
SPEC = ModelSpec(
    class_names=("a", "b", "c"), input_size=(SIDE, SIDE), color_order="gray", mean=(0.5,), std=(0.25,), architecture="x"
)


def variables(seed=0):
    weights = np.random.default_rng(seed).normal(0, 0.1, (SIDE * SIDE, CLASSES))
    params = {"kernel": jnp.array(weights, jnp.float32), "bias": jnp.zeros(CLASSES)}
    return {"params": params, "batch_stats": {"mean": jnp.zeros(SIDE * SIDE)}}


def apply_fn(variables, x, *, train, mutable=False, rngs=None):
    flat, mean = x.reshape(len(x), -1), variables["batch_stats"]["mean"]
    if train:
        now = flat.mean(0)
        mean, used = 0.9 * mean + 0.1 * now, now
        flat = flat * jax.random.bernoulli(rngs["dropout"], 0.9, flat.shape).astype(flat.dtype) / 0.9
    else:
        used = mean
    logits = (flat - used[None]) @ variables["params"]["kernel"] + variables["params"]["bias"][None]
    return (logits, {"batch_stats": {"mean": mean}}) if mutable is not False else logits


def faces(count=50, seed=1):
    """Images whose class shows in which third of the pixels is bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count).astype(np.int32)
    images = rng.integers(0, 160, (count, SIDE, SIDE, 1)).astype(np.uint8)
    images[np.arange(count), labels] += 60
    return {"images": images, "labels": labels}


def optimizer(name="sgd", learning_rate=0.1, **more):
    return optim.create(name, learning_rate=learning_rate, steps_per_epoch=6, epochs=5, **more)


loss_fn = losses.cross_entropy


def task(**more):
    """Returns what is learned: the network's own loss on labels, unless it is said otherwise."""
    return Task(**{"apply": apply_fn, "loss": loss_fn, "spec": SPEC, **more})
