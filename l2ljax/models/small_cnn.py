"""SmallCNN, the MNIST network of TRADES (Zhang et al. 2019): four convolutions, three dense layers.

Convolutions and pooling are unpadded, which leaves nothing of an image under 16 pixels: such
images (the 8x8 digits) get SAME padding throughout instead. The last layer starts at zero, so all
logits and the first step's input gradient are zero.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.models.dropout import Dropout
from l2ljax.models.layers import at_least_float32, dense, he_fan_in, head, normalise, scaled
from l2ljax.types import Array

SMALLEST = 16
"""Two unpadded 3x3 convolutions and a halving, twice, leave at least one pixel from here on."""


class SmallCNN(nn.Module):
    """conv 32, 32, pool, conv 64, 64, pool, dense 200, dropout, 200, classes; times `width`."""

    num_classes: int
    dropout: float = 0.5
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

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
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        x = nn.relu(dense(x, scaled(200, self.width), dtype=self.dtype, name="fc2"))
        x = at_least_float32(x)
        if features:
            return x
        zeros = nn.initializers.zeros_init()
        return head(x, self.num_classes, kernel_init=zeros, bias_init=zeros, name="fc3")
