"""Defines the layers that the networks share.

A convolution before a batch normalization is always a `ConvNormAct` with the children `conv` and `bn`, and the
classifier is always named `head`, so that one set of path patterns (freezing, pruning, folding) fits all families.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ferjax.errors import InputError
from ferjax.models import operations
from ferjax.models.activations import activation
from ferjax.models.normalization import batch_norm, full_precision

# He et al. 2015, eq. 14, over the fan-out and without truncation, as in torchvision's ResNets.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's initialization of a linear layer.
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def tap(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    """Returns x and gives it a name, by which `apply` can return or perturb it.

    With `mutable=["intermediates"]`, `apply` returns x as `state["intermediates"][name][0]`. If the collection
    `perturbations` has an entry `name`, it is added to x: the gradient with respect to a zero perturbation is the
    gradient with respect to x. Otherwise this is the identity and adds nothing to the graph.

    Args:
      module: the module that x belongs to.
      name: "features" for the last feature map or token sequence, "embedding" for the input of the head,
        `stage0`, `stage1`, … for the outputs of stages; not the name of a child module.
      x: the value.
    """
    if module.has_variable("perturbations", name):
        x = x + module.get_variable("perturbations", name)
    module.sow("intermediates", name, x)
    return x


def tapped(state: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the values that the network itself, not its submodules, named by `tap`, from the state of `apply`."""
    found = state.get("intermediates", {})
    return {name: value[0] for name, value in found.items() if isinstance(value, tuple)}


class QuantPoint(nn.Module):
    """Identity that marks a value that is quantized; `ferjax.quant.rounding` intercepts the call.

    Attributes:
      bounds: fixed (low, high) where TFLite's operator prescribes its range; empty where the range is observed.
    """

    bounds: tuple[float, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x."""
        return x


PROBABILITY = (0.0, 255 / 256)  # output range of TFLite's 8-bit sigmoid and softmax


def activate(x: jax.Array, act: str) -> jax.Array:
    """Applies an activation between the quantization points `q_in` and `q`.

    ReLU, ReLU6 and the identity have no `q_in`: TFLite fuses them into the convolution.
    """
    if act not in ("relu", "relu6", "linear"):
        x = QuantPoint(name="q_in")(x)
    return QuantPoint(name="q")(activation(act)(x))


def convolution(
    features: int,
    kernel_size: int,
    stride: int = 1,
    *,
    dtype: Any,
    name: str,
    pad: int | str | None = None,
    bias: bool = False,
    implementation: str = "",
) -> nn.Conv:
    """Returns a convolution with a square kernel, torch's padding and He initialization.

    Args:
      features: output channels.
      kernel_size: side of the kernel, odd.
      stride: stride on both axes.
      dtype: computation dtype.
      name: of the child module.
      pad: zeros added on every side, or "SAME" for TensorFlow's; (kernel_size - 1) / 2 if not given.
      bias: whether it has one.
      implementation: empty for a full convolution, else that of a depthwise one, see `operations.depthwise`.
    """
    pad = (kernel_size - 1) // 2 if pad is None else pad
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        (stride, stride),
        pad if isinstance(pad, str) else ((pad, pad), (pad, pad)),
        feature_group_count=features if implementation else 1,
        use_bias=bias,
        kernel_init=he_normal,
        conv_general_dilated=operations.depthwise(implementation) if implementation else operations.convolve,
        dtype=dtype,
        name=name,
    )


class ConvNormAct(nn.Module):
    """Convolution, batch normalization and activation, with torch's padding and momentum.

    Attributes:
      features: output channels; ignored by a depthwise convolution, which keeps the number of input channels.
      kernel_size: side of the square kernel, odd.
      stride: stride on both axes.
      act: name of the activation.
      pad: zeros added on every side, or "SAME" for TensorFlow's; (kernel_size - 1) / 2 if not given.
      bias: the convolution has a bias of its own.
      norm: whether there is a normalization; without it the convolution has a bias.
      depthwise: empty for a full convolution, else the implementation, see `operations.depthwise`.
      epsilon: added to the variance.
      folded: whether the normalization is folded into kernel and bias, so that there is no `bn`.
      dtype: computation dtype; parameters stay float32.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    act: str = "relu"
    pad: int | str | None = None
    bias: bool = False
    norm: bool = True
    depthwise: str = ""
    epsilon: float = 1e-5
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, H, W, C) to (N, H', W', features), H' = ceil(H / stride) unless `pad` is given."""
        norm = self.norm and not self.folded
        features = x.shape[-1] if self.depthwise else self.features
        conv = partial(convolution, pad=self.pad, bias=self.bias or not norm, implementation=self.depthwise)
        x = conv(features, self.kernel_size, self.stride, dtype=self.dtype, name="conv")(x)
        if norm:
            x = batch_norm(x, train, self.epsilon)
        return activate(x, self.act)


class DenseNormAct(nn.Module):
    """Linear layer, batch normalization (optional), activation.

    Attributes:
      features: output width.
      act: name of the activation.
      norm: whether there is a batch normalization.
      folded, dtype: see `ConvNormAct`.
    """

    features: int
    act: str = "relu"
    norm: bool = True
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (..., C) to (..., features)."""
        x = nn.Dense(self.features, kernel_init=linear_uniform, dtype=self.dtype, name="dense")(x)
        if self.norm and not self.folded:
            x = batch_norm(x, train)
        return activate(x, self.act)


class Head(nn.Module):
    """Classifier: (dropout, linear, batch normalization, activation) for each hidden width, dropout, linear.

    Attributes:
      num_classes: number of logits.
      hidden: widths of the hidden layers; empty for a linear head.
      dropout: dropout rate before each linear layer, one more than hidden widths; empty for no dropout.
      act: activation of the hidden layers.
      norm: whether hidden layers are normalized.
      folded, dtype: see `ConvNormAct`.
    """

    num_classes: int
    hidden: tuple[int, ...] = ()
    dropout: tuple[float, ...] = ()
    act: str = "relu"
    norm: bool = True
    folded: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps (N, C) to float32 logits (N, num_classes)."""
        rates = self.dropout or (0.0,) * (len(self.hidden) + 1)
        if len(rates) != len(self.hidden) + 1:
            raise InputError(
                f"head_dropout must have {len(self.hidden) + 1} rates for {len(self.hidden)} hidden layers, got {rates}"
            )
        x = QuantPoint(name="q_in")(x)
        for i, width in enumerate(self.hidden):
            x = nn.Dropout(rates[i], deterministic=not train)(x)
            x = DenseNormAct(width, self.act, self.norm, self.folded, self.dtype, name=f"hidden{i + 1}")(x, train)
        x = nn.Dropout(rates[-1], deterministic=not train)(x)
        x = nn.Dense(self.num_classes, kernel_init=linear_uniform, dtype=self.dtype, name="out")(x)
        return full_precision(QuantPoint(name="q")(x))


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: scales each channel by a gate computed from all channel means (Hu et al. 2018, sec. 3).

    Attributes:
      squeezed: width between the two linear layers.
      gate: name of the last activation, with values in [0, 1].
      bias: whether the linear layers have a bias.
      dtype: computation dtype; parameters stay float32.
    """

    squeezed: int
    gate: str = "sigmoid"
    bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to the same shape."""
        n, channels = x.shape[0], x.shape[-1]
        dense = partial(nn.Dense, use_bias=self.bias, kernel_init=linear_uniform, dtype=self.dtype)
        s = QuantPoint(name="q_mean")(global_average_pool(x))
        s = QuantPoint(name="q_fc1")(nn.relu(dense(self.squeezed, name="fc1")(s)))
        s = QuantPoint(name="q_fc2")(dense(channels, name="fc2")(s))
        bounds = PROBABILITY if self.gate == "sigmoid" else ()
        s = QuantPoint(bounds, name="q_gate")(activation(self.gate)(s))
        return QuantPoint(name="q")(x * s.reshape(n, 1, 1, channels))


def global_average_pool(x: jax.Array) -> jax.Array:
    """Returns the mean of (N, H, W, C) over the positions, (N, C)."""
    return jnp.mean(x, axis=(1, 2))


def max_pool(x: jax.Array, window: int = 3, stride: int = 2, pad: tuple[int, int] = (0, 0)) -> jax.Array:
    """Returns the maxima over windows of a non-negative map, such as the output of a ReLU.

    The map is padded with zeros, which change no maximum of non-negative values; pooling without padding is exact
    in int8.
    """
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    return operations.max_pool(x, window, stride, "VALID")
