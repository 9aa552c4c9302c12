"""The networks' convolution, as one matrix product where XLA's CPU backend is slow.

Two cores, jax 0.10, 128 images, 128 channels: a 3x3 convolution on a 2x2 map (the last group of a
WRN on 8x8 digits) took 9.7 ms forward and 19.6 ms with its gradients, against 0.5 and 1.5 ms as
patches times a matrix. On larger maps, and on GPU and TPU, `lax` is used: at stride 1 on 8x8 it is
up to 4 times faster than patches. Both ways agree to rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax.types import Array


def convolve(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    **options: Any,
) -> Array:
    """x [B, H, W, c] * kernel [k, k, c, features]; the form `nn.Conv` asks for."""
    if jax.default_backend() == "cpu" and kernel.shape[0] > 1:
        stride, pad = strides[0], padding[0][0]
        height, width = ((n + 2 * pad - kernel.shape[0]) // stride + 1 for n in x.shape[1:3])
        if height * width <= (2 * stride) ** 2:
            return patches(x, kernel, stride, pad, height, width)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def patches(x: Array, kernel: Array, stride: int, pad: int, height: int, width: int) -> Array:
    """The same convolution, to height x width pixels, as [B, h, w, k k c] @ [k k c, features]."""
    size, _, channels, features = kernel.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (stride * (n - 1) + 1 for n in (height, width))
    views = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(views, -1) @ kernel.reshape(size * size * channels, features)
