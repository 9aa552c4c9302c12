"""PreActResNet-18 as fast adversarial training uses it, in two forms that share their blocks.

`PreActResNet18` is the net of Fast-AT (Wong et al. 2020), Fast-BAT and N-FGSM: BatchNorm and ReLU
after the last block, 11,172,170 parameters at 10 classes, PyTorch's default initial values.
`PreActResNet18GradAlign` is the net of GradAlign (Andriushchenko and Flammarion 2020) alone: the
last block goes straight into the pooling, 11,171,146 parameters, and the initial values are He's.

In both, the 1x1 shortcut of a block that changes shape sees the *raw* input, where a textbook block
gives it the activated one.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from l2ljax.models.layers import (
    again,
    at_least_float32,
    batch_norm,
    conv,
    he_fan_in,
    he_fan_out,
    head,
    kaiming_uniform,
    normalise,
    scaled,
)
from l2ljax.types import Array


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut of the raw input."""

    features: int
    stride: int
    dtype: Dtype
    axis_name: str | None
    kernel_init: Initializer = kaiming_uniform

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        bn = {"dtype": self.dtype, "axis_name": self.axis_name}
        kernels = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        h = nn.relu(batch_norm(train, **bn, name="bn1")(x))
        h = conv(self.features, 3, self.stride, **kernels, name="conv1")(h)
        h = nn.relu(batch_norm(train, **bn, name="bn2")(h))
        h = conv(self.features, **kernels, name="conv2")(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, **kernels, name="shortcut")(x)
        return x + h


class PreActResNet18(nn.Module):
    """Stem, groups of 64, 128, 256, 512 channels times `width` with strides 1, 2, 2, 2, linear.

    With `last_bn` BatchNorm and ReLU stand between the last block and the pooling. With `he_init`
    kernels start from N(0, 2 / fan_out), the head's from N(0, 2 / fan_in) and its bias from 0;
    without it all start from PyTorch's defaults.
    """

    num_classes: int
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    last_bn: bool = True
    he_init: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        x = normalise(x, self.mean, self.std, self.dtype)
        kernel_init = he_fan_out if self.he_init else kaiming_uniform
        stem = scaled(64, self.width)
        x = conv(stem, dtype=self.dtype, kernel_init=kernel_init, name="stem")(x)
        for group, stride in enumerate((1, 2, 2, 2)):
            for block in range(2):
                x = again(PreActBlock, self.remat)(
                    scaled(64 * 2**group, self.width),
                    stride if block == 0 else 1,
                    self.dtype,
                    self.axis_name,
                    kernel_init,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
        if self.last_bn:
            x = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
            x = nn.relu(x)
        x = at_least_float32(x).mean((1, 2))
        if features:
            return x
        if self.he_init:
            zeros = nn.initializers.zeros_init()
            return head(x, self.num_classes, kernel_init=he_fan_in, bias_init=zeros)
        return head(x, self.num_classes)


class PreActResNet18GradAlign(PreActResNet18):
    """The form of GradAlign's code: no last BatchNorm and ReLU, and He's initial values."""

    last_bn: bool = False
    he_init: bool = True
