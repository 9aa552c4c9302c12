"""The two terms of theta's gradient: delta held constant, and through delta(theta).

    probe = two_terms(method, f, "batch")
    probe(rng, state, x, y, eps)["implicit/cosine"]

For a solver that stops theta the second term is 0; for Fast-BAT it is the implicit gradient, and
where every coordinate is at a bound it has vanished. The split asks nothing of the solver: the loss
is a function of the theta that descends and of the theta that delta has seen, and each has its
gradient. BatchNorm and dropout are as in theta's turn of the step; the statistics are discarded.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from l2ljax.ball import per_image
from l2ljax.bilevel import inside, outside, turns
from l2ljax.streams import stream
from l2ljax.types import Apply, Array, Method, Mode, State, Tree


def two_terms(method: Method, f: Apply, craft_bn: Mode) -> Callable[..., dict[str, Array]]:
    """(rng, state, x, y, eps) -> metrics under `implicit/`: mean(H), both norms, their cosine."""
    turn = turns(method, 1, craft_bn)[0]

    @jax.jit
    def probe(rng: Array, state: State, x: Array, y: Array, eps: Array | float) -> dict[str, Array]:
        keys, eps = per_image(stream(rng, "images"), len(x)), jnp.asarray(eps, x.dtype)
        looking = inside(f, turn.craft, stream(rng, "crafting"), state.theta_stats)
        outer = outside(f, turn.outer, stream(rng, "training"))

        def loss(theta, seen):
            ell = method.attack_loss(looking, state.theta, state.theta_stats, x, y)
            inner = method.solver.solve(
                keys,
                seen,
                state.phi,
                state.phi_stats,
                ell,
                x,
                y,
                eps=eps,
                train=turn.train_attacker,
            )
            value, _, _ = method.train_loss(
                stream(keys, "training"), outer, ell, theta, state.theta_stats, x, inner, y, eps=eps
            )
            return value, inner.delta

        (direct, cross), delta = jax.grad(loss, (0, 1), has_aux=True)(state.theta, state.theta)
        low = jnp.maximum(-x, -method.solver.radius * eps)
        high = jnp.minimum(1 - x, method.solver.radius * eps)
        return {
            "implicit/interior": ((low < delta) & (delta < high)).mean(),
            "implicit/cosine": cosine(direct, cross),
            "implicit/direct_norm": optax.tree.norm(direct),
            "implicit/cross_norm": optax.tree.norm(cross),
        }

    return probe


def cosine(a: Tree, b: Tree) -> Array:
    """<a, b> / (|a| |b|) of two gradients; 0 if one of them vanishes."""

    def unit(tree: Tree) -> Tree:
        norm = optax.tree.norm(tree)
        return optax.tree.scale(jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0), tree)

    return jnp.asarray(optax.tree.vdot(unit(a), unit(b)))
