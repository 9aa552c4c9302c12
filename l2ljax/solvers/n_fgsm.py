"""N-FGSM: one sign step from strong noise, with no clip around the image (de Jorge et al. 2022)."""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import STARTS, box, project
from l2ljax.types import Inner, Solver, no_phi


def n_fgsm(noise: float, step_size: float) -> Solver:
    """delta = box(eta + step_size sign(u(x + eta))), eta ~ U(-noise eps, noise eps) in the box.

    Not clipped to the ball, which is the point of it: |delta| <= (noise + 1) eps. The step alone is
    held to eps, so that it follows a radius that is warmed up. Nothing passes to theta.
    """

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        eta = STARTS["uniform"](rng, x, noise * eps)
        u = input_gradient(ell, theta, x + eta)
        return Inner(box(x, eta + project(step_size * jnp.sign(u), eps)))

    return Solver(no_phi, solve, radius=noise + 1)
