"""ResNet-18 for small images: 3x3 stem at stride 1, four groups of two post-activation blocks.

The usual CIFAR form of He et al.'s network: the shortcut that changes shape is a 1x1 convolution
followed by BatchNorm; initial values are PyTorch's defaults. Pooling is global, so any size works.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.models.layers import again, at_least_float32, batch_norm, conv, head, normalise, scaled
from l2ljax.types import Array


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, then ReLU."""

    features: int
    stride: int
    dtype: Dtype
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        bn = {"dtype": self.dtype, "axis_name": self.axis_name}
        h = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        h = nn.relu(batch_norm(train, **bn, name="bn1")(h))
        h = conv(self.features, dtype=self.dtype, name="conv2")(h)
        h = batch_norm(train, **bn, name="bn2")(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x)
            x = batch_norm(train, **bn, name="shortcut_bn")(x)
        return nn.relu(x + h)


class ResNet18(nn.Module):
    """Stem, groups of 64, 128, 256, 512 channels times `width` with strides 1, 2, 2, 2, linear."""

    num_classes: int
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        x = normalise(x, self.mean, self.std, self.dtype)
        x = conv(scaled(64, self.width), dtype=self.dtype, name="stem")(x)
        x = batch_norm(train, dtype=self.dtype, axis_name=self.axis_name, name="bn")(x)
        x = nn.relu(x)
        for group, stride in enumerate((1, 2, 2, 2)):
            for block in range(2):
                x = again(BasicBlock, self.remat)(
                    scaled(64 * 2**group, self.width),
                    stride if block == 0 else 1,
                    self.dtype,
                    self.axis_name,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
        x = at_least_float32(x).mean((1, 2))
        return x if features else head(x, self.num_classes)
