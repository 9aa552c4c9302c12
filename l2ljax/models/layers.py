"""Layers the networks share: input normalisation, PyTorch's padding, BatchNorm and initial values.

The networks reproduce published PyTorch counts and scales, so three of PyTorch's habits are kept:
symmetric padding also at stride 2 (XLA's SAME pads only at the end there), BatchNorm momentum 0.1
(0.9 in Flax's convention), and weights and biases from U(-1, 1) / sqrt(fan_in) unless a model says
otherwise. One habit is not: the running variance here is the biased one.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from l2ljax.models.convolve import convolve
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
        raise ValueError(f"width must be positive, got {width:g}")
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
            raise ValueError(f"{name} has {len(values)} values, the images {x.shape[-1]} channels")
    return ((x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)).astype(dtype)


def at_least_float32(x: Array) -> Array:
    """bfloat16 becomes float32, float64 stays: the type of every network's output."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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
    axis_name: str | None,
    eps: float = 1e-5,
    affine: bool = True,
    name: str | None = None,
) -> nn.BatchNorm:
    """BatchNorm over the batch, and over the devices of `axis_name`; statistics stay float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=eps,
        dtype=dtype,
        use_bias=affine,
        use_scale=affine,
        axis_name=axis_name,
        name=name,
    )
