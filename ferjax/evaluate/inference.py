"""Runs a network in evaluation mode: a jitted step, and a loop that evaluates each image exactly once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ferjax import augment as augmentation
from ferjax import cli, devices, errors
from ferjax.weights import Trained

ApplyFn = Callable[..., Any]
EvalStep = Callable[[Any, jax.Array], jax.Array]


def make_eval_step(
    apply_fn: ApplyFn, *, mean: Sequence[float], std: Sequence[float], mesh: Mesh | None = None
) -> EvalStep:
    """Returns the jitted function (variables, images uint8 (N, H, W, C)) -> logits float32 (N, classes).

    `mean` and `std` are per channel, on the 0..1 scale. The devices of `mesh` share each batch; the logits are
    replicated over them.
    """

    def step(variables: Any, images: jax.Array) -> jax.Array:
        inputs = augmentation.normalize(augmentation.to_float(images), mean=mean, std=std)
        return apply_fn(variables, inputs, train=False).astype(jnp.float32)

    return jax.jit(step) if mesh is None else jax.jit(step, out_shardings=devices.replicated_sharding(mesh))


def predict(
    eval_step: EvalStep, variables: Any, images: Any, *, batch_size: int = 256, mesh: Mesh | None = None
) -> np.ndarray:
    """Returns the logits of all images; the last batch is padded to full size.

    Args:
      eval_step: from `make_eval_step`.
      variables: the model's variables.
      images: uint8 (N, H, W, C), N at least 1; the same in every process.
      batch_size: images per call, rounded up to a multiple of the number of devices.
      mesh: devices that share each batch.

    Returns:
      float32 logits (N, classes).

    Raises:
      InputError: if there are no images.
    """
    count = len(images)
    if not count:
        raise errors.InputError("cannot evaluate an empty split")
    parts = 1 if mesh is None else mesh.size
    size = -(-min(batch_size, count) // parts) * parts
    logits = []
    for start in cli.progress(range(0, count, size), what="scoring"):
        batch = np.asarray(images[start : start + size])
        batch = np.pad(batch, [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1))
        logits.append(
            eval_step(variables, jnp.asarray(batch) if mesh is None else devices.shard_full_batch(batch, mesh))
        )
    return np.concatenate([np.asarray(l) for l in logits])[:count]


def make_predict(network: Trained, *, batch_size: int = 256) -> Callable[[Any], np.ndarray]:
    """Returns a trained network as a function of uint8 images (N, H, W, C) to float32 logits (N, classes).

    The function is traced once per batch size. It raises InputError for an empty split and for non-finite logits.
    """
    step = make_eval_step(network.apply, mean=network.spec.mean, std=network.spec.std)

    def logits(images: Any) -> np.ndarray:
        found = predict(step, network.variables, images, batch_size=batch_size)
        if not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).any(1).sum())
            raise errors.InputError(
                f"the model returns non-finite logits for {bad} of {cli.counted(len(found), 'image')}"
            )
        return found

    return logits


def logits(network: Trained, images: Any, *, batch_size: int = 256) -> np.ndarray:
    """Returns the float32 logits (N, classes) of uint8 images (N, H, W, C), see `make_predict`."""
    return make_predict(network, batch_size=batch_size)(images)
