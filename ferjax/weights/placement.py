"""Finds a network among the tensors of a file: in nested containers, under prefixes, with a classifier of its own.

Of several copies of the network, such as "state_dict.module." and "state_dict_ema.module.", the first in this order is
used: "state_dict", "model", "model_state_dict", "model_state", "net", "params", others in the order of the file, and
moving averages ("ema") last.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ferjax.errors import InputError
from ferjax.weights.torch_names import CLASSIFIER, FORMATS, Format, tensor_name

_PLACES = ("", "state_dict", "model", "model_state_dict", "model_state", "net", "params")
_MOVING_AVERAGE = r"(^|_)ema(_|$)"


def locate(tensors: Mapping[str, Any], architecture: str, path: Path) -> tuple[Format, list[str]]:
    """Returns the format of a file and the prefixes of the networks in it, the one to use first."""

    def order(prefix: str) -> tuple[bool, int]:
        parts = prefix.split(".")
        average = any(re.search(_MOVING_AVERAGE, part, re.IGNORECASE) for part in parts)
        return average, _PLACES.index(parts[0]) if parts[0] in _PLACES else len(_PLACES)

    for form in FORMATS[architecture]:
        found = [name.removesuffix(form.signature) for name in tensors if f".{name}".endswith(f".{form.signature}")]
        if found:
            return form, sorted(found, key=order)
    expected = " or ".join(repr(form.signature) for form in FORMATS[architecture])
    state = f"but has {next(iter(tensors))!r}" if tensors else "and has none of a type that is read"
    raise InputError(f"{path} does not fit {architecture}: it lacks tensor {expected}, {state}")


def network_tensors(
    stored: Mapping[str, np.ndarray], prefix: str, copies: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Returns the tensors whose names start with a prefix, by the rest of the name, and (name, reason) of the unused.

    If there is no classifier under the prefix, it may be beside it: "module.fc.1" beside "module.backbone.".
    """
    parts = prefix.split(".")
    parents = ["".join(f"{part}." for part in parts[:n]) for n in reversed(range(len(parts) - 1))]
    tensors, beside = {}, {}
    for name, value in stored.items():
        owner = max((p for p in (prefix, *copies) if name.startswith(p)), key=len, default=None)
        if owner == prefix:
            tensors[name.removeprefix(prefix)] = value
        elif owner is None:
            beside[name] = value
    skipped = []
    has_classifier = any(re.match(CLASSIFIER, name) for name in tensors)
    for name, value in beside.items():
        short = name.removeprefix(next(parent for parent in parents if name.startswith(parent)))
        if re.match(CLASSIFIER, short) and not has_classifier:
            tensors[short] = value
        else:
            skipped.append((name, f"not under {prefix!r}"))
    return tensors, skipped


def take_head(tensors: dict[str, np.ndarray], places: Mapping[str, str], form: Format) -> list[tuple[str, str]]:
    """Renames the only layer of a classifier, such as "fc.1", to its name in the format, in place.

    Removes a classifier of several layers and returns (tensor, reason).
    """
    names = [name for name in tensors if name not in places and re.match(CLASSIFIER, name)]
    layers = {name.rpartition(".")[0] for name in names}
    output = tensor_name("head/out/kernel", form)
    if len(layers) == 1 and output not in tensors:
        for name in names:
            tensors[output.replace("weight", name.rpartition(".")[2])] = tensors.pop(name)
        return []
    for name in names:
        del tensors[name]
    return [(name, "belongs to another head") for name in names]
