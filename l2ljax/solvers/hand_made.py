"""The solvers that learn nothing: no attack, FGSM, PGM, N-FGSM and Auto-PGD.

PGM's start is always named: the paper starts at zero, the authors' code at 0.001 N(0, 1), Madry et
al. uniformly in the ball, and the three give different numbers.

Auto-PGD (Croce and Hein 2020, section 3) is PGD with momentum. The climb below serves the attack
(`l2ljax.attacks.pgd`) and the solver:

    delta = next_point(s, i, direction, inside)
    s = after_look(s, i, delta, u, loss, check_windows(steps)[i])   # u, loss: of a look at delta

The step of every image starts at 2 eps and halves at check points where its loss rose too seldom or
its best has not moved; the image then goes on from its best iterate. Three readings are those of
the authors' code: *at most* rho k rises halve the step, the first step's loss is a rise when it is
above 0, and the momentum's previous iterate is not taken back to the best. Look 0 is at the start
itself: `begin_climb` knows no gradient yet, so the first move goes nowhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import Radii, box, length, project, start_of, uniform
from l2ljax.devices import repeat
from l2ljax.types import Array, Inner, Problem, Solver, no_phi


def none() -> Solver:
    """delta = 0: plain training."""

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        return Inner(jnp.zeros_like(problem.x))

    return Solver(no_phi, solve)


def fgsm() -> Solver:
    """delta = eps sign(u(x)), cut to the box (Goodfellow et al. 2014; section 2.1).

    Nothing passes to theta.
    """

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        u, ell = input_gradient(problem.ell, theta, problem.x)
        return Inner(box(problem.x, problem.eps * jnp.sign(u)), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=True)


def pgm(steps: int, step_size: float | Radii, start: str) -> Solver:
    """delta^t = Pi(delta^{t-1} + eta sign(u(x + delta^{t-1}))), T sign steps (equation 2).

    Nothing passes to theta.
    """
    begin = start_of(start)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, eps = problem.x, problem.eps

        def step(carry):
            delta, ell = carry
            u, ell = input_gradient(ell, theta, x + delta)
            return box(x, project(delta + length(step_size, eps) * jnp.sign(u), eps)), ell

        delta, ell = repeat(step, (begin(problem.keys, x, eps), problem.ell), steps)
        return Inner(delta, theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero")


def n_fgsm(noise: float, step_size: float | Radii) -> Solver:
    """delta = box(eta + step_size sign(u(x + eta))), eta ~ U(-noise eps, noise eps) in the box.

    One sign step from strong noise (de Jorge et al. 2022). The sum is not clipped to the ball,
    which is the point of it: |delta| <= (noise + 1) eps. The step alone is held to eps, which the
    authors' code does not do: there a step beyond eps is taken whole. Nothing passes to theta.
    """

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, eps = problem.x, problem.eps
        eta = uniform(problem.keys, x, noise * eps)
        u, ell = input_gradient(problem.ell, theta, x + eta)
        delta = box(x, eta + project(length(step_size, eps) * jnp.sign(u), eps))
        return Inner(delta, theta_stats=ell.stats)

    return Solver(no_phi, solve, radius=noise + 1, begins_at_x=noise == 0)


def apgd(steps: int, start: str) -> Solver:
    """delta = the iterate of highest ell among the start and `steps` steps; a constant to theta.

    The strongest hand-made inner optimiser, and so the control for the claim that a better inner
    optimiser makes a better model. The attack goes on to look for misclassified points; here the
    loss decides. `steps` gradients, each with its loss by one pass forth and back, and one forward
    pass more: of the last iterate only the loss is asked.
    """
    checks, starting = check_windows(steps), start_of(start)

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, eps = problem.x, problem.eps
        theta, window = stop_gradient(theta), jnp.asarray(checks)

        def inside(delta):
            return box(x, project(delta, eps))

        def step(carry):
            i, s, ell = carry
            delta = next_point(s, i, jnp.sign(s.u), inside)

            def climbed(x_adv):
                loss, seen = ell.look(theta, x_adv)
                return loss.sum(), (loss, seen)

            u, (loss, ell) = jax.grad(climbed, has_aux=True)(x + delta)
            return i + 1, after_look(s, i, delta, u, loss, window[i]), ell

        s = begin_climb(inside(starting(problem.keys, x, eps)), eps)
        i, s, ell = repeat(step, (jnp.array(0), s, problem.ell), steps)
        last = next_point(s, i, jnp.sign(s.u), inside)
        loss, ell = ell.look(theta, x + last)
        better = (loss > s.best_loss).reshape(s.step_size.shape)
        return Inner(jnp.where(better, last, s.best), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero")


RHO = 0.75
"""The share of iterations that must raise the loss for the step to stay as it is."""

MOMENTUM = 0.75
"""Weight of the new step; 1 - MOMENTUM is that of the move before it (the paper's alpha)."""


class Climb(NamedTuple):
    """Where every image stands. Whatever has these fields and `_replace` will do."""

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


def check_windows(steps: int) -> list[int]:
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


def begin_climb(delta: Array, eps: Array | float) -> Climb:
    """The climb before its first look: nothing is known but the start."""
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


def next_point(s: Any, i: Array, direction: Array, inside: Callable[[Array], Array]) -> Array:
    """Where look i is made: a step along `direction`, and a quarter of the move before it."""
    a = jnp.where(i > 1, jnp.asarray(MOMENTUM, direction.dtype), 1)
    z = inside(s.delta + s.step_size * direction)
    return inside(s.delta + a * (z - s.delta) + (1 - a) * (s.delta - s.before))


def after_look(s: Any, i: Array, delta: Array, u: Array, loss: Array, window: Array) -> Any:
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
