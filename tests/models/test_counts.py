"""Tests the parameter counts against those in the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import models

COUNTS = {
    # name: (trainable, statistics)
    "resnet18": (11_171_271, 9_600),  # Paraschiv's gray form with a linear head
    "deit_tiny": (5_525_767, 0),  # Qin's 21.08 MiB: 5,525,767 floats of 4 bytes
    "deit_tiny_distilled": (5_527_502, 0),  # one more token, its position, one more head: 192 + 192 + 192 * 7 + 7
    # MicroExpNet: MobileNetV3-Small's features, 927,008 less 2 * 9 * 16 for the gray stem; squeeze-and-excite
    # 2 * 576 * 144 + 144 + 576 = 166,608; classifier 576 * 256 + 256 + 256 * 7 + 7 = 149,511.
    "microexpnet": (1_242_839, 12_112),
    # 4,652,008 with ImageNet's thousand classes, less 993 columns of 1,280 weights and a bias.
    "efficientnet_lite0": (3_379_975, 42_016),
    # Valverde's 58,423 counts the BatchNorm statistics: 56,951 + 1,472.
    "mini_xception": (56_951, 1_472),
    # Paraschiv's experiment 1: (9 + 1) * 32 + (288 + 1) * 64 + (576 + 1) * 128 + 2 * (32 + 64) + 128 * 7 + 7.
    "baseline_cnn3": (93_767, 192),
}


def count(name):
    module = models.create(name)
    image = np.zeros((1, *models.default_input_shape(name)), np.float32)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(image), train=False))
    total = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    return total(variables["params"]), total({k: v for k, v in variables.items() if k != "params"})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_papers(name):
    assert count(name) == COUNTS[name]


@pytest.mark.parametrize("name", models.list_models())
def test_every_network_maps_its_images_to_logits(name):
    module = models.create(name, num_classes=5)
    image = np.zeros((2, *models.default_input_shape(name)), np.float32)
    logits, _ = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), jnp.asarray(image), train=False))
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
