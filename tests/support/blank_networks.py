"""Networks of zeros, to be filled from a file or a run, and such a run."""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax import models
from ferjax.weights import checkpoint

SMALL_RESNET = {"depths": (1, 1, 1), "widths": (4, 8, 8), "stem_width": 4}


def network(architecture, shape, **kwargs):
    """Returns the module and zeros in the shapes of its variables."""
    module = models.create(architecture, **kwargs)
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)
    return module, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables)


def write_run(folder, *, num_classes, spec):
    """Leaves the small ResNet with drawn weights as a run, and returns its variables."""
    _, empty = network("resnet20", (8, 8, 1), num_classes=num_classes, **SMALL_RESNET)
    rng = np.random.default_rng(3)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), empty)
    folder.mkdir()
    meta = {"spec": spec.to_json(), "config": {}, "history": []}
    checkpoint.save(folder, "best", 7, variables, meta, keep=1)
    return variables
