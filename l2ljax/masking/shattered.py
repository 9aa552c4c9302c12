"""Does the gradient say how the loss changes over the length of an attack's step?"""

import jax
import jax.numpy as jnp

from l2ljax.losses import margin
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge

DIRECTIONS = 16
LENGTH = 0.1
"""Random signs per image, and how far along them, in units of eps: a small step of an attack."""

TINY = 1e-12


@jax.jit
def _agreement(f, x, y, keys, h):
    """cosine over the directions of (u . d) and (L(x + h d) - L(x - h d)) / 2h, in [-1, 1]."""
    # The whole stretch lies in the box: images are drawn together by h on both sides.
    x = h + (1 - 2 * h) * x

    def value(x):
        return margin(f(x), y)

    u = jax.grad(lambda x: value(x).sum())(x)

    def along(i):
        def signs(key):
            return jax.random.rademacher(jax.random.fold_in(key, i), x.shape[1:], x.dtype)

        d = jax.vmap(signs)(keys)
        return (u * d).sum((1, 2, 3)), (value(x + h * d) - value(x - h * d)) / (2 * h)

    said, seen = jax.lax.map(along, jnp.arange(DIRECTIONS))
    norms = jnp.linalg.norm(said, axis=0) * jnp.linalg.norm(seen, axis=0)
    return (said * seen).sum(0) / jnp.maximum(norms, TINY)


def shattered(s: Subject) -> Check:
    """1 - the mean cosine between the gradient and finite differences along 16 random signs."""
    rng = jax.random.fold_in(s.rng, 2)
    cosine = s.each(_agreement, LENGTH * s.eps, rng=rng)
    against = int((cosine <= 0).sum())
    why = f"{against} of {len(cosine)} gradients have nothing in common with finite differences"
    return judge("shattered", LIMITS["shattered"], 1 - float(cosine.mean()), why)
