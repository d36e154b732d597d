"""Runs that are stopped: the stop, and all that a resumed run has to equal."""

from ferjax.weights import checkpoint


def files(workdir):
    """Returns what has to be equal after a resume: metrics to the byte, arrays and contract of best and last."""
    found = {"metrics": (workdir / "metrics.jsonl").read_bytes()}
    for kind in checkpoint.KINDS:
        (spec, variables), meta = checkpoint.read(workdir, kind)
        found[kind] = (spec, checkpoint.fingerprint(variables), meta["fingerprint"], meta["step"], meta["history"])
    return found


class Stop(BaseException):
    """Stands for the machine going away."""


def stop_after(function, calls):
    """Returns the function, which after so many calls does its work and then stops everything."""
    count = 0

    def wrapped(*args, **kwargs):
        nonlocal count
        result = function(*args, **kwargs)
        count += 1
        if count == calls:
            raise Stop
        return result

    return wrapped
