"""Images and targets of two examples mixed: mixup and CutMix."""

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]


def random_mix(key: jax.Array, batch: Batch, *, mixup: float, cutmix: float, probability: float = 1.0) -> Batch:
    """Mixes each example with its neighbour in the batch, its targets in the same shares.

    A batch draws one share λ ~ Beta(α, α). Mixup (Zhang et al. 2018) blends the images, λ of the example and 1 − λ of
    its neighbour; CutMix (Yun et al. 2019) pastes a rectangle of area 1 − λ at a random place, cut off at the border,
    and λ becomes what is left of the example. Where both are on, each batch takes one of them, evenly.

    Args:
      key: a PRNG key.
      batch: images (N, H, W, C) and targets (N, classes).
      mixup: mixup's α; 0 switches it off.
      cutmix: CutMix's α; 0 switches it off; not both.
      probability: of mixing a batch at all.

    Returns:
      The batch with new images and targets, the same types.
    """
    images, targets = batch["images"], batch["targets"]
    keys = jax.random.split(key, 4)
    size, dtype = images.shape[1:3], images.dtype
    pasting = jax.random.bernoulli(keys[0], 0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = jnp.where(pasting, jnp.array(cutmix or 1.0, dtype), jnp.array(mixup or 1.0, dtype))
    share = jax.random.beta(keys[1], alpha, alpha, dtype=dtype)
    mask = jnp.where(pasting, _outside_rectangle(keys[2], 1 - share, size), jnp.full(size, share))
    mask = jnp.where(jax.random.bernoulli(keys[3], probability), mask, jnp.ones_like(mask))
    pixels, kept = mask[None, :, :, None], mask.mean().astype(targets.dtype)
    return {
        **batch,
        "images": pixels * images + (1 - pixels) * jnp.roll(images, 1, axis=0),
        "targets": kept * targets + (1 - kept) * jnp.roll(targets, 1, axis=0),
    }


def _outside_rectangle(key: jax.Array, area: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Returns (H, W): 0 in a rectangle of the image's proportions about a random centre, 1 around it."""
    dtype = area.dtype
    centre = jax.random.uniform(key, (2,), dtype)
    inside = [
        jnp.abs((jnp.arange(length, dtype=dtype) + 0.5) / length - at) < jnp.sqrt(area) / 2
        for length, at in zip(size, centre, strict=True)
    ]
    return 1 - (inside[0][:, None] & inside[1][None, :]).astype(dtype)
