"""Mixes images and targets of two examples: mixup and CutMix."""

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]


def random_mix(key: jax.Array, batch: Batch, *, mixup: float, cutmix: float, probability: float = 1.0) -> Batch:
    """Mixes each example with the previous one in the batch, images and targets in the same proportion.

    λ ~ Beta(α, α) is sampled once per batch. Mixup (Zhang et al. 2018) blends λ of the example with 1 − λ of the other.
    CutMix (Yun et al. 2019) pastes a rectangle of area 1 − λ of the other at a random position, clipped at the border;
    λ is then the remaining area. If both are on, each batch uses one of them with probability 1/2.

    Args:
      key: PRNG key.
      batch: images (N, H, W, C) and targets (N, classes).
      mixup: α of mixup; 0 is off.
      cutmix: α of CutMix; 0 is off. At least one of the two is greater than 0.
      probability: probability of mixing the batch.

    Returns:
      The batch with mixed images and targets, same dtypes.
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
    """Returns a mask (H, W): 0 in a rectangle with the image's aspect ratio and a random center, 1 outside."""
    dtype = area.dtype
    center = jax.random.uniform(key, (2,), dtype)
    inside = [
        jnp.abs((jnp.arange(length, dtype=dtype) + 0.5) / length - at) < jnp.sqrt(area) / 2
        for length, at in zip(size, center, strict=True)
    ]
    return 1 - (inside[0][:, None] & inside[1][None, :]).astype(dtype)
