"""The l_inf ball and the pixel box: the only clips in the package, and the random starts.

`lax.clamp`, not `jnp.clip`: at a tie the first passes no gradient and the second half of it, and
a black pixel sits exactly on the box.
"""

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax.types import Array


def project(delta: Array, eps: Array | float) -> Array:
    """Pi(delta) = sign(delta) min(|delta|, eps), the projection on B(eps) (section 2)."""
    eps = jnp.asarray(eps, delta.dtype)
    return lax.clamp(-eps, delta, eps)


def box(x: Array, delta: Array) -> Array:
    """The part of delta that keeps x + delta in [0, 1]; never larger than delta."""
    return lax.clamp(-x, delta, 1 - x)


def per_image(rng: Array, n: int, first: Array | int = 0) -> Array:
    """One key per image: fold_in(rng, row) for n global rows from `first` on; keys pass through."""
    if rng.ndim == 1:
        return rng
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, first + jnp.arange(n))


def uniform(rng: Array, x: Array, eps: Array | float) -> Array:
    """U(-eps, eps) for every pixel, cut to the box."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))
    return box(x, draw(per_image(rng, len(x))) * jnp.asarray(eps, x.dtype))


def gaussian(rng: Array, x: Array, scale: float) -> Array:
    """scale * N(0, 1) for every pixel, cut to the box."""
    draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
    return box(x, scale * draw(per_image(rng, len(x))))


START_SCALE = 0.001
"""Standard deviation of the Gaussian start in the L2L and TRADES code (papers.md 1.10, 4.5)."""


def zero(rng: Array, x: Array, eps: Array | float) -> Array:
    """delta = 0."""
    return jnp.zeros_like(x)


STARTS = {
    "zero": zero,
    "uniform": uniform,
    "gaussian": lambda rng, x, eps: gaussian(rng, x, START_SCALE),
}
"""Where an inner problem begins: (rng, x, eps) -> delta."""
