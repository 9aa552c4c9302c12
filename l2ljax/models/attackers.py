"""The learned attackers g(a; phi): three nets of L2L, and the learned optimiser's LSTM cell.

L2L has slim and wide (table 1) and two-layer (its code alone). `a` is what the attacker sees,
A(x, y, theta): the image's channels, then those of the gradient if there is one. The output is
tanh(.) in [-1, 1] with the image's channels; eps is multiplied outside.
With a bfloat16 `dtype` every convolution rounds, the last one too, and only scale and tanh are
float32: on random images the last one's own rounding moves g by 0.001 to 0.005 (root mean square)
and that of the layers before it by 0.004 to 0.014, so that a float32 one would gain 5 % at most.
The paper's table prints stride 1 for the slim net's first layer; only 2 (the code's) is consistent.

The nets are made of GB(a -> b), the residual block of SNGAN's generator (section 2.2), with no
activation after the sum. The authors' code differs from SNGAN in two ways, and `act` chooses:
"prelu" (the code) has BatchNorm without scale and offset, "relu" (the text's reading) has both.
"""

from fractions import Fraction
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from l2ljax.errors import word
from l2ljax.gate import check_count
from l2ljax.models.layers import at_least_float32, batch_norm, conv, scaled, uniform
from l2ljax.types import Array

Act = Literal["prelu", "relu"]
"""The activation of the generator blocks."""

STEM_EPS = 1e-3
"""BatchNorm's eps after the plain convolutions; the generator blocks keep the usual 1e-5."""

xavier_relu = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
"""Xavier-uniform with gain sqrt 2: U(-1, 1) sqrt(12 / (fan_in + fan_out))."""


class GeneratorBlock(nn.Module):
    """BN-act-conv3x3-BN-act-conv3x3 plus a 1x1 shortcut where the channels change."""

    features: int
    act: Act
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """x [B, H, W, a] -> [B, H, W, features]."""
        h = self._conv(x=self._bn_act(x, train, 1), size=3, name="conv1")
        h = self._conv(x=self._bn_act(h, train, 2), size=3, name="conv2")
        if x.shape[-1] != self.features:
            x = self._conv(x=x, size=1, name="shortcut")
        return x + h

    def _bn_act(self, x: Array, train: bool, n: int) -> Array:
        relu = self.act == "relu"
        x = batch_norm(train, dtype=self.dtype, affine=relu, name=f"bn{n}")(x)
        # One slope per activation, started at PyTorch's 0.25 (Flax: 0.01).
        return nn.relu(x) if relu else nn.PReLU(negative_slope_init=0.25, name=f"act{n}")(x)

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


class Slim(nn.Module):
    """Halved resolution, two generator blocks, a transposed convolution, a skip from the input.

    Images of odd size come back one row or column too large from the transposed convolution (the
    first layer rounds up); the surplus at the end is cut off.
    """

    channels: int
    width: float = 1.0
    act: Act = "prelu"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """a [B, H, W, c_in] -> [B, H, W, channels] in [-1, 1]."""
        a, (height, width) = x.astype(self.dtype), x.shape[1:3]
        h = conv(scaled(128, self.width), 3, 2, dtype=self.dtype, name="conv")(a)
        h = nn.relu(batch_norm(train, dtype=self.dtype, eps=STEM_EPS, name="bn")(h))
        for block, features in enumerate((256, 128)):
            block = GeneratorBlock(
                scaled(features, self.width), self.act, dtype=self.dtype, name=f"block{block + 1}"
            )
            h = block(h, train=train)
        h = batch_norm(train, dtype=self.dtype, affine=False, name="bn_blocks")(h)
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
        h = nn.relu(batch_norm(train, dtype=self.dtype, eps=STEM_EPS, name="bn_deconv")(h))
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
    blocks: tuple[int, ...] = (128, 256, 128, 64)

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """a [B, H, W, c_in] -> [B, H, W, channels] in [-1, 1]."""
        h = conv(scaled(64, self.width), dtype=self.dtype, name="conv")(x.astype(self.dtype))
        h = nn.relu(batch_norm(train, dtype=self.dtype, eps=STEM_EPS, name="bn")(h))
        for block, features in enumerate(self.blocks):
            block = GeneratorBlock(
                scaled(features, self.width), self.act, dtype=self.dtype, name=f"block{block + 1}"
            )
            h = block(h, train=train)
        h = batch_norm(train, dtype=self.dtype, affine=False, name="bn_blocks")(h)
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
) -> nn.Module:
    """The attacker `name` for images of so many channels; its input may have more.

    `width` multiplies every hidden channel count: 1 is the paper's, 1/8 suits a CPU.
    """
    word("attacker", name, ATTACKERS)
    word("act", act, get_args(Act))
    scaled(1, width)
    check_count("channels", channels)
    return ATTACKERS[name](channels=channels, width=width, act=act, dtype=dtype)


def label(name: str, width: float) -> str:
    """How results name an attacker: "slim" is the paper's, "slim (width 1/8)" is not."""
    return name if width == 1 else f"{name} (width {Fraction(width).limit_denominator(1000)})"


Carry = tuple[Array, Array]
"""(h, c) of every coordinate, each [..., hidden]."""

OUTPUT_SCALE = 0.1
"""The output weights over PyTorch's default ones at the start (ZO-L2L, nn_optimizer/zoopt.py)."""


class CoordinateLSTM(nn.Module):
    """The learned optimiser's cell: one LSTM layer for every coordinate, with shared weights.

        cell = CoordinateLSTM()
        o, carry = cell.apply({"params": phi}, (a, cell.zero_carry(x)))

    The sizes are those of the ZO-L2L code: 10 units, no biases, a linear output whose weights start
    at a tenth; 450 parameters with one channel in `a`, 490 with two. A coordinate sees nothing of
    its neighbours, so an image of any shape will do: `a` is [..., channels], the carry a pair of
    [..., hidden], and `o` is [...]. It computes in the type of `a`; parameters are float32.
    """

    hidden: int = 10

    @nn.compact
    def __call__(self, inputs: tuple[Array, Carry]) -> tuple[Array, Carry]:
        """c' = s(f) c + s(i) tanh(u), h' = s(r) tanh(c'), o = w h'; (i f u r) = W a + V h."""
        a, (h, c) = inputs
        shape, n = a.shape[:-1], self.hidden
        W = self._weights("input", a.shape[-1], 4 * n, a)
        V = self._weights("state", n, 4 * n, a)
        w = self._weights("output", n, 1, a, OUTPUT_SCALE)
        # Coordinates last and flat: XLA's CPU backend needs a multiple of the time, on the way back
        # above all, for matrices with four leading axes and ten columns.
        a, h, c = (v.reshape(-1, v.shape[-1]).T for v in (a, h, c))
        i, f, u, r = jnp.split(W @ a + V @ h, 4)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(u)
        h = nn.sigmoid(r) * jnp.tanh(c)
        return (w @ h).reshape(shape), (h.T.reshape(*shape, n), c.T.reshape(*shape, n))

    def _weights(self, name: str, ins: int, outs: int, a: Array, scale: float = 1.0) -> Array:
        """A matrix [outs, ins] that starts at scale U(-1, 1) / sqrt(hidden)."""
        draw = uniform(self.hidden)

        def start(key: Array, shape: tuple[int, int]) -> Array:
            return scale * draw(key, shape, jnp.float32)

        return self.param(name, start, (outs, ins)).astype(a.dtype)

    def zero_carry(self, x: Array) -> Carry:
        """h_0 = c_0 = 0 for every coordinate of x, in its type."""
        zero = jnp.zeros((*x.shape, self.hidden), x.dtype)
        return zero, zero
