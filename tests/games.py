"""Small games for the tests: smooth nets for exact gradients, and tiny real ones."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2ljax.apply import functional, initialise
from l2ljax.methods import make_method, method_settings, wants_attacker
from l2ljax.models import make_attacker, make_classifier
from l2ljax.types import Problem

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


class TinyClassifier(nn.Module):
    """A convolution, BatchNorm and a head on the means: all that a statistic needs."""

    classes: int = 10

    @nn.compact
    def __call__(self, x, *, train, features=False):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.tanh(nn.BatchNorm(not train, momentum=0.9)(x)).mean((1, 2))
        return x if features else nn.Dense(self.classes)(x)


def images(n=8, size=8, channels=1, classes=10, dtype=jnp.float32):
    """Random images with a margin to the box, and labels."""
    x = jax.random.uniform(jax.random.key(0), (n, size, size, channels), dtype, 0.2, 0.8)
    return x, jnp.arange(n) % classes


SETTINGS = {
    "order": "simultaneous",
    "label_smoothing": 0.0,
    "remat": False,
    "inner_steps": 3,
    "inner_step": 0.04,
    "attacker_start": "zero",
    "grad_norm": "batch_max",
    "attack_loss": "ce",
    "clean_mix": True,
    "trades_beta": 2.0,
    "interp_label": 0.5,
    "rnn_hidden": 4,
    "rnn_input": "sign_log",
    "rnn_weights": "ones",
    "rnn_learned_step": True,
    "rnn_bound": 0.5,
    "bat_point": "ns_pgd",
    "bat_step": 1.0,
    "bat_lambda": 2.0,
    "bat_mixed": "z",
    "noise": 2.0,
    "ga_lambda": 0.5,
}
"""Small numbers for every setting that a method may have."""

FROM_KL = dict.fromkeys(
    ("trades", "rnn_trades"), {"attack_loss": "kl", "attacker_start": "gaussian"}
)


def method_of(name, attacker=None, **changes):
    """A method with small settings; `changes` that it does not have are left out."""
    known = method_settings(name)
    settings = SETTINGS | FROM_KL.get(name, {}) | changes
    settings = {key: value for key, value in settings.items() if key in known}
    if not wants_attacker(name):
        return make_method(name, **settings)
    return make_method(
        name, attacker=attacker or make_attacker("wide", 1, width=1 / 16), **settings
    )


def small_net(classes=10):
    """(f, theta, stats) of a BatchNorm network on 8x8x1 images."""
    net = make_classifier("wrn-10-1", classes, width=0.25)
    theta, stats = initialise(net, jax.random.key(1), images()[0])
    return functional(net), theta, stats


def tiny_net(classes=10):
    """The same of a net with one BatchNorm."""
    net = TinyClassifier(classes)
    theta, stats = initialise(net, jax.random.key(1), images()[0])
    return functional(net), theta, stats


def drawn(module, x, seed=0):
    """theta, stats of a module with values from NumPy: nothing is compiled for them."""
    shapes = jax.eval_shape(lambda x: initialise(module, jax.random.key(0), x), x)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        fan_in = max(1, leaf.size // leaf.shape[-1]) if leaf.ndim > 1 else 10
        return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def keys(n=8, seed=3):
    """One key per image."""
    return jax.random.split(jax.random.key(seed), n)


def solve(solver, ell, x, y, theta=None, phi=None, phi_stats=None, **how):
    """What the solver returns for these images; no phi unless it is given."""
    how = {"eps": EPS, "keys": keys(len(x)), "train": False} | how
    return solver.solve(Problem(ell, x, y, **how), theta, phi or {}, phi_stats or {})


def seen_by(f, mode="eval", statistics=None):
    """f as a loss calls it, always in that mode and with those statistics."""

    def seeing(theta, stats, x, draw=0, **ask):
        return f(theta, statistics or {}, x, mode, **ask)[0], stats

    return seeing


def seen(f):
    """The same of a plain f(theta, x) -> logits."""
    return lambda theta, stats, x, draw=0, **ask: (f(theta, x, **ask), stats)


SGD = optax.sgd(0.1)
