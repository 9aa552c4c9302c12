"""Is there a gradient at all? Exact zeros and NaN leave a gradient attack where it stands."""

import jax
import jax.numpy as jnp

from l2ljax.losses import margin
from l2ljax.masking.limits import LIMITS
from l2ljax.masking.subject import Subject
from l2ljax.masking.verdict import Check, judge


@jax.jit
def _no_gradient(f, x, y):
    u = jax.grad(lambda x: margin(f(x), y).sum())(x)
    axes = tuple(range(1, u.ndim))
    return (u == 0).all(axes) | ~jnp.isfinite(u).all(axes)


def zero_gradient(s: Subject) -> Check:
    """The share of images whose input gradient of the margin is exactly zero or not finite."""
    none = s.each(_no_gradient)
    why = f"{none.sum()} of {len(none)} images have no gradient of the margin"
    return judge("zero_gradient", LIMITS["zero_gradient"], 100 * float(none.mean()), why)
