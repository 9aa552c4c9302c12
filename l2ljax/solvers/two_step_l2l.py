"""2-Step L2L: a recurrence of length two with shared phi (section 2.2).

phi's gradient has the path through delta0 (the image the second call sees) and none through u.
"""

from typing import Any

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import STARTS, box, project
from l2ljax.functional import functional, initialise
from l2ljax.types import Inner, Solver


def two_step_l2l(attacker: Any, A: AttackerInput, start: str) -> Solver:
    """delta0 = g([x, u(x)]); delta = Pi(delta0 + g([x + delta0, u(x + delta0)]))."""
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        mode = "update" if train else "eval"
        x0 = x + STARTS[start](rng, x, eps)
        out, phi_stats = g(phi, phi_stats, A(x0, y, theta, ell), mode)
        delta0 = box(x, eps * out)
        out, phi_stats = g(phi, phi_stats, A(x + delta0, y, theta, ell), mode)
        delta = box(x, project(delta0 + eps * out, eps))
        return Inner(delta, phi_stats=phi_stats, aux={"tanh": out})

    return Solver(init, solve)
