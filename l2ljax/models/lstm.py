"""The cell of the learned optimiser: one LSTM layer for every coordinate, with shared weights.

    cell = CoordinateLSTM()
    o, carry = cell.apply({"params": phi}, (a, cell.zero_carry(x)))

The sizes are those of the ZO-L2L code: 10 units, no biases, a linear output whose
weights start at a tenth. A coordinate sees nothing of its neighbours, so an image of any shape will
do: `a` is [..., channels], the carry a pair of [..., hidden], and `o` is [...].
"""

import flax.linen as nn
import jax.numpy as jnp

from l2ljax.models.layers import uniform
from l2ljax.types import Array

Carry = tuple[Array, Array]
"""(h, c) of every coordinate, each [..., hidden]."""

OUTPUT_SCALE = 0.1
"""The output weights over PyTorch's default ones at the start (ZO-L2L, nn_optimizer/zoopt.py)."""


class CoordinateLSTM(nn.Module):
    """(a, (h, c)) -> o, (h', c'): 450 parameters with one channel in `a`, 490 with two.

    It computes in the type of `a`; parameters are float32.
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
