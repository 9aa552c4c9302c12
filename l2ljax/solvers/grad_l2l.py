"""Grad L2L: the attacker sees the image and the loss gradient (section 2.2, Algorithm 2).

A is an argument: whatever else of the classifier an attacker should see goes there.
"""

from typing import Any

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import STARTS, box
from l2ljax.functional import functional, initialise
from l2ljax.types import Inner, Solver


def grad_l2l(attacker: Any, A: AttackerInput, start: str) -> Solver:
    """delta = g(A(x, y, theta); phi), A = [x, u(x)]; u is a constant, phi learns through g."""
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        x0 = x + STARTS[start](rng, x, eps)
        out, phi_stats = g(phi, phi_stats, A(x0, y, theta, ell), "update" if train else "eval")
        return Inner(box(x, eps * out), phi_stats=phi_stats, aux={"tanh": out})

    return Solver(init, solve)
