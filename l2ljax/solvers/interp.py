"""L2L on adversarial interpolation (the authors' code, not in the paper).

Made for `interpolation.toward_partner`, whose ell = -L: phi climbs it through `gain`, while theta
learns on a constant delta. One attacker pass serves both players: the simultaneous order of play.
The noise before the first call is a part of delta, and cut to the box only after that call.
"""

from typing import Any

import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import box, noise, project
from l2ljax.functional import functional, initialise
from l2ljax.inner_loop import repeat
from l2ljax.types import Inner, Solver


def interp(attacker: Any, A: AttackerInput, steps: int) -> Solver:
    """delta_{t+1} = Pi(delta_t + g([x + delta_t, u(x + delta_t)])), delta_0 ~ U(-eps, eps).

    gain = mean_i ell(theta, x_i + delta_i), where the attacker trains; theta is a constant in it.
    """
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            delta, phi_stats, _ = carry
            a = A(x + delta, y, theta, ell)
            out, phi_stats = g(phi, phi_stats, a, "update" if train else "eval")
            return box(x, project(delta + eps * out, eps)), phi_stats, out

        carry = noise(rng, x, eps), phi_stats, jnp.zeros_like(x)
        delta, phi_stats, out = repeat(step, carry, steps)
        gain = ell(stop_gradient(theta), x + delta).mean() if train else 0.0
        return Inner(stop_gradient(delta), gain, phi_stats, aux={"tanh": out})

    return Solver(init, solve)
