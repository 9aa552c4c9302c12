"""Grad L2L: the attacker sees the image and the loss gradient (section 2.2, Algorithm 2).

A is an argument: whatever else of the classifier an attacker should see goes there.
"""

from typing import Any

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import box, start_of
from l2ljax.functional import functional, initialise
from l2ljax.types import Inner, Solver


def grad_l2l(attacker: Any, A: AttackerInput, start: str) -> Solver:
    """delta = g(A(x, y, theta); phi), A = [x, u(x)]; u is a constant, phi learns through g."""
    g, begin = functional(attacker), start_of(start)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        a, ell = A(x + begin(rng, x, eps), y, theta, ell)
        out, phi_stats = g(phi, phi_stats, a, "update" if train else "eval")
        delta = box(x, eps * out)
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats, aux={"tanh": out})

    return Solver(init, solve, begins_at_x=start == "zero")
