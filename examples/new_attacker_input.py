"""A new attacker input A(x, y, theta): the gradient at the image, and where FGSM would lead.

    python examples/new_attacker_input.py

A is a function (x, y, theta, ell) -> [B, H, W, C], ell: whatever the attacker should see of the
classifier goes there. By `input_gradient` it is a constant to both players. The ell that it returns
has looked: under `craft_bn="update"` it carries the BatchNorm statistics of those passes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import Method, functional, init_state, initialise, make_step
from l2ljax.attacker_input import image_and_gradient, input_gradient, normalise
from l2ljax.attacks import parse
from l2ljax.data import load, scale
from l2ljax.evaluation.accuracy import freeze, robust
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.models import make_classifier
from l2ljax.solvers import l2l, none


def look_ahead(eps):
    """A = [x, u(x), u(x + eps sign u(x))]: the gradient now, and after a step along it."""

    def A(x, y, theta, ell):
        here, ell = input_gradient(ell, theta, x)
        ahead, ell = input_gradient(ell, theta, jnp.clip(x + eps * jnp.sign(here), 0, 1))
        u, v = (normalise(gradient, "per_example_max") for gradient in (here, ahead))
        return jnp.concatenate([x, u, v], axis=-1), ell

    return A


def main(steps: int = 200, eps: float = 0.1) -> dict[str, float]:
    """Accuracy under PGM-10 of a classifier trained alone, by Grad L2L, and with the new A."""
    data, classifier = load("digits"), make_classifier("mlp", 10)
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    apply, (theta, stats) = functional(classifier), initialise(classifier, jax.random.key(0), x)
    g = nn.Sequential([nn.Conv(16, (3, 3)), nn.gelu, nn.Conv(1, (3, 3)), jnp.tanh])
    old = l2l(g, image_and_gradient("per_example_max"), steps=1, start="zero")
    new = l2l(g, look_ahead(eps), steps=1, start="zero")
    optimisers, accuracy = (optax.sgd(0.05, 0.9), optax.adam(2e-3)), {}
    for name, solver in {"plain": none(), "grad_l2l": old, "look_ahead": new}.items():
        method = Method(solver, ATTACK_LOSSES["ce"], adversarial(0.0), learns=name != "plain")
        state = init_state(jax.random.key(1), theta, stats, method, *optimisers, x)
        step = jax.jit(make_step(apply, method, *optimisers, eps=eps))
        for rows in np.random.default_rng(0).integers(len(x), size=(steps, 128)):
            state, _ = step(state, (x[rows], y[rows]), jax.random.key(2))
        test = freeze(apply)(state.theta, stats), data.x_test, data.y_test, parse("pgm10")
        accuracy[name] = robust(jax.random.key(3), *test, eps=eps, batch_size=250).mean()
    return accuracy


if __name__ == "__main__":
    print("accuracy under PGM-10:", {name: f"{share:.1%}" for name, share in main().items()})
