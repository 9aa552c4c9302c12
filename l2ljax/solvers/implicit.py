"""Fast-BAT: the implicit gradient of a linearised inner problem (Zhang et al. 2022).

    delta*(theta) = argmin_{delta in C} -<delta - z, q> + (lam/2) |delta - z|^2 = Pi_C(z + q/lam)
    q = grad_x ell(theta, x + z), C = the ball and the box

There is no implicit gradient written out in this file. It is the one solver that does not stop
theta, and what autodiff makes of the closed form is the paper's update, the mask H included:
`lax.clamp` passes nothing at a bound. As in the authors' code the step is not 1/lam but a number of
its own, and the mixed derivative is taken at z, where the paper's equation has delta*.

`two_terms` measures how much of theta's gradient comes that way.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import stop_gradient

from l2ljax.attacker_input import input_gradient, slope
from l2ljax.ball import STARTS, box, per_image, project
from l2ljax.bilevel import inside, outside, turns
from l2ljax.errors import word
from l2ljax.types import (
    Apply,
    Array,
    Inner,
    Method,
    Mode,
    Probe,
    Problem,
    Solver,
    State,
    Tree,
    no_phi,
    stream,
)


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

    def solve(problem: Problem, theta, phi, phi_stats) -> Inner:
        x, eps, ell = problem.x, problem.eps, problem.ell

        def cut(delta):
            return box(x, project(delta, eps))

        z = STARTS[start](problem.keys, x, eps)
        if move is not None:
            u, ell = input_gradient(ell, theta, x + z)
            z = z + move(u, eps, step)
        z = cut(z) if projected else z
        q, ell = slope(ell, theta, x + z)
        v = stop_gradient(z + step * q)
        if mixed_at == "delta":
            q, ell = slope(ell, theta, x + cut(v))
        return Inner(cut(v + (q - stop_gradient(q)) / lam), theta_stats=ell.stats)

    return Solver(no_phi, solve, begins_at_x=start == "zero", looks_at_delta=True)


def two_terms(method: Method, apply: Apply, craft_bn: Mode) -> Probe:
    """(key, state, x, y, eps) -> metrics under `implicit/`: mean(H), both norms, their cosine.

    The two terms of theta's gradient are the one with delta held constant and the one through
    delta(theta). For a solver that stops theta the second is 0; for Fast-BAT it is the implicit
    gradient, and where every coordinate is at a bound it has vanished. The split asks nothing of
    the solver: the loss is a function of the theta that descends and of the theta that delta has
    seen, and each has its gradient. BatchNorm and dropout are as in theta's turn of the step; the
    statistics are discarded.
    """
    turn = turns(method, 1, craft_bn)[0]

    @jax.jit
    def probe(key: Array, state: State, x: Array, y: Array, eps: Array | float) -> dict[str, Array]:
        keys, eps = per_image(stream(key, "images"), len(x)), jnp.asarray(eps, x.dtype)
        crafting = inside(apply, turn.craft, stream(key, "crafting"), state.theta_stats)
        outer = outside(apply, turn.outer, stream(key, "training"))

        def loss(theta, seen):
            ell = method.attack_loss(crafting, state.theta, state.theta_stats, x, y)
            problem = Problem(ell, x, y, eps, keys, turn.train_attacker)
            inner = method.solver.solve(problem, seen, state.phi, state.phi_stats)
            training = problem._replace(keys=stream(keys, "training"))
            value, _, _ = method.train_loss(outer, training, theta, state.theta_stats, inner)
            return value, inner.delta

        (direct, cross), delta = jax.grad(loss, (0, 1), has_aux=True)(state.theta, state.theta)
        low = jnp.maximum(-x, -method.solver.radius * eps)
        high = jnp.minimum(1 - x, method.solver.radius * eps)
        return {
            "implicit/interior": ((low < delta) & (delta < high)).mean(),
            "implicit/cosine": tree_cosine(direct, cross),
            "implicit/direct_norm": optax.tree.norm(direct),
            "implicit/cross_norm": optax.tree.norm(cross),
        }

    return probe


def tree_cosine(a: Tree, b: Tree) -> Array:
    """<a, b> / (|a| |b|) of two gradients; 0 if one of them vanishes."""

    def unit(tree: Tree) -> Tree:
        norm = optax.tree.norm(tree)
        return optax.tree.scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), tree)

    return jnp.asarray(optax.tree.vdot(unit(a), unit(b)))
