"""The two losses of L2L on adversarial interpolation (the authors' code alone).

Every image moves towards another one, its partner, and its label gives away mass to all classes
but the partner's. What the attack climbs has no label in it: only features, those that the
classifier's head sees.
"""

import jax
from jax import lax
from jax.lax import stop_gradient

from l2ljax.losses import TrainLoss, cosine, cross_entropy, smooth
from l2ljax.types import Array, Ell, Seeing, Tree


def partner(batch: Array, axis_name: str | None = None) -> Array:
    """The batch in reversed order, over all devices: who is paired with whom, said once."""
    if axis_name is not None:
        devices = lax.axis_size(axis_name)
        swap = [(device, devices - 1 - device) for device in range(devices)]
        batch = lax.ppermute(batch, axis_name, swap)
    return batch[::-1]


def toward_partner(
    f: Seeing, theta: Tree, stats: Tree, x: Array, y: Array, *, axis_name: str | None = None
) -> Ell:
    """ell = -L, L(z)_i = max(0, 1 - cos(feature(z_i), c_i)), c the partners' constant features.

    An attack climbs ell, and this one lowers L.
    """
    own, stats = f(theta, stats, x, features=True)
    c = partner(stop_gradient(own), axis_name)

    def loss(theta, stats, z, draw):
        found, stats = f(theta, stats, z, draw, features=True)
        return -jax.nn.relu(1 - cosine(found, c)), stats

    return Ell(loss, stats, looks=1)


def interpolated_labels(
    y: Array, num_classes: int, eps_y: float, axis_name: str | None = None
) -> Array:
    """(1 - eps_y) y + eps_y (1 - y') / (K - 1), y and the partner's y' one-hot."""
    one_hot = jax.nn.one_hot(y, num_classes)
    others = (1 - partner(one_hot, axis_name)) / (num_classes - 1)
    return (1 - eps_y) * one_hot + eps_y * others


def interpolated(eps_y: float, smoothing: float, axis_name: str | None = None) -> TrainLoss:
    """mean_i CE(f(x_i + delta_i), y~_i), y~ the interpolated labels; accuracy is against y."""

    def train_loss(rng, f, ell, theta, theta_stats, x, inner, y, *, eps):
        logits, theta_stats = f(theta, theta_stats, x + inner.delta)
        soft = interpolated_labels(y, logits.shape[-1], eps_y, axis_name)
        loss = cross_entropy(logits, smooth(soft, logits.shape[-1], smoothing)).mean()
        accuracy = (logits.argmax(-1) == y).mean()
        return loss, theta_stats, {"theta/robust_accuracy": accuracy}

    return train_loss
