"""Two small classifiers: a multilayer perceptron, and SmallCNN, the MNIST network of TRADES."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.models.layers import (
    Dropout,
    at_least_float32,
    dense,
    he_fan_in,
    head,
    normalise,
    scaled,
)
from l2ljax.types import Array


class MLP(nn.Module):
    """dense-act for every entry of `hidden`, times `width`, then dense to the classes.

    It has no convolution, no BatchNorm and no statistics: for quick studies, and for tests that
    need a network whose three BatchNorm modes are the same function. Initial values are PyTorch's.
    """

    num_classes: int
    hidden: tuple[int, ...] = (256, 256)
    act: Callable[[Array], Array] = nn.relu
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits, or the head's features; `train` changes nothing."""
        x = normalise(x, self.mean, self.std, self.dtype).reshape(len(x), -1)
        for layer, units in enumerate(self.hidden):
            units = scaled(units, self.width)
            x = self.act(dense(x, units, dtype=self.dtype, name=f"fc{layer + 1}"))
        x = at_least_float32(x)
        return x if features else head(x, self.num_classes)


SMALLEST = 16
"""Two unpadded 3x3 convolutions and a halving, twice, leave at least one pixel from here on."""


class SmallCNN(nn.Module):
    """conv 32, 32, pool, conv 64, 64, pool, dense 200, dropout, 200, classes; times `width`.

    The MNIST network of TRADES (Zhang et al. 2019). Convolutions and pooling are unpadded, which
    leaves nothing of an image under 16 pixels: such images (the 8x8 digits) get SAME padding
    throughout instead. The last layer starts at zero, so all logits and the first step's input
    gradient are zero.
    """

    num_classes: int
    dropout: float = 0.5
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        padding = "VALID" if min(x.shape[1:3]) >= SMALLEST else "SAME"
        x = normalise(x, self.mean, self.std, self.dtype)
        for stage, channels in enumerate((32, 64)):
            for layer in (1, 2):
                x = nn.Conv(
                    scaled(channels, self.width),
                    (3, 3),
                    padding=padding,
                    kernel_init=he_fan_in,
                    dtype=self.dtype,
                    name=f"conv{2 * stage + layer}",
                )(x)
                x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), (2, 2), padding)
        x = x.reshape(len(x), -1)
        x = nn.relu(dense(x, scaled(200, self.width), dtype=self.dtype, name="fc1"))
        x = Dropout(self.dropout)(x, train=train)
        x = nn.relu(dense(x, scaled(200, self.width), dtype=self.dtype, name="fc2"))
        x = at_least_float32(x)
        if features:
            return x
        zeros = nn.initializers.zeros_init()
        return head(x, self.num_classes, kernel_init=zeros, bias_init=zeros, name="fc3")
