"""Naive L2L: the attacker sees the image alone (section 2.2). The paper's negative control."""

from typing import Any

from l2ljax.ball import box
from l2ljax.functional import functional, initialise
from l2ljax.types import Inner, Solver


def naive_l2l(attacker: Any) -> Solver:
    """delta = g(x; phi), with g = eps tanh(...); theta's gradient takes delta as a constant."""
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, x)

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        out, phi_stats = g(phi, phi_stats, x, "update" if train else "eval")
        return Inner(box(x, eps * out), phi_stats=phi_stats, aux={"tanh": out})

    return Solver(init, solve)
