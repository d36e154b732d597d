"""Convolutions that XLA runs slowly on CPUs, written so that it runs them fast; same values, same gradients.

They stand in for `lax.conv_general_dilated` inside a `flax.linen.Conv`, so that parameters do not change.

Depthwise: XLA has no fast depthwise convolution on CPUs. As shifted copies of the input, each times one
weight per channel, the same sum runs ten to fifty times faster there, forwards and backwards. Where the map is smaller
than the window, each output is a weighted sum of all inputs, as fast and quicker to compile. GPUs, TPUs and exported
files take the plain convolution.

Pointwise (1x1): a matrix product and, as gradients, two more. Without a gradient it is the plain convolution.

Windowed (3x3 and larger): the forward pass is the plain convolution; the gradient of the kernel is a matrix product,
which XLA's convolution with a window as large as the map only imitates (two to six times slower on CPUs). Where the
output is smaller than the window, all three are products of unfolded windows (ten to eighty times faster there).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ferjax.cli import unknown
from ferjax.models.normalization import channel_sums

DEPTHWISE = ("auto", "conv", "shifts")
_NHWC = ("NHWC", "HWIO", "NHWC")
_PARTS = 2
_NO_PADDING = ((0, 0), (0, 0))

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros before and after the rows, before and after the columns


def depthwise(implementation: str) -> Callable[..., jax.Array]:
    """Returns the depthwise convolution to use: "conv", "shifts", or "auto" for shifts on CPUs and conv elsewhere.

    Its windows are odd, its strides 1 or 2 and equal; it is padded by half of the window or as TensorFlow's SAME.

    Raises:
      InputError: if there is no such implementation.
    """
    return _injected_shifts if are_shifts(implementation) else lax.conv_general_dilated


def are_shifts(implementation: str) -> bool:
    """Returns whether a depthwise convolution of this implementation is shifts and multiplications, see `depthwise`.

    Raises:
      InputError: if there is no such implementation.
    """
    if implementation not in DEPTHWISE:
        raise unknown("depthwise implementation", implementation, DEPTHWISE)
    return implementation == "shifts" or (implementation == "auto" and jax.default_backend() == "cpu")


def pointwise(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """Returns the unpadded convolution of x (N, H, W, I) with kernel (1, 1, I, O), equal strides."""
    return _pointwise(x, kernel, strides[0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pointwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _plain(x, kernel, stride, _NO_PADDING)


def _pointwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
    if jax.default_backend() != "cpu":
        return _pointwise(x, kernel, stride), (x, kernel)
    seen = x[:, ::stride, ::stride]
    y = matrix_product(as_rows(seen), kernel[0, 0], 1, 0)
    return y.reshape(*seen.shape[:3], -1).astype(x.dtype), (x, kernel)


def _pointwise_backward(stride: int, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """On CPUs both gradients read the same rows of dy: for a convolution and a product XLA computes dy twice."""
    x, kernel = saved
    seen, rows = x[:, ::stride, ::stride], as_rows(dy)
    dk = matrix_product(as_rows(seen), rows, 0, 0).reshape(kernel.shape).astype(kernel.dtype)
    if jax.default_backend() != "cpu":
        (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride, _NO_PADDING), x)(dy)
        return dx, dk
    dx = matrix_product(rows, kernel[0, 0], 1, 1).reshape(seen.shape).astype(x.dtype)
    gaps = [(0, (size - 1) % stride, stride - 1) for size in x.shape[1:3]]
    return lax.pad(dx, jnp.zeros((), x.dtype), ((0, 0, 0), *gaps, (0, 0, 0))), dk


_pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def windowed(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    """Returns the convolution of x (N, H, W, I) with kernel (k, k, I, O), equal strides, SAME or padded by pairs."""
    return _windowed(x, kernel, strides[0], _pairs(x, kernel, strides, padding))


def _pairs(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> Padding:
    """Returns the zeros before and after the rows and the columns."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _windowed(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    return _plain(x, kernel, stride, pad)


def _plain(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=_NHWC)


def _windowed_forward(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[jax.Array, Any]:
    x = computed_once(x)
    run = _unfolded if _tiny(x, kernel, stride, pad) else _windowed
    return run(x, kernel, stride, pad), (x, kernel)


def _windowed_backward(stride: int, pad: Padding, saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if _tiny(x, kernel, stride, pad):
        return jax.vjp(partial(_unfolded, stride=stride, pad=pad), x, kernel)[1](dy)
    dy = computed_once(dy)
    (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride, pad), x)(dy)
    _, rows, columns, _ = dy.shape
    if jax.default_backend() == "cpu" and x.shape[-1] >= 16 and rows * columns >= 100:  # as measured
        return dx, _kernel_product(x, dy, kernel.shape[0], stride, pad).astype(kernel.dtype)
    (dk,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, stride, pad), kernel)(dy)
    return dx, dk


def _tiny(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> bool:
    """Whether XLA on CPUs takes its slowest way: the output is smaller than the window (2x2 of 512: 580 ms, or 7)."""
    rows, columns = _places(x, kernel, stride, pad)
    return jax.default_backend() == "cpu" and rows * columns <= 4


def _places(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> tuple[int, ...]:
    """The rows and columns of the output."""
    sizes = zip(x.shape[1:3], kernel.shape[:2], pad, strict=True)
    return tuple((length + sum(ends) - side) // stride + 1 for length, side, ends in sizes)


def _unfolded(x: jax.Array, kernel: jax.Array, stride: int, pad: Padding) -> jax.Array:
    """The convolution as one matrix product of windows, k² times as large as x."""
    places, (kh, kw, _, outputs) = _places(x, kernel, stride, pad), kernel.shape
    padded = jnp.pad(x, ((0, 0), *pad, (0, 0)))
    taps = [seen_by_tap(padded, i, j, places, stride) for i in range(kh) for j in range(kw)]
    y = matrix_product(as_rows(jnp.concatenate(taps, -1)), kernel.reshape(-1, outputs), 1, 0)
    return y.reshape(-1, *places, outputs).astype(x.dtype)


_windowed.defvjp(_windowed_forward, _windowed_backward)


def _kernel_product(x: jax.Array, dy: jax.Array, side: int, stride: int, pad: Padding) -> jax.Array:
    """The kernel's gradient of a convolution as one matrix product, (k, k, I, O).

    At each place (row of the padded x, column of dy) stand, side by side, what the k columns of the window see of x and
    what the k rows of the window give of dy. The product over all places holds every tap's product, and copies x and
    dy k times each where unfolded windows copy x k² times.
    """
    (n, height, width, inputs), (_, rows, columns, outputs) = x.shape, dy.shape
    (top, bottom), (left, _) = pad
    zero, total = jnp.zeros((), x.dtype), height + top + bottom
    last = stride * (columns - 1) + 1

    def seen(j: int) -> jax.Array:
        across = (left - j, last + j - left - width, 0)
        return lax.pad(x, zero, ((0, 0, 0), (top, bottom, 0), across, (inputs * j, inputs * (side - 1 - j), 0)))

    def given(i: int) -> jax.Array:
        down = (i, total - i - stride * (rows - 1) - 1, stride - 1)
        return lax.pad(dy, zero, ((0, 0, 0), down, (0, 0, 0), (outputs * i, outputs * (side - 1 - i), 0)))

    # sums of padded arrays: XLA fuses them into one pass, a concatenation costs twice as much
    across = reduce(jnp.add, map(seen, range(side)))[:, :, ::stride]
    down = reduce(jnp.add, map(given, range(side)))
    parts = math.gcd(n, _PARTS)
    each = lax.dot_general(
        across.reshape(parts, -1, side * inputs),
        down.reshape(parts, -1, side * outputs),
        (((1,), (1,)), ((0,), (0,))),
        preferred_element_type=_wide(dy).dtype,
    )
    return each.sum(0).reshape(side, inputs, side, outputs).transpose(2, 0, 1, 3)


def _injected_shifts(x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any) -> jax.Array:
    rows, columns = _pairs(x, kernel, strides, padding)
    return depthwise_shifts(x, kernel, strides[0], (rows[0], columns[0]))


def depthwise_shifts(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int] | None = None) -> jax.Array:
    """Returns the depthwise convolution of x (N, H, W, C) with kernel (k, k, 1, C), ceil(H / stride) rows.

    Weights that on a small map only ever meet the padding are left out.

    Args:
      x: the map.
      kernel: k odd.
      stride: 1 or 2.
      before: zeros above the rows and left of the columns, (k - 1) / 2 or, as SAME has it where the stride divides the
        length, one less; (k - 1) / 2 if not given. Zeros behind them are as many as are needed.
    """
    side = kernel.shape[0]
    ends = [(pad, side - 1 - pad) for pad in before or (side // 2, side // 2)]
    unread = [[max(0, n - length + 1) for n in pair] for pair, length in zip(ends, x.shape[1:3], strict=True)]
    (top, bottom), (left, right) = unread
    used = kernel[top : side - bottom, left : side - right]
    start = (ends[0][0] - top, ends[1][0] - left)
    small = math.prod(x.shape[1:3]) < math.prod(used.shape[:2])
    return (_all_to_all if small else _shifts)(x, used, stride, start)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _all_to_all(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> jax.Array:
    """Few sums instead of one for each weight: MobileNetV3-Small's first step at 48 pixels fell from 39 to 31 s."""
    n, height, width, channels = x.shape
    weights, inputs = _between_places(kernel, (height, width), stride, before), _wide(x.reshape(n, -1, channels))
    y = reduce(jnp.add, (inputs[:, q : q + 1] * weights[None, :, q] for q in range(height * width)))
    return y.reshape(n, -(-height // stride), -(-width // stride), channels).astype(x.dtype)


def _all_to_all_forward(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> tuple[jax.Array, Any]:
    return _all_to_all(x, kernel, stride, before), (x, kernel)


def _all_to_all_backward(
    stride: int, before: tuple[int, int], saved: Any, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    n, height, width, channels = x.shape
    between = partial(_between_places, size=(height, width), stride=stride, before=before)
    weights, transposed = jax.vjp(between, kernel)
    inputs, given = (_wide(computed_once(part.reshape(n, -1, channels))) for part in (x, dy))
    dx = reduce(jnp.add, (given[:, p : p + 1] * weights[None, p] for p in range(len(weights))))
    (dk,) = transposed(channel_sums((given[:, :, None] * inputs[:, None]).reshape(n, -1)).reshape(weights.shape))
    return dx.reshape(x.shape).astype(x.dtype), dk


_all_to_all.defvjp(_all_to_all_forward, _all_to_all_backward)


def _between_places(kernel: jax.Array, size: tuple[int, int], stride: int, before: tuple[int, int]) -> jax.Array:
    """Returns each input's weight in each output of a depthwise convolution, (outputs, inputs, C)."""
    outputs = np.indices([-(-length // stride) for length in size]).reshape(2, -1, 1, 1)
    inputs = np.indices(size).reshape(2, 1, -1, 1)
    taps = np.indices(kernel.shape[:2]).reshape(2, 1, 1, -1)
    start = np.array(before).reshape(2, 1, 1, 1)
    met = (outputs * stride + taps - start == inputs).all(0)  # (outputs, inputs, taps)
    wide = as_rows(_wide(kernel))
    return matrix_product(jnp.asarray(met.reshape(-1, len(wide)), wide.dtype), wide, 1, 0).reshape(*met.shape[:2], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifts(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> jax.Array:
    kh, kw = kernel.shape[:2]
    rows, columns = (-(-length // stride) for length in x.shape[1:3])
    padded = _pad_for_taps(x, kernel, stride, before)
    places = [(i, j) for i in range(kh) for j in range(kw)]
    taps = [(seen_by_tap(padded, i, j, (rows, columns), stride), kernel[i, j]) for i, j in places]
    return _weighted_sum(taps).astype(x.dtype)


def _pad_for_taps(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> jax.Array:
    """Returns x with the zeros that the taps see, cut where no tap reads."""
    ends = []
    for length, side, start in zip(x.shape[1:3], kernel.shape[:2], before, strict=True):
        read = stride * (-(-length // stride) - 1) + side
        ends.append((start, read - start - length, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *ends, (0, 0, 0)))


def _shifts_forward(x: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> tuple[jax.Array, Any]:
    return _shifts(x, kernel, stride, before), (x, kernel)


def _shifts_backward(stride: int, before: tuple[int, int], saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    dx = computed_once(_input_gradient(dy, kernel, stride, before, x.shape[1:3]))
    return dx.astype(x.dtype), _kernel_gradient(x, dy, kernel, stride, before).astype(kernel.dtype)


_shifts.defvjp(_shifts_forward, _shifts_backward)


def _input_gradient(
    dy: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int], size: tuple[int, ...]
) -> jax.Array:
    """The transposed convolution: each of the stride² interleaved phases of x meets its own taps of the kernel."""
    (n, rows, columns, channels), sides = dy.shape, kernel.shape[:2]
    pad = max(sides) // 2
    padded = _pad(dy, pad, pad)

    def reached(phase: int, side: int, start: int) -> list[tuple[int, int]]:
        """(tap, where it starts to read in padded) along one axis, for positions stride * t + phase of x."""
        offsets = [(i, phase + start - i) for i in range(side)]
        return [(i, offset // stride + pad) for i, offset in offsets if offset % stride == 0]

    def phase(a: int, b: int) -> jax.Array:
        places = [(i, j, y, x) for i, y in reached(a, sides[0], before[0]) for j, x in reached(b, sides[1], before[1])]
        if not places:  # a kernel cut to one weight skips these positions
            return jnp.zeros_like(dy)
        return _weighted_sum([(padded[:, y : y + rows, x : x + columns], kernel[i, j]) for i, j, y, x in places])

    if stride == 1:
        return phase(0, 0)
    grid = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
    return grid.reshape(n, rows * stride, columns * stride, channels)[:, : size[0], : size[1]]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, stride: int, before: tuple[int, int]) -> jax.Array:
    """For each tap the sum of x * dy over images and positions, per channel.

    A loop over the kernel's rows first adds up the batch in eight parts by element-wise operations, and what is left
    by a matrix product. The loop also keeps XLA from computing x and dy anew for every tap, and halves the time to
    compile.
    """
    (kh, kw), size = kernel.shape[:2], dy.shape[1:3]
    parts = min(_PARTS, len(x))
    fill = ((0, -len(x) % parts), (0, 0), (0, 0), (0, 0))
    padded, dy = _pad_for_taps(jnp.pad(x, fill), kernel, stride, before), jnp.pad(dy, fill)
    length = len(dy) // parts
    images = [slice(p * length, (p + 1) * length) for p in range(parts)]
    reach = stride * (size[0] - 1) + 1

    def row(i: jax.Array) -> jax.Array:
        band = lax.dynamic_slice_in_dim(padded, i, reach, axis=1)
        windows = [seen_by_tap(band, 0, j, size, stride) for j in range(kw)]
        products = [[_wide(window[part]) * _wide(dy[part]) for part in images] for window in windows]
        return jnp.stack([channel_sums(reduce(jnp.add, parts)) for parts in products])

    return lax.map(row, jnp.arange(kh)).reshape(kernel.shape)


def seen_by_tap(padded: jax.Array, i: int, j: int, size: tuple[int, ...], stride: int) -> jax.Array:
    """Returns what the tap (i, j) of a kernel sees of the padded input, (N, *size, C)."""
    n, _, _, channels = padded.shape
    end = (n, i + stride * (size[0] - 1) + 1, j + stride * (size[1] - 1) + 1, channels)
    return lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1))


def _weighted_sum(taps: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    return reduce(jnp.add, (_wide(window) * _wide(weight).reshape(1, 1, 1, -1) for window, weight in taps))


@jax.custom_vjp
def computed_once(x: jax.Array) -> jax.Array:
    """Returns x (..., C), which XLA on CPUs then stores instead of computing it again for each of its readers.

    The gradient passes as it comes. XLA copies what it thinks cheap, sums and products, into every reader: of a
    residual network's third block, each of the three shifted reads in `_kernel_product` would compute the blocks before
    it once more. It dislikes to copy divisions, and drops `lax.optimization_barrier` too early. The divisor is one
    because nothing exceeds infinity: XLA does not use this, and LLVM, later, drops the division.
    """
    if jax.default_backend() != "cpu":
        return x
    return x / jnp.where(x[..., :1] > jnp.inf, 2, 1).astype(x.dtype)


computed_once.defvjp(lambda x: (computed_once(x), None), lambda _, dy: (dy,))


def as_rows(x: jax.Array) -> jax.Array:
    """Returns x (..., C) as a matrix with C columns."""
    return x.reshape(-1, x.shape[-1])


def matrix_product(a: jax.Array, b: jax.Array, i: int, j: int) -> jax.Array:
    """Returns the matrix product over axis i of a and axis j of b, summed and given in at least float32."""
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=_wide(a).dtype)


def _pad(x: jax.Array, rows: int, columns: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _wide(x: jax.Array) -> jax.Array:
    """Sums run in at least float32; the conversion is fused into them."""
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
