"""The least move onto a hyperplane that stays in the pixel box: exact, for a whole batch at once.

    d = least_move(t, w, gap, norm="linf")      # <w, d> = gap and t + d in [0, 1]

The projections of FAB (Croce and Hein 2020, arXiv 1907.02044, section 2). Every pixel goes the way
of w as far as its room to the box allows, |d_i| = min(lam v_i, room_i) with v = 1 in l_inf and
v = |w| in l2, and lam solves a piecewise linear equation.

The one surprising thing: nothing is sorted. <w, d> is concave in lam, so Newton's method climbs
from 0 without passing the solution, and has it as soon as a step lets no further pixel meet the
box: 3 to 15 sums over the pixels instead of a sort, which is slow on CPU.
"""

import jax.numpy as jnp
from jax import lax

from l2ljax.types import Array

LEAST_WEIGHT = {"linf": 0.0, "l2": 1e-8}
"""Pixels with |w| up to this stay where they are (the authors' code)."""


def least_move(t: Array, w: Array, gap: Array, norm: str) -> Array:
    """argmin |d| with <w, d> = gap and t + d in [0, 1]; out of reach, the last point of the box.

    t and w are [..., D], gap is [...]. The authors' l_inf solution: of all d with the same largest
    move, the one that moves every pixel by lam or as far as it may go.
    """
    w = jnp.where(jnp.abs(w) > LEAST_WEIGHT[norm], w, 0)
    gap = gap[..., None]
    way, a = jnp.sign(gap * jnp.sign(w)), jnp.abs(w)
    room = jnp.where(way < 0, t, 1 - t)
    v = a if norm == "l2" else jnp.ones_like(a)

    def climb(lam):
        free = lam * v < room
        left = jnp.abs(gap) - jnp.where(free, 0, a * room).sum(-1, keepdims=True)
        slope = jnp.where(free, a * v, 0).sum(-1, keepdims=True)
        root = left / jnp.where(slope > 0, slope, jnp.inf)
        return jnp.maximum(lam, root)  # rounding takes no pixel back, so it ends

    zero = jnp.zeros_like(gap * a[..., :1])
    _, lam = lax.while_loop(
        lambda state: (state[1] > state[0]).any(),
        lambda state: (state[1], climb(state[1])),
        (zero, climb(zero)),
    )
    return way * jnp.minimum(lam * v, room)
