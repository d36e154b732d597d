"""Initializes training from fresh variables, another framework's weights, or an earlier run."""

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
    """Returns the initial network, with the mean and standard deviation that its variables expect in the spec.

    Args:
      fresh: freshly initialized variables with the run's spec.
      pretrained: a weights file: a .safetensors file of ferjax, treated as a `workdir`, or a file of torchvision, timm
        or VGGFace2, see `pretrained.load_pretrained`. If its network expects BGR, the stem's input channels are
        reversed.
      workdir: workdir of a run of the same architecture. Its head is used, too, if the classes are the same in any
        order.
      network: whether to use the architecture of that run or file, widths included, see `network_of`.
      strict: for `pretrained`.
      preprocessing: mean and standard deviation with another framework's weights: "weights" for those of its training,
        "data" for those of the training images (Paraschiv 2026, eq. 27).

    Returns:
      (network, report); the report is None for fresh variables.

    Raises:
      InputError: if both sources are set, the preprocessing is unknown, or the source does not fit the network.
    """
    if preprocessing not in PREPROCESSING:
        raise errors.unknown("init.preprocessing", preprocessing, PREPROCESSING)
    if pretrained and workdir:
        raise errors.InputError("init.pretrained and init.workdir are both set: set one of them")
    if pretrained and not single_file.is_ours(pretrained):
        return _from_framework(fresh, pretrained, strict=strict, keep_scale=preprocessing == "data")
    if source := pretrained or workdir:
        return _from_trained(fresh, source)
    return fresh, None


def network_of(source: str | Path) -> dict[str, Any]:
    """Returns the `models.create` arguments of the network in a workdir or .safetensors file, or raises InputError."""
    if not source:
        raise errors.InputError("init.network requires init.workdir, the workdir of a run")
    spec = weights.load(source).spec
    return {"name": spec.architecture, **{k: v for k, v in spec.architecture_args.items() if k != "dtype"}}


def _from_framework(fresh: Trained, path: str | Path, *, strict: bool, keep_scale: bool) -> tuple[Trained, Report]:
    """Loads a file of torchvision, timm or VGGFace2; `keep_scale` keeps the mean and standard deviation of `fresh`."""
    spec, variables = fresh
    loaded, report = load_pretrained(path, spec.architecture, variables, strict=strict)
    scale = report.preprocessing
    if scale is not None and scale.color_order == "bgr":
        loaded, report, scale = _reverse_channels(loaded, report, scale)
    if scale is None or keep_scale:
        return Trained(spec, loaded), report
    return Trained(spec.replace(mean=scale.mean, std=scale.std), loaded), report


def _from_trained(fresh: Trained, source: str | Path) -> tuple[Trained, Report]:
    """Loads a workdir or a .safetensors file."""
    spec, variables = fresh
    other, theirs = weights.load(source)
    if other.architecture != spec.architecture:
        raise errors.InputError(f"{source} holds {other.architecture}, this configuration trains {spec.architecture}")
    if other.architecture_args.get("folded") and not spec.architecture_args.get("folded"):
        raise errors.InputError(
            f"{source} has folded normalizations, this configuration's network has none folded: set init.network=True"
        )
    same_classes = set(other.class_names) == set(spec.class_names)
    started, report = adopt_variables(variables, theirs, head_pattern="(?!)" if same_classes else HEAD)
    if same_classes and other.class_names != spec.class_names:
        started, report = _reorder(started, report, other.class_names, spec.class_names)
    kinds = tuple(dict.fromkeys((*other.trained_corruptions, *spec.trained_corruptions)))
    adopted = spec.replace(mean=other.mean, std=other.std, quantization=other.quantization, trained_corruptions=kinds)
    return Trained(adopted, started), report


def _reorder(
    variables: dict[str, Any], report: Report, theirs: Sequence[str], ours: Sequence[str]
) -> tuple[dict[str, Any], Report]:
    """Reorders the classes of the last layer."""
    order = np.array([theirs.index(name) for name in ours])
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    moved = [name for name in params if re.search(OUTPUTS, name)]
    params |= {name: params[name][..., order] for name in moved}
    report = _adapted(report, [f"params/{name}" for name in moved], "classes reordered")
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}, report


def _adapted(report: Report, names: Sequence[str], how: str) -> Report:
    loaded = tuple(name for name in report.loaded if name not in names)
    return dataclasses.replace(report, loaded=loaded, adapted=(*report.adapted, *((name, how) for name in names)))


def _reverse_channels(
    variables: dict[str, Any], report: Report, scale: Preprocessing
) -> tuple[dict[str, Any], Report, Preprocessing]:
    """Reverses the input channels of the stem, from BGR to RGB."""
    params = dict(variables["params"])
    stem = next(name for name in _STEMS if name in params)
    kernel = np.asarray(params[stem]["conv"]["kernel"])[:, :, ::-1]
    params[stem] = {**params[stem], "conv": {**params[stem]["conv"], "kernel": np.ascontiguousarray(kernel)}}
    changed = _adapted(report, [f"params/{stem}/conv/kernel"], "input channels reversed, from BGR to RGB")
    return {**variables, "params": params}, changed, Preprocessing("rgb", scale.mean[::-1], scale.std[::-1])
