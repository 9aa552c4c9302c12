"""Inner optimisers on one fixed net: the loss of every image after 1 .. T gradients.

    hill = Hill(f, x, y, delta, eps, t_max=20)
    pgd(hill, [0.25] * 20)                                 # sign steps, sizes over eps
    constant_step(hill, tune(constant_step, other_images, CONSTANT))
    auto_pgd(hill)
    player = Learned(cell, "sign_log", 0.5, True, phi)
    play_learned(player, hill, bounds(player, 20))

Everything begins at the same deltas and sees T gradients for T moves; the loss after the last move
needs none. The last iterate counts; Auto-PGD returns its best one. An image never depends on those
beside it: what a cell sees as `batch_max` is here divided by the image's own maximum.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from l2ljax.ball import box, project
from l2ljax.losses import cross_entropy
from l2ljax.models import CoordinateLSTM
from l2ljax.solvers.hand_made import after_look, begin_climb, check_windows, next_point
from l2ljax.solvers.recurrent import make_move, step_bound
from l2ljax.types import Array, Tree

CONSTANT = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
DECAYING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
"""The grids of step sizes over eps; a decaying step is so large at first."""

BOUNDED = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)
"""The same of the bounds of learned steps."""


class Hill(NamedTuple):
    """What is climbed: a net, images, labels, the deltas to begin at, the radius, the largest T."""

    f: Partial
    x: Array
    y: Array
    delta: Array
    eps: float
    t_max: int


class Learned(NamedTuple):
    """A trained phi, the cell it belongs to and the bound of its steps, over eps."""

    cell: CoordinateLSTM
    pre: str
    bound: float
    learned_step: bool
    phi: Tree


Move = Callable[[int, Array, Array, Array, Any], tuple[Array, Any]]
"""(t, loss and gradient at delta_t, delta_t, state) -> delta_{t+1}, state."""


@jax.jit
def _look(f, x, y, delta):
    def total(x):
        loss = cross_entropy(f(x), y)
        return loss.sum(), loss

    q, loss = jax.grad(total, has_aux=True)(x + delta)
    return loss, q


def climb(hill: Hill, take: Move, state: Any, steps: int) -> np.ndarray:
    """Loss per image after 0, 1, .. steps moves, [steps + 1, images]."""
    delta, losses = hill.delta, []
    for t in range(steps + 1):
        loss, q = _look(hill.f, hill.x, hill.y, delta)
        losses.append(loss)
        if t < steps:
            delta, state = take(t, loss, q, delta, state)
    return np.stack(losses)


@jax.jit
def _sign_step(q, delta, x, eps, size):
    return box(x, project(delta + size * jnp.sign(q), eps))


def pgd(hill: Hill, sizes: Sequence[float]) -> np.ndarray:
    """Sign steps of these sizes over eps, [sizes, images]."""

    def take(t, loss, q, delta, state):
        return _sign_step(q, delta, hill.x, hill.eps, hill.eps * sizes[t]), state

    return climb(hill, take, None, len(sizes))[1:]


def decaying(first: float, steps: int) -> list[float]:
    """first (1 - t/T) for t = 0 .. T - 1."""
    return [first * (1 - t / steps) for t in range(steps)]


def constant_step(hill: Hill, chosen: Sequence[float]) -> np.ndarray:
    """Loss after T steps of the size chosen for T; one climb for all T that share a size."""
    runs = {size: pgd(hill, [size] * hill.t_max) for size in set(chosen)}
    return np.stack([runs[size][t] for t, size in enumerate(chosen)])


def decaying_step(hill: Hill, chosen: Sequence[float]) -> np.ndarray:
    """The same where the step falls to 0 within the T steps, so that every T is its own climb."""
    return np.stack([pgd(hill, decaying(size, t))[-1] for t, size in enumerate(chosen, 1)])


def tune(
    play: Callable[[Hill, Sequence[float]], np.ndarray], hill: Hill, grid: Sequence[float]
) -> list[float]:
    """For every T the size of highest mean loss; of equals the smallest."""
    losses = np.stack([play(hill, [size] * hill.t_max).mean(1) for size in grid])
    return [grid[i] for i in losses.argmax(0)]


@jax.jit
def _auto_step(i, s, delta, u, loss, window, x, eps):
    s = after_look(s, i, delta, u, loss, window)
    return next_point(s, i + 1, jnp.sign(s.u), lambda delta: box(x, project(delta, eps))), s


def auto_pgd(hill: Hill) -> np.ndarray:
    """The highest loss on APGD's way, [T, images]; T decides its check points."""

    def highest(steps):
        checks = check_windows(steps)

        def take(t, loss, q, delta, s):
            return _auto_step(t, s, delta, q, loss, checks[t], hill.x, hill.eps)

        return climb(hill, take, begin_climb(hill.delta, hill.eps), steps).max(0)

    return np.stack([highest(steps) for steps in range(1, hill.t_max + 1)])


@partial(jax.jit, static_argnames=("cell", "pre", "learned_step"))
def _learned_step(phi, q, carry, delta, x, eps, alpha, cell, pre, learned_step):
    def alone(q, carry, delta, x):
        move = make_move(cell, preprocess=pre, learned_step=learned_step)
        return move(phi, q, carry, delta, x, eps, alpha)[:2]

    return jax.vmap(alone)(q, carry, delta, x)


def bounds(player: Learned, t_max: int) -> list[float]:
    """What its steps are bounded by for T = 1 .. t_max, over eps, if it plays as it was trained."""
    how = player.bound, player.learned_step
    return [float(step_bound(1.0, t, *how)) for t in range(1, t_max + 1)]


def play_learned(player: Learned, hill: Hill, chosen: Sequence[float]) -> np.ndarray:
    """Loss after T of its steps of at most chosen[T - 1] eps; one climb for all T that share it."""

    def run(alpha):
        def take(t, loss, q, delta, carry):
            inside = hill.x, hill.eps, hill.eps * alpha
            cell = player.cell, player.pre, player.learned_step
            return _learned_step(player.phi, q, carry, delta, *inside, *cell)

        last = max(t for t, size in enumerate(chosen, 1) if size == alpha)
        return climb(hill, take, player.cell.zero_carry(hill.x), last)[1:]

    runs = {alpha: run(alpha) for alpha in set(chosen)}
    return np.stack([runs[alpha][t] for t, alpha in enumerate(chosen)])
