"""Wide residual networks WRN-d-k (Zagoruyko & Komodakis), as the L2L authors build them.

d = 6 n + 4 layers, n blocks per group, k times 16, 32, 64 channels. The L2L paper's "WRN-4-32"
counts depth differently and puts the width first: it is WRN-34-4 here. The first block of a group
feeds its *activated* input to the 1x1 shortcut, unlike PreActResNet-18's.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.models.dropout import Dropout
from l2ljax.models.layers import (
    again,
    at_least_float32,
    batch_norm,
    conv,
    he_fan_out,
    head,
    normalise,
)
from l2ljax.types import Array


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-(dropout)-conv plus the shortcut."""

    features: int
    stride: int
    dropout: float
    dtype: Dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        h = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name, name="bn1")(x)
        h = nn.relu(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self._conv(1, self.stride, "shortcut")(h)
        h = self._conv(3, self.stride, "conv1")(h)
        h = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name, name="bn2")(h)
        h = nn.relu(h)
        h = Dropout(self.dropout, self.axis_name)(h, train=train)
        return x + self._conv(3, 1, "conv2")(h)

    def _conv(self, size: int, stride: int, name: str) -> nn.Conv:
        return conv(
            self.features, size, stride, dtype=self.dtype, kernel_init=he_fan_out, name=name
        )


class WideResNet(nn.Module):
    """WRN-depth-width: stem, three groups with strides 1, 2, 2, BN-ReLU, mean, linear.

    `base` is the stem's channel count, the unit of all others: 16 in the paper, less in tests.
    """

    depth: int
    width: int
    num_classes: int
    dropout: float = 0.0
    base: int = 16
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth {self.depth} is not 6 n + 4 with n >= 1")
        x = normalise(x, self.mean, self.std, self.dtype)
        x = conv(self.base, dtype=self.dtype, kernel_init=he_fan_out, name="stem")(x)
        for group, stride in enumerate((1, 2, 2)):
            channels = 2**group * self.base * self.width
            for block in range((self.depth - 4) // 6):
                x = again(WideBlock, self.remat)(
                    channels,
                    stride if block == 0 else 1,
                    self.dropout,
                    self.dtype,
                    self.axis_name,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
        x = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
        x = at_least_float32(nn.relu(x)).mean((1, 2))
        return x if features else head(x, self.num_classes, bias_init=nn.initializers.zeros_init())
