"""N-FGSM: one sign step from strong noise, with no clip around the image (de Jorge et al. 2022)."""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient
from l2ljax.ball import Radii, box, length, project, uniform
from l2ljax.types import Inner, Solver, no_phi


def n_fgsm(noise: float, step_size: float | Radii) -> Solver:
    """delta = box(eta + step_size sign(u(x + eta))), eta ~ U(-noise eps, noise eps) in the box.

    Not clipped to the ball, which is the point of it: |delta| <= (noise + 1) eps. The step alone is
    held to eps, which the authors' code does not do: there a step beyond eps is taken whole.
    Nothing passes to theta.
    """

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        eta = uniform(rng, x, noise * eps)
        u, ell = input_gradient(ell, theta, x + eta)
        delta = box(x, eta + project(length(step_size, eps) * jnp.sign(u), eps))
        return Inner(delta, theta_stats=ell.stats)

    return Solver(no_phi, solve, radius=noise + 1, begins_at_x=noise == 0)
