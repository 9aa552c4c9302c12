"""K-step L2L: the paper's 2-Step recurrence carried on, by `lax.scan` with shared phi.

K = 1 is Grad L2L and K = 2 is 2-Step L2L. The authors' own recurrence of K steps is another one:
see kstep_l2l.
"""

from typing import Any

import jax.numpy as jnp

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import STARTS, box, project
from l2ljax.functional import functional, initialise
from l2ljax.inner_loop import repeat
from l2ljax.types import Inner, Solver


def multistep_l2l(attacker: Any, A: AttackerInput, start: str, steps: int) -> Solver:
    """delta_{t+1} = Pi(delta_t + g([x + delta_t, u(x + delta_t)])), the image path kept."""
    g = functional(attacker)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            delta, offset, phi_stats, _ = carry
            a = A(x + offset, y, theta, ell)
            out, phi_stats = g(phi, phi_stats, a, "update" if train else "eval")
            delta = box(x, project(delta + eps * out, eps))
            return delta, delta, phi_stats, out

        # The start says where the first gradient is taken; it is no part of delta.
        carry = jnp.zeros_like(x), STARTS[start](rng, x, eps), phi_stats, jnp.zeros_like(x)
        delta, _, phi_stats, out = repeat(step, carry, steps)
        return Inner(delta, phi_stats=phi_stats, aux={"tanh": out})

    return Solver(init, solve)
