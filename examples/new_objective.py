"""A new objective for phi: the margin, less a price for how much of the ball it uses.

    python examples/new_objective.py

phi climbs the training loss through delta, plus the solver's `gain`. A solver that stops delta and
writes an objective into the gain therefore decides what its attacker wants. theta is stopped inside
the gain, and descends the same training loss as ever.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

from l2ljax import Method, Problem, Solver, functional, init_state, initialise, make_step
from l2ljax.attacker_input import image_and_gradient
from l2ljax.data import load, scale
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.models import make_classifier
from l2ljax.solvers import l2l


def frugal(solver: Solver, price: float) -> Solver:
    """The same delta, with phi climbing mean_i ell(x_i + delta_i) - price mean |delta| / eps."""

    def solve(problem: Problem, theta, phi, phi_stats):
        inner = solver.solve(problem, theta, phi, phi_stats)
        size = jnp.abs(inner.delta).mean() / problem.eps
        gain = problem.ell(stop_gradient(theta), problem.x + inner.delta).mean() - price * size
        return inner._replace(delta=stop_gradient(inner.delta), gain=gain)

    return solver._replace(solve=solve)


def main(steps: int = 200, eps: float = 0.1) -> dict[float, dict[str, float]]:
    """For two prices: accuracy under the attack, and its mean |delta| / eps, on the last batch."""
    data, classifier = load("digits"), make_classifier("mlp", 10)
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    apply, (theta, stats) = functional(classifier), initialise(classifier, jax.random.key(0), x)
    g = nn.Sequential([nn.Conv(16, (3, 3)), nn.gelu, nn.Conv(1, (3, 3)), jnp.tanh])
    solver = l2l(g, image_and_gradient("per_example_max"), steps=1, start="zero")
    optimisers, measured = (optax.sgd(0.05, 0.9), optax.adam(2e-3)), {}
    for price in (0.0, 10.0):
        # ell is the margin max_{t != y} f_t - f_y here: for A's gradient, and so for the gain.
        losses = ATTACK_LOSSES["margin"], adversarial(0.0)
        method = Method(frugal(solver, price), *losses, learns=True)
        state = init_state(jax.random.key(1), theta, stats, method, *optimisers, x)
        step = jax.jit(make_step(apply, method, *optimisers, eps=eps))
        for rows in np.random.default_rng(0).integers(len(x), size=(steps, 128)):
            state, metrics = step(state, (x[rows], y[rows]), jax.random.key(2))
        names = "theta/robust_accuracy", "delta/mean_abs"
        measured[price] = {name: float(metrics[name]) for name in names}
    return measured


if __name__ == "__main__":
    for price, found in main().items():
        print(f"price {price:g}:", {name: round(value, 3) for name, value in found.items()})
