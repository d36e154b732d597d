"""Where training starts: fresh variables, another framework's weights, or a run of one's own."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ferjax import errors, weights
from ferjax.models import OUTPUTS
from ferjax.weights import Trained, single_file
from ferjax.weights.pretrained import HEAD, Report, adopt_variables, load_pretrained
from ferjax.weights.torch_names import Preprocessing

PREPROCESSING = ("weights", "data")
_STEMS = ("stem", "patch")


def start(
    fresh: Trained,
    *,
    pretrained: str | Path = "",
    workdir: str | Path = "",
    network: bool = False,
    strict: bool = True,
    preprocessing: str = "weights",
) -> tuple[Trained, Report | None]:
    """Returns the network to begin with, its spec with the pixels' scale that its variables expect.

    Args:
      fresh: freshly initialized variables, and the run's spec: architecture, classes, channels, and the data's mean and
        standard deviation.
      pretrained: a weights file. One of ferjax's own (.safetensors with a spec) is taken as a run's folder is; for
        those of torchvision, timm or VGGFace2 see `pretrained.load_pretrained`.
        A network that took blue, green, red takes red, green, blue here: the stem's input channels are turned round,
        the pixels are not.
      workdir: the folder of a run of the same network. Its head is taken too if the classes are the same, in any
        order.
      network: whether the network itself is that run's or that file's, widths included, see `network_of`.
      strict: for `pretrained`.
      preprocessing: which mean and standard deviation a start from another framework has: "weights", those that its
        network was trained with, or "data", the training images' own, as Paraschiv 2026 (eq. 27) has them.

    Returns:
      (network, report); the report is None for a fresh start.

    Raises:
      InputError: if both starts are asked for, the preprocessing is unknown, or the start does not fit the network.
    """
    if preprocessing not in PREPROCESSING:
        raise errors.unknown("init.preprocessing", preprocessing, PREPROCESSING)
    if pretrained and workdir:
        raise errors.InputError("init.pretrained and init.workdir are both set: start from one of them")
    if pretrained and not single_file.is_ours(pretrained):
        return _from_framework(fresh, pretrained, strict=strict, keep_scale=preprocessing == "data")
    if source := pretrained or workdir:
        return _from_trained(fresh, source)
    return fresh, None


def network_of(source: str | Path) -> dict[str, Any]:
    """Returns the name and the arguments of the network of a run or of ferjax's own weights, for `models.create`.

    Args:
      source: the run's folder, or the file.

    Raises:
      InputError: if there is no such run.
    """
    if not source:
        raise errors.InputError("init.network takes the network of a run: set init.workdir to its folder")
    spec = weights.load(source).spec
    return {"name": spec.architecture, **{k: v for k, v in spec.architecture_args.items() if k != "dtype"}}


def _from_framework(fresh: Trained, path: str | Path, *, strict: bool, keep_scale: bool) -> tuple[Trained, Report]:
    """Starts from a file of torchvision, timm or VGGFace2, with the pixels' scale of `fresh` if that is to be kept."""
    spec, variables = fresh
    started, report = load_pretrained(path, spec.architecture, variables, strict=strict)
    fed = report.preprocessing
    if fed is not None and fed.color_order == "bgr":
        started, report, fed = _turn_round(started, report, fed)
    if fed is None or keep_scale:
        return Trained(spec, started), report
    return Trained(spec.replace(mean=fed.mean, std=fed.std), started), report


def _from_trained(fresh: Trained, source: str | Path) -> tuple[Trained, Report]:
    """Starts from a run's folder, or from ferjax's own weights."""
    spec, variables = fresh
    other, theirs = weights.load(source)
    if other.architecture != spec.architecture:
        raise errors.InputError(f"{source} holds {other.architecture}, this configuration trains {spec.architecture}")
    if other.architecture_args.get("folded") and not spec.architecture_args.get("folded"):
        raise errors.InputError(
            f"the normalisations of {source} are folded, this configuration's network has them: "
            "set init.network=True to train that very network"
        )
    same_classes = set(other.class_names) == set(spec.class_names)
    started, report = adopt_variables(variables, theirs, head_pattern="(?!)" if same_classes else HEAD)
    if same_classes and other.class_names != spec.class_names:
        started, report = _reorder(started, report, other.class_names, spec.class_names)
    adopted = spec.replace(mean=other.mean, std=other.std, quantization=other.quantization)
    return Trained(adopted, started), report


def _reorder(
    variables: dict[str, Any], report: Report, theirs: Sequence[str], ours: Sequence[str]
) -> tuple[dict[str, Any], Report]:
    """Puts the classes that the last layer answers with into another order."""
    order = np.array([theirs.index(name) for name in ours])
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    moved = [name for name in params if re.search(OUTPUTS, name)]
    params |= {name: params[name][..., order] for name in moved}
    report = _adapted(report, [f"params/{name}" for name in moved], "classes put into this data set's order")
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}, report


def _adapted(report: Report, names: Sequence[str], how: str) -> Report:
    loaded = tuple(name for name in report.loaded if name not in names)
    return dataclasses.replace(report, loaded=loaded, adapted=(*report.adapted, *((name, how) for name in names)))


def _turn_round(
    variables: dict[str, Any], report: Report, fed: Preprocessing
) -> tuple[dict[str, Any], Report, Preprocessing]:
    """Reverses the order of the colours that the stem takes."""
    params = dict(variables["params"])
    stem = next(name for name in _STEMS if name in params)
    kernel = np.asarray(params[stem]["conv"]["kernel"])[:, :, ::-1]
    params[stem] = {**params[stem], "conv": {**params[stem]["conv"], "kernel": np.ascontiguousarray(kernel)}}
    how = "input channels turned round: it took blue, green, red"
    changed = _adapted(report, [f"params/{stem}/conv/kernel"], how)
    return {**variables, "params": params}, changed, Preprocessing("rgb", fed.mean[::-1], fed.std[::-1])
