"""GB(a -> b): the residual block of the attackers, from SNGAN's generator (L2L, section 2.2).

No activation after the sum. The authors' code differs from SNGAN in two ways, and `act` chooses:
"prelu" (the code) has BatchNorm without scale and offset, "relu" (the text's reading) has both.
"""

from typing import Literal

import flax.linen as nn
from flax.typing import Dtype

from l2ljax.models.layers import batch_norm, conv, uniform
from l2ljax.types import Array

Act = Literal["prelu", "relu"]

xavier_relu = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
"""Xavier-uniform with gain sqrt 2: U(-1, 1) sqrt(12 / (fan_in + fan_out))."""


class GeneratorBlock(nn.Module):
    """BN-act-conv3x3-BN-act-conv3x3 plus a 1x1 shortcut where the channels change."""

    features: int
    act: Act
    dtype: Dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """x [B, H, W, a] -> [B, H, W, features]."""
        h = self._conv(x=self._bn_act(x, train, 1), size=3, name="conv1")
        h = self._conv(x=self._bn_act(h, train, 2), size=3, name="conv2")
        if x.shape[-1] != self.features:
            x = self._conv(x=x, size=1, name="shortcut")
        return x + h

    def _bn_act(self, x: Array, train: bool, n: int) -> Array:
        x = batch_norm(
            train,
            dtype=self.dtype,
            axis_name=self.axis_name,
            affine=self.act == "relu",
            name=f"bn{n}",
        )(x)
        # One slope per activation, started at PyTorch's 0.25 (Flax: 0.01).
        return (
            nn.relu(x)
            if self.act == "relu"
            else nn.PReLU(negative_slope_init=0.25, name=f"act{n}")(x)
        )

    def _conv(self, x: Array, size: int, name: str) -> Array:
        layer = conv(
            self.features,
            size,
            dtype=self.dtype,
            kernel_init=xavier_relu if size == 3 else nn.initializers.xavier_uniform(),
            bias_init=uniform(size * size * x.shape[-1]),
            name=name,
        )
        return layer(x)
