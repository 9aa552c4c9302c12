"""L2L on adversarial interpolation (the authors' code, not in the paper).

Made for `interpolation.toward_partner`, whose ell = -L: phi climbs it through `gain`, while theta
learns on a constant delta. One attacker pass serves both players: the simultaneous order of play.
What the attacker sees is the gradient of L itself, as in the authors' code, and not that of ell.
The noise before the first call is a part of delta, and cut to the box only after that call. The
ball is applied once, at the end, as in the authors' code: between two calls only the box is.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import box, noise, project
from l2ljax.functional import functional, initialise
from l2ljax.target import repeat
from l2ljax.types import Array, Ell, Inner, Solver, Tree


def interp(attacker: Any, A: AttackerInput, steps: int) -> Solver:
    """d_{t+1} = box(d_t + eps g([x + d_t, u(x + d_t)])), d_0 ~ U(-eps, eps); delta = Pi(d_K).

    u is the gradient of L. gain = mean_i ell(theta, x_i + delta_i), where the attacker trains;
    theta is a constant in it.
    """
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            delta, phi_stats, L, _ = carry
            a, L = A(x + delta, y, theta, L)
            out, phi_stats = g(phi, phi_stats, a, "update" if train else "eval")
            return box(x, delta + eps * out), phi_stats, L, out

        carry = noise(rng, x, eps), phi_stats, _negative(ell), jnp.zeros_like(x)
        delta, phi_stats, L, out = repeat(step, carry, steps)
        delta, gain = project(delta, eps), 0.0
        if train:
            distance, L = L.look(stop_gradient(theta), x + delta)
            gain = -distance.mean()
        return Inner(stop_gradient(delta), gain, phi_stats, L.stats, aux={"tanh": out})

    return Solver(init, solve)


def _negative(ell: Ell) -> Ell:
    def loss(theta: Tree, stats: Tree, x: Array, draw: Array | int) -> tuple[Array, Tree]:
        value, stats = ell.loss(theta, stats, x, draw)
        return -value, stats

    return dataclasses.replace(ell, loss=loss)
