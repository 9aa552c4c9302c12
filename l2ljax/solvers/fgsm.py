"""The fast gradient sign method (Goodfellow et al. 2014; section 2.1 of the paper)."""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import box
from l2ljax.types import Inner, Solver, no_phi


def fgsm() -> Solver:
    """delta = eps sign(u(x)), cut to the box; nothing passes to theta."""

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        u, ell = input_gradient(ell, theta, x)
        return Inner(box(x, eps * jnp.sign(u)), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=True)
