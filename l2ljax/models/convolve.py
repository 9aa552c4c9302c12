"""The networks' convolution, as one matrix product where XLA's CPU backend is slow.

Three places (one core, jax 0.10, float32; `benchmarks/layers.py` measures them): kernels of 1x1,
the gradient of whose weights took 136 ms against 22 at 128 channels and 32x32 pixels; images of at
most three channels, whose gradient took 3.9 ms against 0.9; and maps of a few pixels (128 channels
on 2x2: 21 ms against 1.4, all passes). Elsewhere, and on GPU and TPU, it is `lax`: at stride 1 on a
32x32 map patches are 6 times slower. Both ways agree to rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax.types import Array

IMAGE: int = 3
"""The most channels of an image."""


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    **options: Any,
) -> Array:
    """x [B, H, W, c] * kernel [k, k, c, features]; the form `nn.Conv` asks for."""
    if jax.default_backend() == "cpu":
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
