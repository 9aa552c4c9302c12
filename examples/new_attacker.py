"""A new attacker: any Flax module can play. This one mixes every pixel with every other.

    python examples/new_attacker.py

g takes what A shows it (image and gradient: 2 channels) and returns the image's channels with
values in [-1, 1]. The solver `l2l` does the rest: it multiplies by eps, cuts to the box, and lets
the training loss reach phi through g alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax import Method, functional, image_and_gradient, init_state, initialise, make_step
from l2ljax.attacks import learned_attack
from l2ljax.data import load, scale
from l2ljax.evaluation.accuracy import freeze
from l2ljax.losses import ATTACK_LOSSES, adversarial, cross_entropy
from l2ljax.models import make_classifier
from l2ljax.solvers import l2l


class Mixer(nn.Module):
    """g(a; phi), dense over the channels of a pixel, and then over the pixels."""

    @nn.compact
    def __call__(self, a):
        """a [B, H, W, 2] -> [B, H, W, 1] in [-1, 1]."""
        h = nn.gelu(nn.Dense(16)(a.reshape(len(a), -1, a.shape[-1])))
        h += nn.Dense(h.shape[1])(h.swapaxes(1, 2)).swapaxes(1, 2)
        return jnp.tanh(nn.Dense(1)(nn.gelu(h))).reshape(*a.shape[:-1], 1)


def main(steps: int = 200, eps: float = 0.1) -> dict[str, float]:
    """The trained classifier's test loss: clean, and under phi before and after training."""
    data = load("digits")
    x, y = scale(jnp.asarray(data.x_train)), jnp.asarray(data.y_train)
    solver = l2l(Mixer(), image_and_gradient("per_example_max"), steps=1, start="zero")
    method = Method(solver, ATTACK_LOSSES["ce"], adversarial(0.0), learns=True)
    classifier, optimisers = make_classifier("mlp", 10), (optax.sgd(0.05, 0.9), optax.adam(2e-3))
    theta, stats = initialise(classifier, jax.random.key(0), x[:1])
    state = start = init_state(jax.random.key(1), theta, stats, method, *optimisers, x[:1])
    step = jax.jit(make_step(functional(classifier), method, *optimisers, eps=eps))
    for rows in np.random.default_rng(0).integers(len(x), size=(steps, 128)):
        state, _ = step(state, (x[rows], y[rows]), jax.random.key(2))

    x, y = scale(jnp.asarray(data.x_test)), jnp.asarray(data.y_test)
    f = freeze(functional(classifier))(state.theta, stats)
    attacked = {"clean": x}
    for name, phi in {"before": start.phi, "after": state.phi}.items():
        how = {"solver": solver, "phi": phi, "phi_stats": {}}
        attacked[name] = learned_attack(jax.random.key(3), f, x, y, eps=eps, **how)
    return {name: float(cross_entropy(f(z), y).mean()) for name, z in attacked.items()}


if __name__ == "__main__":
    print("test loss:", {name: round(loss, 3) for name, loss in main().items()})
