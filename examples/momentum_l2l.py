"""A method of your own, with a setting of its own: a learned attacker whose steps carry momentum.

    python experiments/train.py --method=examples/momentum_l2l.py:momentum_l2l --momentum=0.9

A method is a function that returns a `Method`. Its keywords are its settings: each says what it is,
and is then in --help, in config.json and in what resuming compares. The one positional parameter,
`attacker`, is the network g of --attacker. From Python, `l2ljax.train(method="FILE.py:NAME", ...)`.
"""

from typing import Annotated, Any

import jax.numpy as jnp

from l2ljax import Inner, Method, Problem, Solver, functional, image_and_gradient, initialise
from l2ljax.attacker_input import example_input
from l2ljax.ball import box, project
from l2ljax.losses import ATTACK_LOSSES, adversarial

A = image_and_gradient("per_example_max")


def momentum_steps(attacker: Any, steps: int, momentum: float) -> Solver:
    """m <- mu m + g([x + d, u(x + d)]; phi), then d <- d + eps m, cut to the ball and the box."""
    g = functional(attacker)

    def init(key, x):
        return initialise(attacker, key, example_input(A, x))

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        delta = move = jnp.zeros_like(problem.x)
        ell, mode = problem.ell, "update" if problem.train else "eval"
        for _ in range(steps):
            a, ell = A(problem.x + delta, problem.y, theta, ell)
            out, phi_stats = g(phi, phi_stats, a, mode)
            move = momentum * move + out
            delta = box(problem.x, project(delta + problem.eps * move, problem.eps))
        return Inner(delta, phi_stats=phi_stats, theta_stats=ell.stats)

    return Solver(init, solve, begins_at_x=True)


def momentum_l2l(
    attacker: Any,
    *,
    momentum: Annotated[float, "share of the last move that the next one keeps", "[0, 1)"] = 0.9,
    inner_steps: Annotated[int, "steps T or K of the inner problem", "> 0"] = 2,
    label_smoothing: Annotated[float, "share of the label spread over all classes", "[0, 1)"],
) -> Method:
    """A learned attacker whose steps carry momentum."""
    solver = momentum_steps(attacker, inner_steps, momentum)
    return Method(solver, ATTACK_LOSSES["ce"], adversarial(label_smoothing), learns=True)
