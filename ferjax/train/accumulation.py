"""Gradient accumulation: a batch that does not fit a device at once is learned from in micro-batches.

The mean of the micro-batches' gradients is the batch's gradient, so that learning rate and schedule stay what they are.
What the network does across examples, it does within a micro-batch: batch normalisation takes its mean and variance
over one (Hoffer et al. 2017 call it ghost batch normalisation), and running statistics move once for each.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Learned(NamedTuple):
    """What a (micro-)batch teaches.

    Attributes:
      grads: of the mean loss by the parameters.
      changed: the collections after it.
      loss: scalar, the mean over the examples.
      total: scalar, their sum.
      correct: int32, see `ferjax.train.step.Sums`.
      agreed: int32, or () without a teacher.
    """

    grads: Any
    changed: Any
    loss: jax.Array
    total: jax.Array
    correct: jax.Array
    agreed: Any


Learn = Callable[[Any, Mapping[str, jax.Array], jax.Array], Learned]
Loop = Callable[..., tuple[Any, Any]]


def learn_in_parts(
    learn: Learn,
    collections: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    *,
    parts: int,
    loop: Loop = jax.lax.scan,
) -> Learned:
    """Learns from micro-batches, one after the other.

    Micro-batch i holds the examples i, i + parts, i + 2 · parts, …: each device keeps the examples that it has.

    Args:
      learn: (collections, batch, key) -> `Learned`.
      collections: what the first micro-batch starts from; each goes on from the one before.
      batch: arrays (N, …), N a multiple of `parts`.
      key: micro-batch i takes fold_in(key, i).
      parts: micro-batches.
      loop: `jax.lax.scan`, or what does the same.

    Returns:
      Mean gradients and loss, sums of the rest, and the collections after the last.
    """
    cut = {name: a.reshape(len(a) // parts, parts, *a.shape[1:]) for name, a in batch.items()}

    def one(carry: Any, index: jax.Array) -> tuple[Any, None]:
        so_far, collections = carry
        place = _after(so_far.grads, index)
        piece = {name: jax.lax.dynamic_index_in_dim(a, place, 1, keepdims=False) for name, a in cut.items()}
        new = learn(collections, piece, jax.random.fold_in(key, index))
        so_far = jax.tree.map(jnp.add, so_far, new._replace(changed=()))
        return (so_far, {**collections, **new.changed}), None

    example = {name: jax.ShapeDtypeStruct(a[:, 0].shape, a.dtype) for name, a in cut.items()}
    shapes = jax.eval_shape(learn, collections, example, key)._replace(changed=())
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (sums, collections), _ = loop(one, (start, collections), jnp.arange(parts, dtype=jnp.int32))
    grads, loss = jax.tree.map(lambda a: a / parts, (sums.grads, sums.loss))
    return sums._replace(grads=grads, loss=loss, changed=collections)


def _after(grads: Any, index: jax.Array) -> jax.Array:
    """Returns the index, in a way that needs the gradients: where they are not finite, the run stops anyway.

    Without a loop in the program, XLA would work on all micro-batches at once, which saves no memory, and its CPU
    backend drops `jax.lax.optimization_barrier` before it orders the operations: a step of 13.3 MB took 12.1 MB in
    eight parts behind the barrier, and takes 1.7 MB (temporary memory, jax 0.10).
    """
    some = sum(jnp.isnan(leaf.reshape(-1)[0]).astype(jnp.int32) for leaf in jax.tree.leaves(grads) if leaf.size)
    return index + some
