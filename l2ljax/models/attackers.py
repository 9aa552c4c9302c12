"""The learned attackers g(a; phi) of L2L: slim, wide (table 1) and two-layer (the code only).

`a` is what the attacker sees, A(x, y, theta): the image's channels, then those of the gradient if
there is one. The output is tanh(.) in [-1, 1] with the image's channels; eps is multiplied outside.
With a bfloat16 `dtype` every convolution rounds, the last one too, and only scale and tanh are
float32: on random images the last one's own rounding moves g by 0.001 to 0.005 (root mean square)
and that of the layers before it by 0.004 to 0.014, so that a float32 one would gain 5 % at most.
The paper's table prints stride 1 for the slim net's first layer; only 2 (the code's) is consistent.
"""

from fractions import Fraction

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.errors import nearest
from l2ljax.gate import check_count
from l2ljax.models.generator_block import Act, GeneratorBlock
from l2ljax.models.layers import at_least_float32, batch_norm, conv, scaled, uniform
from l2ljax.types import Array

STEM_EPS = 1e-3
"""BatchNorm's eps after the plain convolutions; the generator blocks keep the usual 1e-5."""


class Slim(nn.Module):
    """Halved resolution, two generator blocks, a transposed convolution, a skip from the input.

    Images of odd size come back one row or column too large from the transposed convolution (the
    first layer rounds up); the surplus at the end is cut off.
    """

    channels: int
    width: float = 1.0
    act: Act = "prelu"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """a [B, H, W, c_in] -> [B, H, W, channels] in [-1, 1]."""
        a, (height, width) = x.astype(self.dtype), x.shape[1:3]
        common = {"dtype": self.dtype, "axis_name": self.axis_name}

        h = conv(scaled(128, self.width), 3, 2, dtype=self.dtype, name="conv")(a)
        h = nn.relu(batch_norm(train, **common, eps=STEM_EPS, name="bn")(h))
        for block, features in enumerate((256, 128)):
            block = GeneratorBlock(
                scaled(features, self.width), self.act, **common, name=f"block{block + 1}"
            )
            h = block(h, train=train)
        h = batch_norm(train, **common, affine=False, name="bn_blocks")(h)
        features = scaled(16, self.width)
        h = nn.ConvTranspose(
            features,
            (4, 4),
            (2, 2),
            padding="SAME",
            use_bias=False,
            # PyTorch counts a transposed convolution's fan-in by its outputs.
            kernel_init=uniform(4 * 4 * features),
            dtype=self.dtype,
            name="deconv",
        )(h)[:, :height, :width]
        h = nn.relu(batch_norm(train, **common, eps=STEM_EPS, name="bn_deconv")(h))
        h = conv(self.channels, dtype=self.dtype, name="conv_out")(jnp.concatenate([h, a], -1))
        scale = self.param("scale", nn.initializers.constant(5.0), (), jnp.float32)
        return jnp.tanh(scale * at_least_float32(h))


class Wide(nn.Module):
    """Full resolution: convolution, a chain of generator blocks, BatchNorm, convolution, tanh.

    At the paper's width it costs more than the paper's classifier WRN-34-4: 1.79 against 1.07 GMAC
    per 32x32 image.
    """

    channels: int
    width: float = 1.0
    act: Act = "prelu"
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    blocks: tuple[int, ...] = (128, 256, 128, 64)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """a [B, H, W, c_in] -> [B, H, W, channels] in [-1, 1]."""
        common = {"dtype": self.dtype, "axis_name": self.axis_name}
        h = conv(scaled(64, self.width), dtype=self.dtype, name="conv")(x.astype(self.dtype))
        h = nn.relu(batch_norm(train, **common, eps=STEM_EPS, name="bn")(h))
        for block, features in enumerate(self.blocks):
            block = GeneratorBlock(
                scaled(features, self.width), self.act, **common, name=f"block{block + 1}"
            )
            h = block(h, train=train)
        h = batch_norm(train, **common, affine=False, name="bn_blocks")(h)
        bias = uniform(9 * h.shape[-1])
        h = conv(self.channels, dtype=self.dtype, bias_init=bias, name="conv_out")(h)
        return jnp.tanh(at_least_float32(h))


class TwoLayer(Wide):
    """The wide attacker with two generator blocks instead of four (authors' code only)."""

    blocks: tuple[int, ...] = (128, 64)


ATTACKERS: dict[str, type[nn.Module]] = {"slim": Slim, "wide": Wide, "two_layer": TwoLayer}
"""The attackers by name."""


def make_attacker(
    name: str,
    channels: int,
    *,
    width: float = 1.0,
    act: Act = "prelu",
    dtype: Dtype = jnp.float32,
    axis_name: str | None = None,
) -> nn.Module:
    """The attacker `name` for images of so many channels; its input may have more.

    `width` multiplies every hidden channel count: 1 is the paper's, 1/8 suits a CPU.
    """
    if name not in ATTACKERS:
        raise ValueError(nearest("attacker", name, list(ATTACKERS)))
    if act not in ("prelu", "relu"):
        raise ValueError(nearest("act", act, ["prelu", "relu"]))
    scaled(1, width)
    check_count("channels", channels)
    return ATTACKERS[name](
        channels=channels, width=width, act=act, dtype=dtype, axis_name=axis_name
    )


def label(name: str, width: float) -> str:
    """How results name an attacker: "slim" is the paper's, "slim (width 1/8)" is not."""
    return name if width == 1 else f"{name} (width {Fraction(width).limit_denominator(1000)})"
