"""The climb of Auto-PGD (Croce and Hein 2020, section 3), for the attack and for the inner problem.

    delta = move(s, i, direction, inside)
    s = judge(s, i, delta, u, loss, windows(steps)[i])       # u, loss: what a look at delta gave

PGD with momentum. The step of every image starts at 2 eps and halves at check points where its loss
rose too seldom or its best has not moved; the image then goes on from its best iterate. Three
readings are those of the authors' code: *at most* rho k rises halve the step, the first step's loss
is a rise when it is above 0, and the momentum's previous iterate is not taken back to the best.

Look 0 is at the start itself: `begin` knows no gradient yet, so the first move goes nowhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from l2ljax.types import Array

RHO = 0.75
"""The share of iterations that must raise the loss for the step to stay as it is."""

MOMENTUM = 0.75
"""Weight of the new step; 1 - MOMENTUM is that of the move before it (the paper's alpha)."""


class Climb(NamedTuple):
    """Where every image stands; whatever has these fields and `_replace` will do."""

    delta: Array
    before: Array  # the momentum's previous iterate
    u: Array  # input gradient at delta
    best: Array  # the iterate of highest loss, its gradient and its loss
    best_u: Array
    best_loss: Array
    step_size: Array
    loss: Array
    rises: Array  # of the loss, since the last check point
    checked: Array  # best_loss at the last check point
    halved: Array  # at the last check point


def windows(steps: int) -> list[int]:
    """How many steps the check after step i = 1 .. steps looks back on; 0 where there is none.

    The first window is 0.22 of all steps, each next one 0.03 shorter, none below 0.06.
    """
    window, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    checks, i = [0] * (steps + 1), window
    while i <= steps:
        checks[i] = window
        window = max(window - shorter, least)
        i += window
    return checks


def begin(delta: Array, eps: Array | float) -> Climb:
    """Nothing known yet but the start."""
    n, zero = len(delta), jnp.zeros_like(delta)
    low = jnp.full(n, -jnp.inf, delta.dtype)
    return Climb(
        delta=delta,
        before=delta,
        u=zero,
        best=delta,
        best_u=zero,
        best_loss=low,
        step_size=jnp.full((n, *[1] * (delta.ndim - 1)), 2 * eps, delta.dtype),
        loss=-low,
        rises=jnp.zeros(n, int),
        checked=low,
        halved=jnp.ones(n, bool),
    )


def move(s: Any, i: Array, direction: Array, inside: Callable[[Array], Array]) -> Array:
    """Point i: a step along `direction`, and a quarter of the move before it."""
    a = jnp.where(i > 1, jnp.asarray(MOMENTUM, direction.dtype), 1)
    z = inside(s.delta + s.step_size * direction)
    return inside(s.delta + a * (z - s.delta) + (1 - a) * (s.delta - s.before))


def judge(s: Any, i: Array, delta: Array, u: Array, loss: Array, window: Array) -> Any:
    """The climb after look i; at a check point (window > 0) some steps halve and go back."""

    def choose(which, a, b):
        return jnp.where(which.reshape(s.step_size.shape), a, b)

    better = loss > s.best_loss
    best, best_u = choose(better, delta, s.best), choose(better, u, s.best_u)
    best_loss = jnp.where(better, loss, s.best_loss)

    rises = s.rises + (loss > s.loss)
    check = window > 0
    stuck = ~s.halved & (s.checked >= best_loss)
    halve = check & ((rises <= RHO * window) | stuck)
    return s._replace(
        delta=choose(halve, best, delta),
        before=s.delta,
        u=choose(halve, best_u, u),
        best=best,
        best_u=best_u,
        best_loss=best_loss,
        step_size=choose(halve, s.step_size / 2, s.step_size),
        loss=jnp.where(i > 0, loss, 0),  # the authors' table of losses begins after the start
        rises=jnp.where(check, 0, rises),
        checked=jnp.where(check, best_loss, s.checked),
        halved=jnp.where(check, halve, s.halved),
    )
