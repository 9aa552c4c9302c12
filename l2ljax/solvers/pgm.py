"""The projected gradient method, T sign steps (equation 2).

The paper starts at zero, the authors' code at 0.001 N(0, 1), Madry et al. uniformly in the ball:
three different numbers, so the start is always named.
"""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import STARTS, box, project
from l2ljax.inner_loop import repeat
from l2ljax.types import Inner, Solver, no_phi


def pgm(steps: int, step_size: float, start: str) -> Solver:
    """delta^t = Pi(delta^{t-1} + eta sign(u(x + delta^{t-1}))); nothing passes to theta."""

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(delta):
            u = input_gradient(ell, theta, x + delta)
            return box(x, project(delta + step_size * jnp.sign(u), eps))

        return Inner(repeat(step, STARTS[start](rng, x, eps), steps))

    return Solver(no_phi, solve)
