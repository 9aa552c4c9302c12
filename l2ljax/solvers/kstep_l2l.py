"""The K-step attacker of the authors' code (adv_loss.py), which the paper does not describe.

Not the recurrence of 2-Step L2L: the step is eta and not eps, the attacker's inputs are constants
at every step, and the ball is applied once, at the end.
"""

from typing import Any

import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import Radii, box, length, project, start_of
from l2ljax.functional import functional, initialise
from l2ljax.target import repeat
from l2ljax.types import Inner, Solver


def kstep_l2l(
    attacker: Any, A: AttackerInput, start: str, steps: int, step_size: float | Radii
) -> Solver:
    """x_{t+1} = clip01(x_t + (eta/eps) g([x_t, u(x_t)])), eta = step_size; delta = Pi(x_K - x)."""
    g, begin = functional(attacker), start_of(start)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            delta, phi_stats, ell, _ = carry
            a, ell = A(x + delta, y, theta, ell)
            out, phi_stats = g(phi, phi_stats, stop_gradient(a), "update" if train else "eval")
            return box(x, delta + length(step_size, eps) * out), phi_stats, ell, out

        carry = begin(rng, x, eps), phi_stats, ell, jnp.zeros_like(x)
        delta, phi_stats, ell, out = repeat(step, carry, steps)
        delta = project(delta, eps)
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats, aux={"tanh": out})

    return Solver(init, solve, begins_at_x=start == "zero")
