"""A new attacker input A(x, y, theta): the gradient at the image, and where FGSM would lead.

    python examples/new_attacker_input.py

A is a function (x, y, theta, ell) -> [B, H, W, C]; whatever the attacker should see of the
classifier goes there. `ell(theta, x)` is the loss per image with everything else bound in.
`input_gradient` stops both players' derivatives, so what is made of it is a constant input.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import Method, functional, init_state, initialise, input_gradient, make_step, normalise
from l2ljax.attacks import parse_all
from l2ljax.data import load
from l2ljax.evaluate import evaluate, freeze
from l2ljax.losses import ATTACK_LOSSES, adversarial
from l2ljax.models import make_attacker, make_classifier
from l2ljax.solvers import grad_l2l


def look_ahead(eps):
    """A = [x, u(x), u(x + eps sign u(x))]: what the gradient is now, and after a step along it."""

    def A(x, y, theta, ell):
        u = input_gradient(ell, theta, x)
        ahead = input_gradient(ell, theta, jnp.clip(x + eps * jnp.sign(u), 0, 1))
        return jnp.concatenate([x, *(normalise(v, "per_example_max", None) for v in (u, ahead))], -1)

    return A


def main(steps=200, eps=0.1):
    """Test accuracies of a classifier trained against an attacker that looks ahead."""
    data = load("digits")
    x, y = jnp.asarray(data.x_train) / 255, jnp.asarray(data.y_train)
    ...
