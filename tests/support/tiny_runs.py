"""Training runs of the network of tiny.py."""

from ferjax.train import loop
from ferjax.train.monitor import Monitor
from ferjax.train.options import FitOptions
from tests.support import tiny


def fit(workdir, *, task=None, variables=None, optimizer=None, train=None, on_epoch=None, profile=0, **options):
    """Trains the network, or another one for the same images, in a folder; options are those of `FitOptions`."""
    return loop.fit(
        task or tiny.task(),
        variables or tiny.variables(),
        optimizer or tiny.optimizer(),
        FitOptions(**{"epochs": 5, "batch_size": 8, **options}),
        train=train or tiny.faces(50),
        validation=tiny.faces(33, seed=2),
        workdir=workdir,
        monitor=Monitor(progress=False, on_epoch=on_epoch, profile=profile),
    )
