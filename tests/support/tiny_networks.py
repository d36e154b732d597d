"""Every family of networks, small enough to compile in seconds, with weights that make all of its parts count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import models
from tests.support import quick

SMALL = {
    "resnet20": ({"depths": [2, 1, 1]}, (8, 8, 1)),
    "resnet18": ({"depths": [1, 2], "widths": [16, 24], "stem_width": 16, "head_hidden": [24]}, (8, 8, 1)),
    "resnet18_imagenet": ({"depths": [1, 1], "widths": [16, 24], "stem_width": 16}, (16, 16, 3)),
    "resnet50": ({"depths": [2, 1], "widths": [64, 96], "stem_width": 16}, (16, 16, 3)),
    "resnet50_caffe": ({"depths": [1, 1], "widths": [64, 96], "stem_width": 16}, (16, 16, 3)),
    "mobilenetv3_small": ({"width": 0.5, "head_hidden": [32], "depthwise": "conv"}, (16, 16, 3)),
    "microexpnet": ({"width": 0.5, "attention": 16, "depthwise": "conv"}, (16, 16, 1)),
    "efficientnet_lite0": (
        {
            "widths": [16, [16] + [24] * 15, [16, 24, 24, 16, 16, 24, 24, 24, 16, 16, 16, 24, 24, 24, 24, 16], 24],
            "depthwise": "conv",
        },
        (16, 16, 3),
    ),
    "mini_xception": ({"stem_widths": [16, 16], "widths": [16, 24], "depthwise": "conv"}, (12, 12, 1)),
    "deit_tiny": ({"depth": 2, "width": 24, "hidden": [32, 24], "patch": 8, "grid": [2, 2]}, (16, 16, 3)),
    "deit_tiny_distilled": ({"depth": 1, "width": 24, "hidden": [32], "patch": 8, "grid": [2, 2]}, (16, 16, 3)),
    "deit_attention_free": ({"width": 24, "patch": 8, "grid": [2, 2]}, (16, 16, 3)),
    "resemotenet": (
        {"stem_widths": [16, 16, 24], "widths": [24, 32], "squeezed": 16, "head_hidden": [32, 24], "head_dropout": []},
        (16, 16, 3),
    ),
    "baseline_cnn5": ({"widths": [16, 24, 32]}, (16, 16, 1)),
    "baseline_cnn3": ({"widths": [16, 24, 32]}, (16, 16, 1)),
}


def create(name, dtype=jnp.float32):
    """Returns the module, its arguments and the shape of its images."""
    arguments, shape = SMALL[name]
    return models.create(name, dtype=dtype, **arguments), dict(arguments), shape


def variables(module, shape, seed=0, dtype=np.float32):
    """Returns variables as training leaves them: no statistic, scale or shift is where it began."""
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        elif len(leaf.shape) < 2:
            value = rng.normal(0, 0.2, leaf.shape)
        else:
            value = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(value, dtype)

    return dict(jax.tree_util.tree_map_with_path(draw, shapes))


def images(shape, count=4, seed=1, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *shape)), dtype)


def logits(module, values, x):
    return np.asarray(quick.jit(functools.partial(module.apply, train=False))(values, x))
