"""What the learned attacker does: is it an attack at all, and which kind?

Everything is measured on given images against the frozen classifier in eval mode, as a share or a
cosine, so that epochs and runs can be compared.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from l2ljax.attacker_input import input_gradient
from l2ljax.attacks.pgd import pgd
from l2ljax.bilevel import evaluating
from l2ljax.losses import cross_entropy
from l2ljax.types import Apply, Array, Method, Problem, State

LEAST = 1e-6
"""The least gain of PGD-20 that counts: below it float32 losses of order 1 are rounding."""


def make_diagnose(
    apply: Apply, method: Method
) -> Callable[[Array, State, Array, Array, float], dict[str, float]]:
    """(key, state, x, y, eps) -> metrics under `attacker/`, for a method that learns.

    Sign agreement and saturation look at what the solver puts into `Inner.aux["tanh"]`, the output
    of its attacker, and are left out where there is none.
    """

    @jax.jit
    def logits(theta, theta_stats, x):
        return apply(theta, theta_stats, x, "eval")[0]

    @jax.jit
    def learned(keys, state, x, y, eps):
        forward = evaluating(apply, state.theta_stats)
        ell = method.attack_loss(forward, state.theta, state.theta_stats, x, y)
        problem = Problem(ell, x, y, eps, keys, train=False)
        inner = method.solver.solve(problem, state.theta, state.phi, state.phi_stats)
        return inner, input_gradient(ell, state.theta, x)[0]

    @jax.jit
    def compare(state, x, y, eps, inner, u, pgm10, pgd20):
        def loss(x):
            return cross_entropy(logits(state.theta, state.theta_stats, x), y).mean()

        clean, strong = loss(x), loss(pgd20)
        delta, other = inner.delta, pgm10 - x
        norms = jnp.linalg.norm(delta.reshape(len(x), -1), axis=1)
        norms *= jnp.linalg.norm(other.reshape(len(x), -1), axis=1)
        dots = (delta * other).reshape(len(x), -1).sum(1)
        measured = {
            "attacker/adequacy": (loss(x + delta) - clean) / jnp.maximum(strong - clean, LEAST),
            "attacker/mean_abs_delta": jnp.abs(delta).mean() / eps,
            "attacker/at_bound": (jnp.abs(delta) > 0.999 * eps).mean(),
            "attacker/cosine_pgm10": (dots / jnp.maximum(norms, 1e-12)).mean(),
        }
        out, seen = inner.aux.get("tanh"), u != 0
        if out is None:  # a solver of the user's own, whose last layer is not told
            return measured
        agree = (jnp.sign(out) == jnp.sign(u)) & seen
        return measured | {
            "attacker/sign_agreement": agree.sum() / jnp.maximum(seen.sum(), 1),
            "attacker/saturation": (jnp.abs(out) > 0.99).mean(),
        }

    def diagnose(key: Array, state: State, x: Array, y: Array, eps: float) -> dict[str, float]:
        frozen = Partial(logits, state.theta, state.theta_stats)
        keys = jax.random.split(key, len(x))
        inner, u = learned(keys, state, x, y, eps)
        strength = {"start": "zero", "loss": "ce"}
        pgm10 = pgd(key, frozen, x, y, eps=eps, steps=10, step_size=eps / 3, **strength)
        pgd20 = pgd(key, frozen, x, y, eps=eps, steps=20, step_size=eps / 8, **strength)
        measured = compare(state, x, y, eps, inner, u, pgm10, pgd20)
        return {name: float(value) for name, value in measured.items()}

    return diagnose
