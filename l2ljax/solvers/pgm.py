"""The projected gradient method, T sign steps (equation 2).

The paper starts at zero, the authors' code at 0.001 N(0, 1), Madry et al. uniformly in the ball:
three different numbers, so the start is always named.
"""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import Radii, box, length, project, start_of
from l2ljax.target import repeat
from l2ljax.types import Inner, Solver, no_phi


def pgm(steps: int, step_size: float | Radii, start: str) -> Solver:
    """delta^t = Pi(delta^{t-1} + eta sign(u(x + delta^{t-1}))); nothing passes to theta."""
    begin = start_of(start)

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            delta, ell = carry
            u, ell = input_gradient(ell, theta, x + delta)
            return box(x, project(delta + length(step_size, eps) * jnp.sign(u), eps)), ell

        delta, ell = repeat(step, (begin(rng, x, eps), ell), steps)
        return Inner(delta, theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero")
