"""2-Step L2L and its continuation to K steps, by `lax.scan` with shared phi (section 2.2).

K = 1 is Grad L2L and K = 2 is the paper's 2-Step L2L. The sum is of the attacker's raw outputs, as
in the paper and in the authors' code: only the image that the next call sees is cut to the box. The
authors' own recurrence of K steps is another one: see kstep_l2l.

phi's gradient has the path through the image that the next call sees, and none through u.
"""

from typing import Any

import jax.numpy as jnp

from l2ljax.attacker_input import AttackerInput, example_input
from l2ljax.ball import box, project, start_of
from l2ljax.functional import functional, initialise
from l2ljax.target import repeat
from l2ljax.types import Inner, Solver


def multistep_l2l(attacker: Any, A: AttackerInput, start: str, steps: int) -> Solver:
    """s_{t+1} = Pi(s_t + eps g([x_t, u(x_t)])), x_t = x + box(s_t), s_0 = 0; delta = box(s_K).

    The start says where the first gradient is taken, x_0; it is no part of delta.
    """
    g, begin = functional(attacker), start_of(start)

    def init(rng, x):
        return initialise(attacker, rng, example_input(A, x))

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def step(carry):
            total, offset, phi_stats, ell, _ = carry
            a, ell = A(x + offset, y, theta, ell)
            out, phi_stats = g(phi, phi_stats, a, "update" if train else "eval")
            total = project(total + eps * out, eps)
            return total, box(x, total), phi_stats, ell, out

        carry = jnp.zeros_like(x), begin(rng, x, eps), phi_stats, ell, jnp.zeros_like(x)
        _, delta, phi_stats, ell, out = repeat(step, carry, steps)
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats, aux={"tanh": out})

    return Solver(init, solve, begins_at_x=start == "zero")
