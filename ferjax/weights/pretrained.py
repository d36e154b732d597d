"""Initializes a network from pretrained weights of other frameworks or from another run.

Supported are the state dicts of torchvision and timm for ResNet-18, ResNet-50, MobileNetV3-Small and DeiT-Tiny (plain
and distilled), those of timm and efficientnet-lite-pytorch for EfficientNet-Lite0, and VGGFace2's ResNet-50. Weights of
another shape are adapted:

- a grayscale stem takes the mean of the kernels of the three channels (Paraschiv, experiment 6);
- a 3x3 stem takes a 7x7 kernel shrunk by area: each weight is the sum over the 7/3 x 7/3 pixels that it covers, so the
  response to constant regions is the same;
- a position embedding is interpolated to another grid of patches (Touvron et al. 2021, section 3).

A classifier of another shape or structure keeps its random initialization.

The tensors may lie in nested containers and under any prefix, see `placement`.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ferjax.errors import InputError, unknown
from ferjax.models.deit import resize_positions
from ferjax.weights import placement
from ferjax.weights.state_dict import read_state_dict
from ferjax.weights.torch_names import FORMATS, NEW_PARTS, VGGFACE2_IDENTITIES, Format, Preprocessing, tensor_name

Variables = Mapping[str, Any]
HEAD = r"^head"
_NOTHING = r"(?!)"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of loading pretrained weights.

    Attributes:
      loaded: variables copied from the file.
      adapted: (variable, change) of those copied after a change.
      skipped: (tensor, reason) of the unused tensors of the file.
      missing: variables that keep their random initialization.
      preprocessing: preprocessing of the pretrained network, for the channels of the target; None if unknown.
      prefix: what precedes the names of the network's tensors in the file, such as "state_dict.module.".
      copies: prefixes of other copies of the network in the file, which are not used.
    """

    loaded: tuple[str, ...] = ()
    adapted: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    prefix: str = ""
    copies: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns one line of counts, then one line per tensor that was not copied unchanged."""
        counts = f"{len(self.loaded)} loaded, {len(self.adapted)} adapted, {len(self.skipped)} skipped"
        lines = [f"{counts}, {len(self.missing)} missing"]
        if self.prefix or self.copies:
            more = f"; not used: {', '.join(map(repr, self.copies))}" if self.copies else ""
            lines.append(f"  tensors under {self.prefix!r}{more}")
        lines += [f"  adapted {name}: {how}" for name, how in self.adapted]
        lines += [f"  skipped {name}: {why}" for name, why in self.skipped]
        lines += [f"  missing {name}: random initialization" for name in self.missing]
        return "\n".join(lines)


def load_pretrained(
    path: str | Path, architecture: str, variables: Variables, *, strict: bool = True
) -> tuple[dict[str, Any], Report]:
    """Replaces variables by those of a file.

    Args:
      path: a torchvision, timm or VGGFace2 weights file (`.pth`, `.safetensors`, numpy pickle), or a checkpoint with
        such weights.
      architecture: name of the network in the registry.
      variables: variables of the network.
      strict: whether all tensors of the network in the file and all variables outside the head must match; otherwise,
        those that do not are skipped and reported.

    Returns:
      New variables of the same structure, and the report.

    Raises:
      InputError: if the architecture has no pretrained weights, the file cannot be read or, if strict, it belongs to
        another network.
    """
    stored = {k: v for k, v in read_state_dict(path).items() if not k.endswith("num_batches_tracked")}
    if architecture not in FORMATS:
        raise unknown("architecture with pretrained weights", architecture, FORMATS)
    form, (prefix, *copies) = placement.locate(stored, architecture, Path(path))
    own = traverse_util.flatten_dict(dict(variables), sep="/")
    places = {tensor_name(_path(target), form): target for target in own}
    tensors, skipped = placement.network_tensors(stored, prefix, copies)
    skipped += placement.take_head(tensors, places, form)
    faces = "fc.weight" in tensors and tensors["fc.weight"].shape[:1] == (VGGFACE2_IDENTITIES,)
    if faces and architecture == "resnet50":
        raise InputError(f"{path} contains VGGFace2's ResNet-50, which has other strides: use resnet50_caffe")
    if strict:
        _check_names(tensors, places, architecture, Path(path))
    result, loaded, adapted = dict(own), [], []
    skipped += [(name, "not in the network") for name in tensors if name not in places]
    for name, target in places.items():
        if name not in tensors:
            continue
        value, change = _fit(tensors[name], target, own[target].shape, form)
        if value is not None:
            result[target] = jnp.asarray(value, own[target].dtype)
            (adapted.append((target, change)) if change else loaded.append(target))
        elif _is_head(target) or not strict:
            skipped.append((name, change))
        else:
            raise InputError(f"{path} does not fit {architecture}: tensor {name!r}, {change}")
    taken = {*loaded, *(target for target, _ in adapted)}
    missing = tuple(target for target in own if target not in taken)
    stem = next(v for k, v in own.items() if k in ("params/stem/conv/kernel", "params/patch/conv/kernel"))
    preprocessing = form.preprocessing.gray() if stem.shape[2] == 1 else form.preprocessing
    report = Report(
        tuple(loaded), tuple(adapted), tuple(skipped), missing, preprocessing, prefix=prefix, copies=tuple(copies)
    )
    return traverse_util.unflatten_dict(result, sep="/"), report


def adopt_variables(target: Variables, source: Variables, head_pattern: str = HEAD) -> tuple[dict[str, Any], Report]:
    """Copies everything but the head from another run of the same network.

    Args:
      target: variables of the network to initialize.
      source: variables of the other run.
      head_pattern: regular expression of paths below the collection, such as "head/out/kernel", that keep their random
        initialization.

    Returns:
      New variables with the structure of `target`, and the report.

    Raises:
      InputError: if a variable outside the head is missing or has another shape.
    """
    own, other = (traverse_util.flatten_dict(dict(v), sep="/") for v in (target, source))
    result, loaded, missing = dict(own), [], []
    for name, value in own.items():
        if re.search(head_pattern, _path(name)):
            missing.append(name)
            continue
        if name not in other or other[name].shape != value.shape:
            found = f"has shape {other[name].shape}" if name in other else "is missing"
            raise InputError(f"the other run has another network: {name!r} {found}, expected shape {value.shape}")
        result[name] = jnp.asarray(other[name], value.dtype)
        loaded.append(name)
    skipped = tuple((name, "belongs to the head") for name in other if re.search(head_pattern, _path(name)))
    return traverse_util.unflatten_dict(result, sep="/"), Report(tuple(loaded), (), skipped, tuple(missing))


def shrink_kernel(kernel: np.ndarray, side: int) -> np.ndarray:
    """Returns a kernel (k, k, …) shrunk to (side, side, …) by summing the weights over the area of each cell."""
    k = kernel.shape[0]
    edges = np.arange(side + 1) * k / side
    overlap = np.minimum(edges[1:, None], np.arange(1, k + 1)) - np.maximum(edges[:-1, None], np.arange(k))
    cover = np.maximum(overlap, 0).astype(kernel.dtype)
    return np.einsum("ai,bj,ij...->ab...", cover, cover, kernel)


def _path(name: str) -> str:
    """Returns the path below the collection."""
    return name.split("/", 1)[1]


def _is_head(target: str) -> bool:
    return re.search(HEAD, _path(target)) is not None


def _check_names(tensors: Mapping[str, Any], places: Mapping[str, str], architecture: str, path: Path) -> None:
    if unknown_names := [name for name in tensors if name not in places]:
        more = f" and {len(unknown_names) - 1} other unknown tensors" if len(unknown_names) > 1 else ""
        raise InputError(f"{path} does not fit {architecture}: it has tensor {unknown_names[0]!r}{more}")
    new = NEW_PARTS.get(architecture, _NOTHING)
    for name, target in places.items():
        if name not in tensors and not _is_head(target) and not re.search(new, _path(target)):
            raise InputError(f"{path} does not fit {architecture}: it lacks tensor {name!r}")


def _fit(tensor: np.ndarray, target: str, shape: tuple[int, ...], form: Format) -> tuple[np.ndarray | None, str]:
    """Returns the tensor in the layout and shape of the target with the change, or None with the reason."""
    value, change = _flax_layout(tensor, len(shape), target), ""
    if _path(target) in ("stem/conv/kernel", "patch/conv/kernel"):
        if value.ndim == 4 and value.shape[2] == 3 and shape[2] == 1:
            value, change = value.mean(axis=2, keepdims=True), "mean over the three channels"
        if value.ndim == 4 and value.shape[:2] == (7, 7) and shape[:2] == (3, 3):
            value, change = shrink_kernel(value, 3), "; ".join(filter(None, (change, "7x7 shrunk to 3x3 by area")))
    elif target.endswith("pos_embed") and value.shape != shape and value.ndim == 3:
        value, change = _fit_positions(value, shape), "interpolated to another grid of patches"
    elif target.endswith("/var") and form.epsilon is not None:
        value, change = value + np.float32(form.epsilon - 1e-3), "shifted to compensate for another epsilon"
    if value.shape != shape:
        return None, f"shape {tensor.shape}, {target!r} has {shape}"
    return value, change


def _flax_layout(tensor: np.ndarray, rank: int, target: str) -> np.ndarray:
    """Transposes a kernel from (out, in, …) to (…, in, out); a 1x1 convolution can become a dense layer."""
    if not target.endswith("/kernel"):
        return tensor
    if tensor.ndim == 4 and rank == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    return np.moveaxis(tensor, (1, 0), (-2, -1)) if tensor.ndim > 1 else tensor


def _fit_positions(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolates position embeddings between square grids; DeiT has one or two prefix tokens."""
    for prefix in (1, 2):
        old, new = (round((s[1] - prefix) ** 0.5) for s in (value.shape, shape))
        if old**2 + prefix == value.shape[1] and new**2 + prefix == shape[1]:
            return np.asarray(resize_positions(jnp.asarray(value), (old, old), (new, new)))
    return value
