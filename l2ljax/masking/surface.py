"""The loss of f on a plane through every image: along the gradient's sign and along random signs.

An honest net's loss rises smoothly along the first axis and hardly changes along the second; a
masked one's is flat, or rough, or falls again where the step of its training ended.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2ljax import gate
from l2ljax.ball import box
from l2ljax.losses import cross_entropy, margin
from l2ljax.masking.subject import Subject


class Surface(NamedTuple):
    """loss and margin [N, P, P] at x + a g + b r: a along the first axis, b along the second.

    `ticks` [P] are a and b in units of eps; g and r are of length eps. margin > 0: misclassified.
    """

    ticks: np.ndarray
    loss: np.ndarray
    margin: np.ndarray


@jax.jit
def _plane(f, x, y, keys, eps, ticks):
    def signs(key):
        return jax.random.rademacher(key, x.shape[1:], x.dtype)

    g = jnp.sign(jax.grad(lambda x: cross_entropy(f(x), y).sum())(x))
    r = jax.vmap(signs)(keys)
    a, b = (side.ravel() for side in jnp.meshgrid(ticks, ticks, indexing="ij"))

    def at(point):
        a, b = point
        logits = f(x + box(x, eps * (a * g + b * r)))
        return cross_entropy(logits, y), margin(logits, y)

    return jnp.stack(jax.lax.map(at, (a, b)), -1).transpose(1, 0, 2)


def loss_surface(s: Subject, *, reach: float, points: int) -> Surface:
    """Values at points x points places, from -reach eps to reach eps both ways, cut to the box."""
    gate.check_positive("reach", reach)
    gate.check_count("points", points)
    ticks = np.linspace(-reach, reach, points, dtype=np.float32)
    found = s.each(_plane, s.eps, ticks, rng=jax.random.fold_in(s.rng, 3))
    grid = found.reshape(len(s.x), points, points, 2)
    return Surface(ticks, grid[..., 0], grid[..., 1])
