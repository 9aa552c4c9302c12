"""Fast-BAT: the implicit gradient of a linearised inner problem (Zhang et al. 2022).

    delta*(theta) = argmin_{delta in C} -<delta - z, q> + (lam/2) |delta - z|^2 = Pi_C(z + q/lam)
    q = grad_x ell(theta, x + z), C = the ball and the box

The one surprising thing: there is no implicit gradient in this file. It is the solver that does not
stop theta, and what autodiff makes of the closed form is the paper's update, the mask H included:
`lax.clamp` passes nothing at a bound. As in the authors' code the step is not 1/lam but a number of
its own, and the mixed derivative is taken at z, where the paper's equation has delta*.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.lax import stop_gradient

from l2ljax.attacker_input import input_gradient, slope
from l2ljax.ball import STARTS, box, project
from l2ljax.errors import word
from l2ljax.types import Array, Inner, Solver, no_phi


class Point(NamedTuple):
    """z = Pi_C(start + move(u(x + start), eps, step)), without Pi_C where it is not `projected`."""

    start: str
    move: Callable[..., Array] | None
    projected: bool = True


def _sign(factor: float) -> Callable[..., Array]:
    return lambda u, eps, step: factor * eps * jnp.sign(u)


def _no_sign(u: Array, eps: Array | float, step: float) -> Array:
    return step * u


POINTS = {
    "random": Point("uniform", None),
    "fgsm": Point("zero", _sign(1.0)),
    "pgd": Point("uniform", _sign(1.25)),
    "ns_pgd": Point("uniform", _no_sign),
    "ns_gd": Point("uniform", _no_sign, projected=False),
    "ns_pgd_zero": Point("zero", _no_sign),
}
"""Where the inner problem is linearised (`get_perturbation_init` of the authors' code)."""

MIXED_AT = ("z", "delta")
"""Where theta's derivative of the input gradient is taken: the code's choice, the equation's."""


def fast_bat(point: str, step: float, lam: float, mixed_at: str) -> Solver:
    """delta = Pi_C(z + step q); to theta passes d delta = H dq / lam, and nothing through z.

    step is in pixels of [0, 1] per unit of an image's own gradient: ell is summed, never averaged.
    """
    word("linearisation point", point, POINTS)
    word("point of the mixed derivative", mixed_at, MIXED_AT)
    start, move, projected = POINTS[point]

    def solve(rng, theta, phi, phi_stats, ell, x, y, *, eps, train):
        def inside(delta):
            return box(x, project(delta, eps))

        z = STARTS[start](rng, x, eps)
        if move is not None:
            u, ell = input_gradient(ell, theta, x + z)
            z = z + move(u, eps, step)
        z = inside(z) if projected else z
        q, ell = slope(ell, theta, x + z)
        v = stop_gradient(z + step * q)
        if mixed_at == "delta":
            q, ell = slope(ell, theta, x + inside(v))
        return Inner(inside(v + (q - stop_gradient(q)) / lam), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero", looks_at_delta=True)
