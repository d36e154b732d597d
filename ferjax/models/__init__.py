"""Creates networks by name and returns their properties."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import unknown
from ferjax.models import (
    arguments,
    baseline,
    cpu,
    deit,
    efficientnet,
    mobilenet,
    operations,
    resemotenet,
    resnet,
    xception,
)

__all__ = [
    "CONVOLUTIONAL",
    "FAMILIES",
    "OUTPUTS",
    "SWISH",
    "TRANSFORMER",
    "compiler_options",
    "create",
    "default_input_shape",
    "family",
    "feature_map",
    "for_export",
    "list_models",
    "teacher_heads",
]


OUTPUTS = r"^head\w*/(out|conv)/"  # regular expression over parameter paths: the layers whose channels are classes
# Decides the quantizations that a network can be exported in, see `ferjax.export.formats`.
FAMILIES = CONVOLUTIONAL, SWISH, TRANSFORMER = "convolutional", "hard-swish", "transformer"


class _Entry(NamedTuple):
    make: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    family: str = CONVOLUTIONAL


_MODELS: dict[str, _Entry] = {
    "resnet18": _Entry(resnet.ResNet, (48, 48, 1)),
    "resnet18_imagenet": _Entry(partial(resnet.ResNet, stem="imagenet"), (224, 224, 3)),
    "resnet20": _Entry(resnet.ResNet20, (48, 48, 1)),
    "resnet50": _Entry(resnet.ResNet50, (224, 224, 3)),
    "resnet50_caffe": _Entry(resnet.ResNet50Caffe, (224, 224, 3)),
    "deit_tiny": _Entry(deit.DeiT, (224, 224, 3), TRANSFORMER),
    "deit_tiny_distilled": _Entry(deit.DeiTTinyDistilled, (224, 224, 3), TRANSFORMER),
    "deit_attention_free": _Entry(deit.AttentionFreeDeiT, (224, 224, 3), TRANSFORMER),
    "mobilenetv3_small": _Entry(mobilenet.MobileNetV3Small, (224, 224, 3), SWISH),
    "efficientnet_lite0": _Entry(efficientnet.EfficientNetLite0, (224, 224, 3)),
    "microexpnet": _Entry(mobilenet.MicroExpNet, (48, 48, 1), SWISH),
    "mini_xception": _Entry(xception.MiniXception, (48, 48, 1)),
    "resemotenet": _Entry(resemotenet.ResEmoteNet, (64, 64, 3)),
    "baseline_cnn5": _Entry(baseline.BaselineCNN5, (48, 48, 1)),
    "baseline_cnn3": _Entry(baseline.BaselineCNN3, (48, 48, 1)),
}


def create(name: str, *, num_classes: int = 7, dtype: Any = jnp.float32, **kwargs: Any) -> nn.Module:
    """Returns a network without parameters.

    `module.init(key, x, train=False)` creates the collection "params" and, for networks with batch normalization,
    "batch_stats". `module.apply(variables, x, train=False)` returns logits. Training needs `rngs={"dropout": key}`
    and `mutable=["batch_stats"]`. Images are float (N, H, W, C) with one or three channels.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      dtype: computation dtype; parameters and logits stay float32.
      **kwargs: fields of the module, as JSON values.

    Raises:
      InputError: for an unknown name or argument, or a value of the wrong type or range.
    """
    make = _entry(name).make
    cls: Any = make.func if isinstance(make, partial) else make
    fields = {f.name: f for f in dataclasses.fields(cls)}
    accepted = [key for key in fields if key not in ("parent", "name", "dtype", "num_classes")]
    values, example = {key: _tuples(value) for key, value in kwargs.items()}, make()
    for key, value in values.items():
        if key not in accepted:
            raise unknown(f"argument of {name}", key, accepted)
        arguments.check(name, fields[key], value, default=getattr(example, key))
    return make(num_classes=num_classes, dtype=dtype, **values)


def list_models() -> list[str]:
    """Returns the names of all networks."""
    return list(_MODELS)


def default_input_shape(name: str) -> tuple[int, int, int]:
    """Returns the default (height, width, channels) of a network's images."""
    return _entry(name).input_shape


def family(name: str, arguments: Mapping[str, Any]) -> str:
    """Returns the network's family, one of FAMILIES.

    A hard-swish network whose argument `act` is another activation is convolutional.

    Args:
      name: one of `list_models()`.
      arguments: keyword arguments of `create`.
    """
    own = _entry(name).family
    return CONVOLUTIONAL if own == SWISH and arguments.get("act", "hard_swish") != "hard_swish" else own


def for_export(module: nn.Module) -> nn.Module:
    """Returns the same network with depthwise convolutions as single operators, for export and for counting MACs.

    On CPUs they run as shifts and multiplications otherwise. Parameters and outputs are the same.
    """
    return module.clone(depthwise="conv") if hasattr(module, "depthwise") else module


def compiler_options(*modules: nn.Module) -> dict[str, bool | int]:
    """Returns the XLA options for a train step with these networks, {} for the defaults.

    XLA's CPU backend has two code generators. Depthwise convolutions as shifts compile to about a thousand small
    loops, and run faster after fewer LLVM passes. The older generator compiles them sooner and to faster code, but
    others to slower code: mini-Xception's step takes 70 ms instead of 75, a ResNet-20 that teaches it 109 instead of
    98. Folded networks, which round, are slower with it too: mini-Xception's step takes 211 ms instead of 161.
    """
    shifts = [operations.depthwise(getattr(each, "depthwise", "conv")) is operations.CPU.depthwise for each in modules]
    if not (cpu.wanted() and any(shifts)):
        return {}
    folded = any(getattr(each, "folded", False) for each in modules)
    older = {"xla_cpu_use_fusion_emitters": False} if all(shifts) and not folded else {}
    return {**older, "xla_backend_optimization_level": 1}


def teacher_heads(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of the two intermediate logits (labels, teacher), () for networks with one head."""
    return deit.TEACHER_HEADS if getattr(module, "distilled", False) else ()


def feature_map(module: nn.Module, features: jax.Array, image_shape: tuple[int, ...]) -> jax.Array:
    """Returns the intermediate `features` as a feature map (N, rows, columns, C).

    Args:
      module: the network.
      features: a feature map, or tokens (N, T, C), whose prefix tokens are dropped.
      image_shape: (height, width, channels).
    """
    if features.ndim == 4:
        return features
    patch: int = module.patch
    grid = (image_shape[0] // patch, image_shape[1] // patch)
    prefix: int = module.prefix_tokens
    return features[:, prefix:].reshape(len(features), *grid, features.shape[-1])


def _entry(name: str) -> _Entry:
    if name not in _MODELS:
        raise unknown("model", name, _MODELS)
    return _MODELS[name]


def _tuples(value: Any) -> Any:
    """Converts JSON lists to tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
