"""Layers the networks share: convolution, BatchNorm, dropout, normalisation, initial values.

The networks reproduce published PyTorch counts and scales, so three of PyTorch's habits are kept:
symmetric padding also at stride 2 (XLA's SAME pads only at the end there), BatchNorm momentum 0.1
(0.9 in Flax's convention), and weights and biases from U(-1, 1) / sqrt(fan_in) unless a model says
otherwise. One habit is not: the running variance here is the biased one.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax

from l2ljax import devices
from l2ljax.ball import batch_rows, per_image
from l2ljax.devices import is_cpu
from l2ljax.errors import InputError
from l2ljax.types import Array

kaiming_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-1, 1) / sqrt(fan_in): PyTorch's default weights (Kaiming-uniform with a = sqrt 5)."""

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan_in), not truncated as Flax's `he_normal`."""

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan_out), where fan_out is the kernel's area times its output channels."""


def uniform(fan_in: int) -> Initializer:
    """U(-1, 1) / sqrt(fan_in): PyTorch's default biases; the bias's own shape hides the fan-in."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / math.sqrt(fan_in)

    return init


def scaled(channels: int, width: float) -> int:
    """The channel count under a width multiplier: rounded, at least 1."""
    if width <= 0:
        raise InputError(f"width must be positive, got {width:g}")
    return max(1, round(channels * width))


def again(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """The block, or one that keeps its input alone and computes itself again in the backward pass.

    Its call takes (x, train) by position: train is no array.
    """
    return nn.remat(block, static_argnums=(2,)) if remat else block


def normalise(x: Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: Dtype) -> Array:
    """(x - mean) / std per channel, in x's own precision, then cast to the compute type."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, x.shape[-1]):
            raise InputError(f"{name} has {len(values)} values, the images {x.shape[-1]} channels")
    return ((x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)).astype(dtype)


def at_least_float32(x: Array) -> Array:
    """bfloat16 becomes float32, float64 stays: the type of every network's output."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


IMAGE: int = 3
"""The most channels of an image."""


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    **options: Any,
) -> Array:
    """x [B, H, W, c] * kernel [k, k, c, features]: a matrix product where a CPU is faster with it.

    XLA's CPU backend is slow in three places (one core, jax 0.10, float32; `benchmarks/layers.py`
    measures them). Kernels of 1x1: the gradient of their weights took 136 ms against 22 at 128
    channels and 32x32 pixels. Images of at most three channels: their gradient took 3.9 ms against
    0.9. Maps of a few pixels: 128 channels on 2x2 took 21 ms against 1.4, all passes. Elsewhere,
    and on GPU and TPU, it is `lax`: at stride 1 on a 32x32 map patches are 6 times slower. Both
    ways agree to rounding. The arguments are those with which `nn.Conv` calls it.
    """
    if is_cpu():
        stride, pad, size, channels = strides[0], padding[0][0], *kernel.shape[1:3]
        height, width = ((n + 2 * pad - size) // stride + 1 for n in x.shape[1:3])
        if size == 1 or channels <= IMAGE or height * width <= (2 * stride) ** 2:
            return patches(x, kernel, stride, pad, height, width)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def patches(x: Array, kernel: Array, stride: int, pad: int, height: int, width: int) -> Array:
    """The same convolution, to height x width pixels, as [B h w, k k c] @ [k k c, features].

    Flat, because XLA turns a product over several leading axes into a slower one.
    """
    size, _, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (stride * (n - 1) + 1 for n in (height, width))
    views = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    seen = jnp.concatenate(views, -1).reshape(-1, size * size * channels)
    y = seen @ kernel.reshape(size * size * channels, features)
    return y.reshape(len(x), height, width, features)


def conv(
    features: int,
    size: int = 3,
    stride: int = 1,
    *,
    dtype: Dtype,
    kernel_init: Initializer = kaiming_uniform,
    bias_init: Initializer | None = None,
    name: str | None = None,
) -> nn.Conv:
    """A size x size convolution padded by size // 2 on every side; no `bias_init`, no bias."""
    pad = size // 2
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=bias_init is not None,
        bias_init=bias_init or nn.initializers.zeros_init(),
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )


def dense(
    x: Array,
    features: int,
    *,
    dtype: Dtype,
    bias_init: Initializer | None = None,
    name: str | None = None,
) -> Array:
    """A linear layer on x [B, n] with PyTorch's default initial values."""
    layer = nn.Dense(
        features,
        kernel_init=kaiming_uniform,
        bias_init=bias_init or uniform(x.shape[-1]),
        dtype=dtype,
        name=name,
    )
    return layer(x)


def head(
    h: Array,
    num_classes: int,
    *,
    kernel_init: Initializer = kaiming_uniform,
    bias_init: Initializer | None = None,
    name: str = "head",
) -> Array:
    """Logits [B, num_classes] of the features h [B, n], computed in h's type.

    A classifier casts its features to float32 or more before, so that the logits are never rounded
    to bfloat16, whatever the layers before compute in. The product is a full float32 one also where
    JAX multiplies float32 matrices in less by default (TF32 on a GPU, bfloat16 on a TPU).
    """
    layer = nn.Dense(
        num_classes,
        kernel_init=kernel_init,
        bias_init=bias_init or uniform(h.shape[-1]),
        dtype=h.dtype,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return layer(h)


def batch_norm(
    train: bool,
    *,
    dtype: Dtype,
    eps: float = 1e-5,
    affine: bool = True,
    name: str | None = None,
) -> nn.BatchNorm:
    """BatchNorm over the batch, of all devices where it is split by pmap; statistics stay float32.

    A network makes it inside its own call, that is while it is traced, when it is known whether the
    batch is split.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=eps,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
        axis_name=devices.AXIS if devices.is_mapped() else None,
        name=name,
    )


BY_ROW = "dropout_by_row"
"""The random stream whose key is one for all devices; `functional` gives it under pmap alone."""


class Dropout(nn.Module):
    """x with a share `rate` of its entries zero and the rest scaled up; x itself without a key.

    What is drawn for an image belongs to its row in the whole batch, and not to the device that
    holds it. So on several devices the draws are those of one.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """x [B, ...], one draw of shape x[0] for every image."""
        if not self.rate or not train or not self.has_rng("dropout"):
            return x
        stream = BY_ROW if self.has_rng(BY_ROW) else "dropout"
        keys = per_image(self.make_rng(stream), batch_rows(len(x)))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)
