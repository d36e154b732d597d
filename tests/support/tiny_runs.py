"""Training runs of the network of tiny.py."""

from ferjax.train import loop
from tests.support import tiny


def fit(workdir, *, apply_fn=tiny.apply_fn, variables=None, optimizer=None, loss_fn=tiny.loss_fn, train=None, **more):
    """Trains the network, or another one for the same images, in a folder."""
    return loop.fit(
        apply_fn,
        variables or tiny.variables(),
        optimizer or tiny.optimizer(),
        loss_fn,
        train=train or tiny.faces(50),
        validation=tiny.faces(33, seed=2),
        spec=tiny.SPEC,
        workdir=workdir,
        **{"epochs": 5, "batch_size": 8, "progress": False, **more},
    )
