"""Small games for the tests: smooth nets for exact gradients, and tiny real ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from l2ljax.functional import functional, initialise
from l2ljax.methods import METHODS, make_method
from l2ljax.models import make_attacker, make_classifier

EPS = 0.1


class SmoothClassifier(nn.Module):
    """Two layers and tanh: finite differences see no kink."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        h = nn.tanh(nn.Dense(6, param_dtype=x.dtype)(x))
        return nn.Dense(3, param_dtype=x.dtype)(h)


class SmoothAttacker(nn.Module):
    """One small convolution and tanh, in [-1, 1]."""

    channels: int = 1

    @nn.compact
    def __call__(self, a):
        h = nn.tanh(nn.Conv(4, (3, 3), param_dtype=a.dtype)(a))
        return nn.tanh(nn.Conv(self.channels, (3, 3), param_dtype=a.dtype)(h))


def images(n=8, size=8, channels=1, classes=10, dtype=jnp.float32):
    """Random images with a margin to the box, and labels."""
    x = jax.random.uniform(jax.random.key(0), (n, size, size, channels), dtype, 0.2, 0.8)
    return x, jnp.arange(n) % classes


def method_of(name, attacker=None, **changes):
    """A row of METHODS with small settings."""
    row = METHODS[name]
    settings = {
        "attacker": attacker or make_attacker("wide", 1, width=1 / 16),
        "inner_steps": row.inner_steps and 3,
        "step_size": 0.04,
        "start": row.start,
        "grad_norm": "batch_max",
        "attack_loss": "ce",
        "mix": True,
        "smoothing": 0.0,
        "order": "simultaneous",
    }
    return make_method(name, **(settings | changes))


def small_net(classes=10):
    """(f, theta, stats) of a BatchNorm network on 8x8x1 images."""
    net = make_classifier("wrn-10-1", classes, width=0.25)
    theta, stats = initialise(net, jax.random.key(1), images()[0])
    return functional(net), theta, stats


def keys(n=8, seed=3):
    """One key per image."""
    return jax.random.split(jax.random.key(seed), n)


SGD = optax.sgd(0.1)
