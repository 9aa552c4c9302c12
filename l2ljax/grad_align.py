"""GradAlign's training loss (Andriushchenko and Flammarion 2020).

No solver: FGSM training with a penalty on how the input gradient turns within the ball. The penalty
is differentiated through u(x + eta) alone, so that it costs one double backward pass; u(x) is a
constant, and the same one that FGSM takes.
"""

import jax.numpy as jnp

from l2ljax.attacker_input import input_gradient, slope
from l2ljax.ball import noise
from l2ljax.losses import TrainLoss, adversarial, cosine
from l2ljax.types import Array


def grad_align(weight: float, smoothing: float) -> TrainLoss:
    """CE(x + delta) + weight (1 - mean_i cos(u(x_i), u(x_i + eta_i))), eta ~ U(-eps, eps)."""
    attacked = adversarial(smoothing)

    def train_loss(rng, f, ell, theta, theta_stats, x, inner, y, *, eps):
        loss, theta_stats, metrics = attacked(rng, f, ell, theta, theta_stats, x, inner, y, eps=eps)
        # FGSM has looked at x already, so that only x + eta is new to the statistics.
        u, _ = input_gradient(ell, theta, x)
        near, ell = slope(ell.after(theta_stats), theta, x + noise(rng, x, eps))
        aligned = alignment(u, near)
        loss = loss + weight * (1 - aligned)
        return loss, ell.stats, {**metrics, "theta/alignment": aligned}

    return train_loss


def alignment(u: Array, near: Array) -> Array:
    """mean_i cos(u_i, near_i) over the images of which neither gradient is zero; 1 without any."""
    seen = jnp.any(u != 0, (1, 2, 3)) & jnp.any(near != 0, (1, 2, 3))
    total = jnp.where(seen, cosine(u, near), 0.0).sum() / jnp.maximum(seen.sum(), 1)
    return jnp.where(seen.any(), total, 1.0)
