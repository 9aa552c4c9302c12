"""The residual classifiers: WRN-d-k, two forms of PreActResNet-18, and two of ResNet-18."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from l2ljax.errors import InputError
from l2ljax.models.layers import (
    Dropout,
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


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-(dropout)-conv plus the shortcut."""

    features: int
    stride: int
    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        h = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self._conv(1, self.stride, "shortcut")(h)
        h = self._conv(3, self.stride, "conv1")(h)
        h = nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(h))
        h = Dropout(self.dropout)(h, train=train)
        return x + self._conv(3, 1, "conv2")(h)

    def _conv(self, size: int, stride: int, name: str) -> nn.Conv:
        he = he_fan_out
        return conv(self.features, size, stride, dtype=self.dtype, kernel_init=he, name=name)


def check_depth(depth: int) -> None:
    """An InputError unless the depth of a wide residual network is 6 n + 4 with n of at least 1."""
    if depth >= 10 and (depth - 4) % 6 == 0:
        return
    below = depth - (depth - 4) % 6
    near = "10" if below < 10 else f"{below} and {below + 6}"
    raise InputError(f"depth {depth} is not 6 n + 4 with n >= 1, nearest {near}")


class WideResNet(nn.Module):
    """WRN-depth-widen: stem, three groups with strides 1, 2, 2, BN-ReLU, mean, linear.

    depth = 6 n + 4 layers, n blocks per group, `widen` times 16, 32, 64 channels, as the L2L
    authors build them; `width` multiplies all channels once more, the stem's too. The L2L paper's
    "WRN-4-32" counts depth differently and puts the width first: it is WRN-34-4 here. The first
    block of a group feeds its *activated* input to the 1x1 shortcut, unlike PreActResNet-18's.
    """

    depth: int
    widen: int
    num_classes: int
    dropout: float = 0.0
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        check_depth(self.depth)
        x = normalise(x, self.mean, self.std, self.dtype)
        base = scaled(16, self.width)
        x = conv(base, dtype=self.dtype, kernel_init=he_fan_out, name="stem")(x)
        for group, stride in enumerate((1, 2, 2)):
            channels = 2**group * base * self.widen
            for block in range((self.depth - 4) // 6):
                x = again(WideBlock, self.remat)(
                    channels,
                    stride if block == 0 else 1,
                    self.dropout,
                    self.dtype,
                    name=f"group{group + 1}_block{block + 1}",
                )(x, train)
        x = batch_norm(train, dtype=self.dtype, name="bn")(x)
        x = at_least_float32(nn.relu(x)).mean((1, 2))
        return x if features else head(x, self.num_classes, bias_init=nn.initializers.zeros_init())


def four_groups(net: Any, block: Any, x: Array, train: bool, *fields: Any) -> Array:
    """The body of a ResNet-18: two blocks each of 64, 128, 256 and 512 channels times the width."""
    for group, stride in enumerate((1, 2, 2, 2)):
        features = scaled(64 * 2**group, net.width)
        for i in range(2):
            name, stride = f"group{group + 1}_block{i + 1}", stride if i == 0 else 1
            made = again(block, net.remat)(features, stride, net.dtype, *fields, name=name)
            x = made(x, train)
    return x


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut of the raw input."""

    features: int
    stride: int
    dtype: Dtype
    kernel_init: Initializer = kaiming_uniform

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        kernels = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        h = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        h = conv(self.features, 3, self.stride, **kernels, name="conv1")(h)
        h = nn.relu(batch_norm(train, dtype=self.dtype, name="bn2")(h))
        h = conv(self.features, **kernels, name="conv2")(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, **kernels, name="shortcut")(x)
        return x + h


class PreActResNet18(nn.Module):
    """PreActResNet-18 as Fast-AT (Wong et al. 2020), Fast-BAT and N-FGSM use it.

    Stem, groups of 64, 128, 256, 512 channels times `width` with strides 1, 2, 2, 2, linear; at 10
    classes 11,172,170 parameters. The 1x1 shortcut of a block that changes shape sees the *raw*
    input, where a textbook block gives it the activated one.

    With `last_bn` BatchNorm and ReLU stand between the last block and the pooling. With `he_init`
    kernels start from N(0, 2 / fan_out), the head's from N(0, 2 / fan_in) and its bias from 0;
    without it all start from PyTorch's defaults.
    """

    num_classes: int
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
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
        x = four_groups(self, PreActBlock, x, train, kernel_init)
        if self.last_bn:
            x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        x = at_least_float32(x).mean((1, 2))
        if features:
            return x
        if self.he_init:
            zeros = nn.initializers.zeros_init()
            return head(x, self.num_classes, kernel_init=he_fan_in, bias_init=zeros)
        return head(x, self.num_classes)


class PreActResNet18GradAlign(PreActResNet18):
    """The form of GradAlign's code (Andriushchenko and Flammarion 2020), and of no other.

    The last block goes straight into the pooling, without BatchNorm and ReLU (11,171,146
    parameters at 10 classes), and the initial values are He's.
    """

    last_bn: bool = False
    he_init: bool = True


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the shortcut, then ReLU."""

    features: int
    stride: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """x [B, H, W, c] -> [B, H / stride, W / stride, features]."""
        h = conv(self.features, 3, self.stride, dtype=self.dtype, name="conv1")(x)
        h = nn.relu(batch_norm(train, dtype=self.dtype, name="bn1")(h))
        h = conv(self.features, dtype=self.dtype, name="conv2")(h)
        h = batch_norm(train, dtype=self.dtype, name="bn2")(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, dtype=self.dtype, name="shortcut")(x)
            x = batch_norm(train, dtype=self.dtype, name="shortcut_bn")(x)
        return nn.relu(x + h)


class ResNet18(nn.Module):
    """ResNet-18 for images of 32 pixels: groups of 64, 128, 256, 512 channels times `width`.

    The usual CIFAR form of He et al.'s network: a 3x3 stem without pooling and four groups of two
    post-activation blocks with strides 1, 2, 2, 2. The shortcut that changes shape is a 1x1
    convolution followed by BatchNorm; initial values are PyTorch's. Any image size works.
    """

    num_classes: int
    width: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: Dtype = jnp.float32
    remat: bool = False
    stem_stride: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool, features: bool = False) -> Array:
        """x [B, H, W, c] in [0, 1] -> logits [B, num_classes], or the features the head sees."""
        x = normalise(x, self.mean, self.std, self.dtype)
        x = conv(scaled(64, self.width), 3, self.stem_stride, dtype=self.dtype, name="stem")(x)
        x = nn.relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        x = four_groups(self, BasicBlock, x, train)
        x = at_least_float32(x).mean((1, 2))
        return x if features else head(x, self.num_classes)


class ResNet18For64(ResNet18):
    """ResNet-18 for images of 64 pixels, such as Tiny ImageNet's: its stem has stride 2.

    So every later map has the size it has for an image of 32 pixels, 32, 16, 8 and 4, and a step
    costs about the same. With the stem of `ResNet18` it would cost four times as much; the ImageNet
    form, with a 7x7 stem of stride 2 and pooling, would leave 2x2 pixels to the last group.
    """

    stem_stride: int = 2
