"""FAB-T: the smallest perturbation that is misclassified, sought towards one class at a time.

    x_adv = fab_targeted(rng, f, x, y, eps=8/255, steps=100, rank=2)            # rank 2 .. 10
    x_adv = fab_targeted(rng, f, x, y, eps=0.5, steps=100, rank=2, norm="l2")

Croce and Hein 2020 (arXiv 1907.02044), algorithm 1, with the one linearisation per step of their
targeted code. A step moves onto the hyperplane where the target's and the label's linearised logits
are equal, a little past it, and with a small weight towards the same hyperplane's nearest point to
the image; a misclassified iterate is remembered if it is the nearest so far, and drawn back.

`eps` does not steer the search. It only says at the end whether what was found is near enough, so
eps=inf returns the smallest perturbation there is to be had. A step costs one gradient and one
forward pass; both are needed, because a misclassified iterate is not where the next step begins.

The move onto a hyperplane that stays in the pixel box (section 2 of the paper) is exact and needs
no sort. Every pixel goes the way of w as far as its room to the box allows,
|d_i| = min(lam v_i, room_i) with v = 1 in l_inf and v = |w| in l2. <w, d> is concave in lam, so
Newton's method climbs from 0 without passing the solution and has it as soon as a step lets no
further pixel meet the box: 3 to 15 sums over the pixels, where a sort is slow on CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from l2ljax import gate
from l2ljax.attacks.entrance import check_inputs, check_rank, class_of_rank, fooled, iterate
from l2ljax.ball import box, size
from l2ljax.types import Array

ALPHA_MAX = 0.1
"""Largest weight of the move from the image itself (the constants are those of AutoAttack)."""

ETA = 1.05
"""How far a move goes: this many times the way to the hyperplane."""

BETA = 0.9
"""A misclassified iterate x + delta goes on from x + BETA delta."""

LEAST_SIZE = 1e-8
"""No move counts as shorter than this when two are weighed."""


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


class _State(NamedTuple):
    delta: Array
    best: Array  # the smallest misclassified delta, and its norm
    norm: Array


def _moves(x, delta, w, gap, norm):
    """To the hyperplane <w, d> = gap at x + delta: the least move from there, and that from x."""
    w = w.reshape(len(x), -1)
    points = jnp.stack([x + delta, x]).reshape(2, *w.shape)
    gaps = jnp.stack([gap, gap + (w * delta.reshape(w.shape)).sum(-1)])
    return least_move(points, w, gaps, norm).reshape(2, *x.shape)


@partial(jax.jit, static_argnames="norm")
def _step(i, s: _State, f, x, y, target, *, norm):
    def ahead(x_adv):
        z = jnp.take_along_axis(f(x_adv), jnp.stack([target, y], -1), -1)
        return (z[:, 0] - z[:, 1]).sum(), z[:, 1] - z[:, 0]

    w, gap = jax.grad(ahead, has_aux=True)(x + s.delta)
    here, there = _moves(x, s.delta, w, gap, norm)
    a, b = (jnp.maximum(size(d, norm), LEAST_SIZE) for d in (here, there))
    alpha = jnp.minimum(a / (a + b), ALPHA_MAX)
    delta = box(x, (1 - alpha) * (s.delta + ETA * here) + alpha * ETA * there)

    wrong = fooled(f(x + delta), y).reshape(-1, 1, 1, 1)
    found = size(delta, norm)  # where a gradient was NaN, so is this, and never the smallest
    better = wrong & (found < s.norm)
    return _State(
        delta=jnp.where(wrong, BETA * delta, delta),
        best=jnp.where(better, delta, s.best),
        norm=jnp.where(better, found, s.norm),
    )


@jax.jit
def _clean(f, x):
    return f(x)


@jax.jit
def _begin(logits, x, y, rank, start):
    """The class of that rank; and a state in which lost images have found norm 0 already."""
    target = class_of_rank(logits, rank)
    norm = jnp.where(fooled(logits, y), 0, jnp.inf).astype(x.dtype)
    return target, _State(box(x, start), jnp.zeros_like(x), norm.reshape(-1, 1, 1, 1))


@jax.jit
def _found(x, s: _State, eps) -> Array:
    return jnp.where(s.norm <= eps, x + s.best, x)


def fab_targeted(
    rng: Array,
    f: Callable[[Array], Array],
    x: Array,
    y: Array,
    *,
    eps: float,
    steps: int,
    rank: int,
    norm: str = "linf",
    start: Array | None = None,
) -> Array:
    """x + the smallest misclassified delta of `steps` steps if |delta| <= eps, else x itself.

    The search goes towards the class that is `rank`-th in f(x), 1 being the top one; a rank below 2
    or above the number of classes is an error: the caller says how many to try. It begins at the
    perturbation `start`, None being x. An image that f gets wrong comes back as it is. Nothing is
    drawn: rng is there because every attack has one.
    """
    gate.check_count("steps", steps)
    f, x, y = check_inputs(f, x, y, eps=eps, norm=norm, unbounded=True)
    logits = _clean(f, x)
    check_rank(rank, logits.shape[-1])
    start = jnp.zeros_like(x) if start is None else gate.perturbation(start, x)
    target, s = _begin(logits, x, y, rank, start)
    return _found(x, iterate(_step, s, f, x, y, target, steps=steps, norm=norm), eps)
