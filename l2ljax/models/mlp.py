"""A multilayer perceptron on the flattened image: no convolution, no BatchNorm, no statistics.

For quick studies and for tests that need a network whose three BatchNorm modes are the same
function. Initial values are PyTorch's defaults.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.models.layers import at_least_float32, dense, head, normalise, scaled
from l2ljax.types import Array


class MLP(nn.Module):
    """dense-act for every entry of `hidden`, times `width`, then dense to the classes."""

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
