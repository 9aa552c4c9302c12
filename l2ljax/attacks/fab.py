"""FAB-T: the smallest perturbation that is misclassified, sought towards one class at a time.

    x_adv = fab_targeted(rng, f, x, y, eps=8/255, steps=100, rank=2)            # rank 2 .. 10
    x_adv = fab_targeted(rng, f, x, y, eps=0.5, steps=100, rank=2, norm="l2")

Croce and Hein 2020 (arXiv 1907.02044), algorithm 1, with the one linearisation per step of their
targeted code. A step moves onto the hyperplane where the target's and the label's linearised logits
are equal, a little past it, and with a small weight towards the same hyperplane's nearest point to
the image; a misclassified iterate is remembered if it is the nearest so far, and drawn back.

The one surprising thing: `eps` steers nothing. It only says at the end whether what was found is
near enough, so eps=inf returns the smallest perturbation there is to be had. A step costs one
gradient and one forward pass; both are needed, because a misclassified iterate is not where the
next step begins.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from l2ljax import gate
from l2ljax.attacks.entrance import inputs
from l2ljax.attacks.hyperplane import least_move
from l2ljax.attacks.loop import iterate
from l2ljax.attacks.outcome import check_rank, class_of_rank, fooled
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
    f, x, y = inputs(f, x, y, eps=eps, norm=norm, unbounded=True)
    logits = _clean(f, x)
    check_rank(rank, logits.shape[-1])
    start = jnp.zeros_like(x) if start is None else gate.perturbation(start, x)
    target, s = _begin(logits, x, y, rank, start)
    return _found(x, iterate(_step, s, f, x, y, target, steps=steps, norm=norm), eps)
