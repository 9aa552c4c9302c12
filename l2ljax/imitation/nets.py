"""The networks of imitation: two tanh layers of 64, as for policies of this size is usual.

The policy's head starts at a hundredth of the usual weights, so that it begins undecided; a
continuous policy's spread is a parameter of its own and does not look at the state.
"""

import flax.linen as nn
import jax.numpy as jnp

from l2ljax.types import Array

HIDDEN = (64, 64)


class MLP(nn.Module):
    """[..., n] -> [..., outputs]; orthogonal initial weights, `head` scales the last layer's."""

    outputs: int
    head: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """tanh after every layer but the last."""
        for i, units in enumerate(HIDDEN):
            init = nn.initializers.orthogonal(2**0.5)
            x = jnp.tanh(nn.Dense(units, kernel_init=init, name=f"fc{i + 1}")(x))
        return nn.Dense(
            self.outputs, kernel_init=nn.initializers.orthogonal(self.head), name="head"
        )(x)


class Policy(nn.Module):
    """s -> logits of the actions, or the mean and the logarithm of the spread of a Gaussian."""

    actions: int
    size: int

    @nn.compact
    def __call__(self, s: Array) -> tuple[Array, Array]:
        """(logits, unused) or (mean, log spread)."""
        out = MLP(self.actions or self.size, head=0.01, name="body")(s)
        spread = self.param("spread", nn.initializers.zeros_init(), (self.size,))
        return out, spread
